"""Any input either runs, with the shapes promised, or is refused by an InputError that restates it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import nextstate as ns
from catalogue import BY_NAME, VOCABULARY
from nextstate.states import leaves, tree_map

few = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

DTYPES = (torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.bool, torch.complex64)
dtypes = st.sampled_from(DTYPES)
devices = st.sampled_from(["cpu", "cpu", "cpu", "meta"])
sizes = st.integers(0, 4)


@st.composite
def tensors(draw) -> Tensor:
    shape = draw(st.lists(sizes, max_size=4))
    if draw(st.booleans()) and shape:
        shape[-1] = 3
    x = torch.randint(0, VOCABULARY, shape, device=draw(devices)).to(draw(dtypes))
    if x.is_floating_point() and x.numel() and draw(st.booleans()) and x.device.type == "cpu":
        x.view(-1)[0] = torch.nan
    return x


@st.composite
def trees(draw) -> object:
    """What somebody may pass for a sequence or a state by mistake."""
    kind = draw(st.sampled_from(["tensor", "tensor", "tensor", "pair", "list", "none", "number", "empty"]))
    if kind == "pair":
        return draw(tensors()), draw(tensors())
    return {
        "tensor": lambda: draw(tensors()),
        "list": lambda: [draw(tensors())],
        "none": lambda: None,
        "number": lambda: 1.0,
        "empty": lambda: (),
    }[kind]()


@st.composite
def lengths(draw) -> object:
    if draw(st.booleans()):
        return None
    values = [draw(st.integers(-1, 5)) for _ in range(draw(sizes))]
    dtype = draw(st.sampled_from([torch.int64, torch.int32, torch.uint8, torch.float32, torch.bool]))
    made = torch.tensor(values).to(dtype)
    return draw(st.sampled_from([made, made, made, made.to("meta"), values, made.reshape(-1, 1)]))


@cache
def cell_of(name: str, dtype: torch.dtype = torch.float32) -> ns.Cell:
    """One cell for all examples, so that an engine compiles it once for each kind of input."""
    return BY_NAME[name].cell(dtype=dtype)


@cache
def unfolded() -> ns.Cell:
    return BY_NAME["GRU"].cell(5, 5, torch.float32)


@cache
def both() -> ns.Bidirectional:
    return ns.Bidirectional(ns.GRU(3, 5), ns.GRU(3, 4))


@cache
def networks() -> tuple[ns.SequenceClassifier, ns.SequenceClassifier, ns.LanguageModel, ns.EncoderDecoder]:
    return (
        ns.SequenceClassifier(ns.GRU(4, 5), inputs=4, classes=2, vocabulary=5),
        ns.SequenceClassifier(ns.GRU(3, 5), inputs=3, classes=2),
        ns.LanguageModel(5, 4, ns.GRU(4, 5)),
        ns.EncoderDecoder(5, 5, 4),
    )


def runs_or_refuses(call: Callable[[], object]) -> object:
    """The result, or None after an InputError whose message names the operation and what was given."""
    try:
        return call()
    except ns.InputError as error:
        message = str(error)
    operation, complaint = message.split(": ", 1)
    assert operation, message
    assert len(complaint) > 15, message
    return None


@few
@given(
    st.sampled_from(["GRU", "LSTM", "Embedded GRU", "ResetWhen LSTM", "MinGRU"]), trees(), trees(), lengths()
)
@pytest.mark.parametrize("loop", ["scan", "fold"])
def test_loops(loop: str, name: str, us: object, s0: object, given_lengths: object) -> None:
    cell = cell_of(name)
    result = runs_or_refuses(lambda: getattr(ns, loop)(cell, us, s0, lengths=given_lengths))
    if result is not None:
        vs, sT = result
        steps, batch = leaves(us)[0].shape[:2]
        for v in leaves(vs):
            assert v.shape == ((steps,) if loop == "scan" else ()) + (batch, 5)
        assert [s.shape for s in leaves(sT)] == [s.shape for s in leaves(cell.initial_state(batch))]


@few
@given(st.data())
def test_a_right_input_runs(data) -> None:
    row = data.draw(st.sampled_from([BY_NAME[n] for n in ("GRU", "LSTM", "Embedded GRU", "WithState LSTM")]))
    steps, batch = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    values = data.draw(st.lists(st.integers(0, steps), min_size=batch, max_size=batch))
    kind = data.draw(st.sampled_from([torch.int64, torch.int32, torch.int16, torch.uint8]))
    ragged = data.draw(st.sampled_from([None, torch.tensor(values, dtype=kind)]))
    cell = cell_of(row.name, dtype)
    vs, sT = ns.scan(cell, row.us(steps, batch, dtype=dtype), lengths=ragged)
    assert all(v.shape[:2] == (steps, batch) and v.dtype == dtype for v in leaves(vs))
    assert all(v.isfinite().all() for v in (*leaves(vs), *leaves(sT)))


@few
@given(trees(), trees(), st.sampled_from([0, 2, -1, 1.5, None, "3"]))
def test_unfold(s0: object, u0: object, steps: object) -> None:
    cell = unfolded()
    result = runs_or_refuses(lambda: ns.unfold(cell, s0, u0, steps=steps, feed=lambda v: v))
    if result is not None:
        assert result[0].shape == (steps, *u0.shape)


@few
@given(trees(), trees(), lengths())
def test_bidirectional(us: object, s0: object, given_lengths: object) -> None:
    layer = both()
    result = runs_or_refuses(lambda: layer(us, s0, given_lengths))
    if result is not None:
        assert result[0].shape == (*us.shape[:2], 9)


@few
@given(tensors(), lengths(), tensors(), lengths())
def test_networks(x: Tensor, given_lengths: object, y: Tensor, other_lengths: object) -> None:
    ids, features, model, translator = networks()
    for call, shape in (
        (lambda: ids(x, given_lengths), lambda: (len(x), 2)),
        (lambda: features(x, given_lengths), lambda: (len(x), 2)),
        (lambda: model(x, None, given_lengths)[0], lambda: (*x.shape, 5)),
        (lambda: model.loss(x, y, None, given_lengths)[0], lambda: ()),
        (lambda: next(model.generate(x, given_lengths)), lambda: (len(x),)),
        (lambda: translator(x, y, given_lengths, other_lengths), lambda: (*y.shape, 5)),
        (lambda: translator.generate(x, given_lengths, steps=3), lambda: (len(x), 3)),
    ):
        result = runs_or_refuses(call)
        assert result is None or result.shape == shape()


CORRUPTIONS = {
    "unbatched": (lambda us, s0: (us[:, 0], None, None), r"\(3,\)"),
    "one feature too many": (lambda us, s0: (torch.cat([us, us[..., :1]], -1), s0, None), r"\(2, 4\)"),
    "another batch in the state": (lambda us, s0: (us, s0[:1], None), r"\(1, 5\).*2 rows"),
    "another size in the state": (lambda us, s0: (us, s0[:, :4], None), r"\(2, 4\)"),
    "another dtype": (lambda us, s0: (us.double(), s0.double(), None), "float64"),
    "another dtype in the state": (lambda us, s0: (us, s0.double(), None), "float64"),
    "another device in the state": (lambda us, s0: (us, s0.to("meta"), None), "meta"),
    "another device": (lambda us, s0: (us.to("meta"), s0.to("meta"), None), "meta"),
    "a pair for a state": (lambda us, s0: (us, (s0, s0), None), r"\(2, 5\).*\(2, 5\)"),
    "lengths too long": (lambda us, s0: (us, s0, torch.tensor([1, 5])), "from 1 to 5"),
    "lengths below zero": (lambda us, s0: (us, s0, torch.tensor([-1, 4])), "from -1 to 4"),
    "too many lengths": (lambda us, s0: (us, s0, torch.tensor([1, 2, 3])), r"\(3,\)"),
    "lengths as floats": (lambda us, s0: (us, s0, torch.tensor([1.0, 2.0])), "float32"),
    "lengths as a list": (lambda us, s0: (us, s0, [1, 2]), "list"),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("loop", [ns.scan, ns.fold], ids=["scan", "fold"])
def test_what_was_wrong_is_told(loop, name: str) -> None:
    corrupt, told = CORRUPTIONS[name]
    cell, us, s0 = ns.GRU(3, 5), torch.ones(4, 2, 3), torch.ones(2, 5)
    loop(cell, us, s0)
    us, s0, ragged = corrupt(us, s0)
    with pytest.raises(ns.InputError, match=told):
        loop(cell, us, s0, lengths=ragged)


US, IDS = torch.ones(4, 2, 3), torch.zeros(2, 3, dtype=torch.int64)
MISTAKES = {
    "scan: the cell is a GRU; expected a Cell": lambda: ns.scan(torch.nn.GRU(3, 5), US),
    "the cell is a RNNCell; expected nextstate.Elman, which takes its state_dict": lambda: ns.scan(
        torch.nn.RNNCell(3, 5), US
    ),
    "scan: the cell is the class GRU": lambda: ns.scan(ns.GRU, US),
    "fold: the cell is the class GRU": lambda: ns.fold(ns.GRU, US),
    "unfold: the cell is a function": lambda: ns.unfold(lambda u, s: (u, s), US[0], US[0], steps=1, feed=abs),
    "unfold: feed is None": lambda: ns.unfold(ns.GRU(3, 3), US[0], US[0], steps=1, feed=None),
    "explain: the cell is a int": lambda: ns.explain(3),
    "Elman: activation is 'relu'": lambda: ns.Elman(3, 4, activation="relu"),
    "FunctionCell: step is 3": lambda: ns.FunctionCell(3, 4),
    "FunctionCell: start is 4": lambda: ns.FunctionCell(abs, 4),
    "Embedded: ids run from 7 to 7; .* 0..4": lambda: ns.Embedded(ns.GRU(3, 4), 5, 3)(IDS[0] + 7, US[:3, 0]),
    "Bidirectional: the cells put out": lambda: ns.Bidirectional(ns.WithState(ns.GRU(3, 4)), ns.GRU(3, 4))(
        US
    ),
    "forget_bias_: value is 'x'": lambda: ns.init.forget_bias_(ns.GRU(3, 4), "x"),
    "identity_: scale is 'x'": lambda: ns.init.identity_(ns.Elman(3, 4), "x"),
    "layers are str": lambda: ns.SequenceClassifier("x", inputs=3, classes=2),
    "layers are GRU, GRU": lambda: ns.SequenceClassifier(
        [ns.GRU(3, 4), torch.nn.GRU(4, 4)], inputs=3, classes=2
    ),
    "pooling is 'max'": lambda: ns.SequenceClassifier(ns.GRU(3, 4), inputs=3, classes=2, pooling="max"),
    "Concatenation: .*, got 'max'": lambda: ns.networks.Concatenation("max"),
    "EncoderDecoder: cell is 3": lambda: ns.EncoderDecoder(3, 3, 4, cell=3),
    "EncoderDecoder: the cell puts out": lambda: ns.EncoderDecoder(
        3, 3, 4, cell=lambda *sizes: ns.WithState(ns.GRU(*sizes))
    ),
    "EncoderDecoder: the ids are list": lambda: networks()[3]([[1, 2]], IDS),
    "EncoderDecoder: the ids are NoneType": lambda: networks()[3](None, IDS),
    r"EncoderDecoder: the ids are \(\) int64": lambda: networks()[3](torch.tensor(1), IDS),
    "LanguageModel: .* targets NoneType differ": lambda: networks()[2].loss(IDS, None),
    "LanguageModel: ids list and targets": lambda: networks()[2].scores([[1]], IDS),
    "temperature is '1'": lambda: networks()[2].generate(IDS, temperature="1"),
    "top_k is 1.5": lambda: networks()[2].generate(IDS, top_k=1.5),
    "top_p is '1'": lambda: networks()[2].generate(IDS, top_p="1"),
}
"""What each says, by what it is said to."""


@pytest.mark.parametrize("told", MISTAKES)
def test_mistakes_are_told(told: str) -> None:
    with pytest.raises(ns.InputError, match=told):
        MISTAKES[told]()


@pytest.mark.parametrize("engine", ["auto", "cpu", "scan", "newton", "quasi-newton", "reference"])
def test_ids_outside_the_table_are_told_on_every_road(engine: str) -> None:
    cell = ns.Embedded((ns.MinGRU if engine == "scan" else ns.GRU)(3, 4), 5, 3)
    for shape in ((2, 2), (9, 50)):  # few ids are looked up in the table, many in products with it
        for bad in (7, -1):
            ids = torch.zeros(shape, dtype=torch.int64)
            ids[-1, -1] = bad
            for loop in (ns.scan, ns.fold):
                with pytest.raises(ns.InputError, match=rf"ids run from .*{bad}.*0\.\.4"):
                    loop(cell, ids, engine=engine)
                loop(cell, ids, lengths=torch.tensor([shape[0]] * (shape[1] - 1) + [shape[0] - 1]))


def test_unknown_engines_are_refused() -> None:
    with pytest.raises(ns.InputError, match="no engine is called 'gpu'; there are 'auto'"):
        ns.scan(ns.GRU(3, 5), torch.ones(4, 2, 3), engine="gpu")


def test_nan_stays_in_its_row() -> None:
    us = torch.randn(4, 3, 3)
    us[1, 2] = torch.nan
    vs, sT = ns.scan(BY_NAME["LSTM"].cell(dtype=torch.float32), us)
    assert vs[:, :2].isfinite().all()
    assert vs[0, 2].isfinite().all()
    assert vs[1:, 2].isnan().all()
    assert all(tree_map(lambda s: s[2].isnan().all(), sT))
