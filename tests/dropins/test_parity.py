"""The drop-ins are torch.nn's layers: parameters, results, gradients, refusals, copies."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import nextstate as ns
from agreement import assert_agree
from dropins.pairs import (
    BATCH,
    CELLS,
    HIDDEN,
    INPUT,
    LAYERS,
    LENGTHS,
    STEPS,
    dense,
    outcome,
    packed,
    pair,
    starts,
    tensors,
)
from nextstate import init

layers = pytest.mark.parametrize("name", LAYERS)
cells = pytest.mark.parametrize("name", CELLS)
everything = pytest.mark.parametrize(
    ("kind", "options"), [*LAYERS.values(), *CELLS.values()], ids=[*LAYERS, *CELLS]
)
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
TOLERANCE = 3e-5


@everything
def test_same_parameters_from_the_same_seed(kind: str, options: dict[str, Any]) -> None:
    made = []
    for module in (nn, ns.nn):
        torch.manual_seed(3)
        made.append(getattr(module, kind)(INPUT, HIDDEN, **options))
    theirs, mine = made
    assert list(theirs.state_dict()) == list(mine.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), mine.parameters(), strict=True))
    assert repr(theirs) == repr(mine)
    assert isinstance(mine, getattr(nn, kind))
    theirs.load_state_dict(mine.state_dict())


@layers
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("form", ["dense", "packed", "packed sorted", "one sequence"])
def test_same_results_and_gradients(name: str, form: str, given: bool) -> None:
    theirs, mine = pair(*LAYERS[name])
    us = dense(theirs)
    shape = {"packed": packed(theirs), "packed sorted": packed(theirs, True)}.get(form, lambda u: u)
    if form == "one sequence":
        us = us[0] if theirs.batch_first else us[:, 0]
    hx = starts(theirs, None if form == "one sequence" else BATCH) if given else None
    assert_agree(outcome(mine, us, hx, shape), outcome(theirs, us, hx, shape), TOLERANCE)


@layers
def test_in_eval_mode_and_without_gradients(name: str) -> None:
    theirs, mine = pair(*LAYERS[name])
    us = dense(theirs)
    theirs.eval(), mine.eval()
    assert_agree(outcome(mine, us), outcome(theirs, us), TOLERANCE)
    with torch.inference_mode():
        for ours, other in zip(tensors(mine(us)), tensors(theirs(us)), strict=True):
            assert (ours - other).abs().max() < TOLERANCE


@cells
@pytest.mark.parametrize("grad", [True, False])
def test_cells_agree(name: str, grad: bool) -> None:
    theirs, mine = pair(*CELLS[name])
    for us in (torch.randn(BATCH, INPUT), torch.randn(INPUT)):
        h = torch.randn(*us.shape[:-1], HIDDEN)
        for hx in (None, (h, h.sin()) if isinstance(theirs, nn.LSTMCell) else h):
            if grad:
                assert_agree(outcome(mine, us, hx), outcome(theirs, us, hx), TOLERANCE)
                continue
            with torch.no_grad():
                for ours, other in zip(tensors(mine(us, hx)), tensors(theirs(us, hx)), strict=True):
                    assert ours.shape == other.shape
                    assert (ours - other).abs().max() < TOLERANCE


@pytest.mark.parametrize("fault", ["gates swapped", "bias dropped", "mask off by one", "directions swapped"])
def test_a_broken_layer_is_rejected(fault: str) -> None:
    theirs, mine = pair(*LAYERS["GRU, two layers, both directions, dropout"])
    mine.eval(), theirs.eval()
    us, shape = dense(theirs), packed(theirs)
    with torch.no_grad():
        if fault == "gates swapped":
            mine.weight_hh_l0.copy_(mine.weight_hh_l0.roll(HIDDEN, 0))
        if fault == "bias dropped":
            mine.bias_hh_l1.zero_()
        if fault == "directions swapped":
            mine.weight_hh_l0.copy_(theirs.weight_hh_l0_reverse)
    late = LENGTHS - (LENGTHS == 4).long() if fault == "mask off by one" else LENGTHS

    def broken(us: torch.Tensor) -> PackedSequence:
        return pack_padded_sequence(us, late, enforce_sorted=False)

    with pytest.raises(AssertionError):
        assert_agree(outcome(mine, us, None, broken), outcome(theirs, us, None, shape), TOLERANCE)


WRONG_LAYER_INPUT = {
    "features": lambda layer: (torch.randn(STEPS, BATCH, INPUT + 1),),
    "four dimensions": lambda layer: (torch.randn(1, STEPS, BATCH, INPUT),),
    "one dimension": lambda layer: (torch.randn(INPUT),),
    "dtype": lambda layer: (torch.randn(STEPS, BATCH, INPUT).double(),),
    "no steps": lambda layer: (torch.randn(0, BATCH, INPUT),),
    "rows of hx": lambda layer: (torch.randn(STEPS, BATCH, INPUT), starts(layer, BATCH + 1)),
    "hx without batch": lambda layer: (torch.randn(STEPS, BATCH, INPUT), starts(layer, None)),
    "hx with a batch": lambda layer: (torch.randn(STEPS, INPUT), starts(layer, 1)),
    "width of hx": lambda layer: (
        torch.randn(STEPS, BATCH, INPUT),
        tuple(h[..., 1:] for h in tensors(starts(layer)))
        if isinstance(layer, nn.LSTM)
        else starts(layer)[..., 1:],
    ),
}


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("wrong", WRONG_LAYER_INPUT)
def test_layers_refuse_in_the_same_words(kind: str, wrong: str) -> None:
    theirs, mine = pair(kind, {})
    arguments = WRONG_LAYER_INPUT[wrong](theirs)
    assert refusal(mine, *arguments) == refusal(theirs, *arguments)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_packed_rows_of_another_width_are_refused(kind: str) -> None:
    """In torch's words, also where torch 2.13 does not look (an LSTM on oneDNN reads past the rows)."""
    layer = getattr(ns.nn, kind)(INPUT, HIDDEN)
    rows = pack_padded_sequence(torch.randn(STEPS, BATCH, INPUT + 1), torch.full((BATCH,), STEPS))
    with pytest.raises(RuntimeError, match=r"equal to input_size\. Expected 3, got 4"):
        layer(rows)
    good = pack_padded_sequence(torch.randn(STEPS, BATCH, INPUT), torch.full((BATCH,), STEPS))
    with pytest.raises(RuntimeError, match="Expected hidden"):
        layer(good, starts(layer, BATCH - 1))


@pytest.mark.parametrize("kind", ["RNNCell", "GRUCell", "LSTMCell"])
@pytest.mark.parametrize(
    ("us", "rows", "width"),
    [((BATCH, INPUT + 1), BATCH, HIDDEN), ((1, BATCH, INPUT), BATCH, HIDDEN), ((BATCH, INPUT), 1, HIDDEN),
     ((BATCH, INPUT), BATCH, HIDDEN + 1)],
)  # fmt: skip
def test_cells_refuse_in_the_same_words(kind: str, us: tuple[int, ...], rows: int, width: int) -> None:
    theirs, mine = pair(kind, {})
    h = torch.randn(rows, width)
    arguments = torch.randn(us), (h, h) if kind == "LSTMCell" else h
    with torch.no_grad():
        assert refusal(mine, *arguments) == refusal(theirs, *arguments)


WRONG_OPTIONS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((0, 5), {}), ((3, 0), {}), ((3.0, 5), {}), ((3, 5), {"num_layers": 0}), ((3, 5), {"dropout": 1.5}),
    ((3, 5), {"proj_size": 5}), ((3, 5), {"bias": 1}), ((3, 5), {"batch_first": 1}), ((3, 5), {"depth": 2}),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize(("arguments", "options"), WRONG_OPTIONS)
def test_constructors_refuse_in_the_same_words(kind: str, arguments: Any, options: Any) -> None:
    theirs, mine = (refusal(getattr(m, kind), *arguments, **options) for m in (nn, ns.nn))
    assert theirs == mine


def refusal(call: Any, *arguments: Any, **options: Any) -> tuple[type, str]:
    with pytest.raises(Exception) as caught:
        call(*arguments, **options)
    return caught.type, str(caught.value)


@everything
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save", "weights only"])
def test_copies_agree_and_are_their_own(kind: str, options: dict[str, Any], way: str) -> None:
    _, layer = pair(kind, options)
    layer.eval()
    us = torch.randn(BATCH, INPUT) if kind.endswith("Cell") else torch.randn(STEPS, BATCH, INPUT)
    with torch.no_grad():
        expected = tensors(layer(us))
        twin = copied(layer, way, options)
        assert all(torch.equal(a, b) for a, b in zip(tensors(twin(us)), expected, strict=True))
        next(twin.parameters()).zero_()
        assert all(torch.equal(a, b) for a, b in zip(tensors(layer(us)), expected, strict=True))
        assert not torch.equal(tensors(twin(us))[0], expected[0])


def copied(layer: nn.Module, way: str, options: dict[str, Any]) -> nn.Module:
    if way == "deepcopy":
        return copy.deepcopy(layer)
    if way == "pickle":
        return pickle.loads(pickle.dumps(layer))
    file = io.BytesIO()
    torch.save(layer if way == "torch.save" else layer.state_dict(), file)
    file.seek(0)
    if way == "torch.save":
        return torch.load(file, weights_only=False)
    twin = type(layer)(INPUT, HIDDEN, **options).eval()
    twin.load_state_dict(torch.load(file, weights_only=True))
    return twin


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_normalised_and_spectral_weights(kind: str) -> None:
    """A parametrisation is computed anew in every call, and its gradient reaches the originals."""
    theirs, mine = pair(kind, {"num_layers": 2})
    for layer in (theirs, mine):
        torch.manual_seed(5)
        nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
        nn.utils.parametrizations.spectral_norm(layer, "weight_ih_l1")
    us = dense(theirs)
    for _ in range(2):
        assert_agree(outcome(mine, us), outcome(theirs, us), TOLERANCE)
        with torch.no_grad():
            for layer in (theirs, mine):
                layer.parametrizations.weight_hh_l0.original0.mul_(1.5)


@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is deprecated")
def test_weight_norm_by_hook() -> None:
    theirs, mine = pair("LSTM", {})
    for layer in (theirs, mine):
        nn.utils.weight_norm(layer, "weight_hh_l0")
    us = dense(theirs)
    assert_agree(outcome(mine, us), outcome(theirs, us), TOLERANCE)


@pytest.mark.parametrize("kind", ["RNN", "RNNCell"])
def test_the_nonlinearity_may_change_after_construction(kind: str) -> None:
    """torch reads it at every call: a layer's from `mode`, a cell's from `nonlinearity`."""
    theirs, mine = pair(kind, {})
    us = torch.randn(BATCH, INPUT) if kind == "RNNCell" else torch.randn(STEPS, BATCH, INPUT)
    with torch.no_grad():
        for name, value in (
            ("", ""),
            ("nonlinearity", "relu"),
            ("mode", "RNN_RELU"),
            ("nonlinearity", "tanh"),
        ):
            if name:
                setattr(theirs, name, value), setattr(mine, name, value)
            assert_agree(dict(enumerate(tensors(mine(us)))), dict(enumerate(tensors(theirs(us)))), TOLERANCE)
        name = "nonlinearity" if kind == "RNNCell" else "mode"
        setattr(theirs, name, "garbage"), setattr(mine, name, "garbage")
        assert refusal(mine, us) == refusal(theirs, us)
    with pytest.raises(ns.InputError, match="the nonlinearity is 'garbage'; expected tanh or relu"):
        mine.cell() if kind == "RNNCell" else mine.cells()


def test_dropout_may_change_after_construction() -> None:
    theirs, mine = pair("GRU", {"num_layers": 2})
    us = dense(theirs)
    plain = outcome(mine, us)
    theirs.dropout = mine.dropout = 0.5
    assert_agree(outcome(mine, us), outcome(theirs, us), TOLERANCE)
    with pytest.raises(AssertionError):
        assert_agree(outcome(mine, us), plain, TOLERANCE)


def test_parameters_may_be_replaced_and_shared() -> None:
    theirs, mine = pair("GRU", {"num_layers": 2})
    us = dense(theirs)
    outcome(mine, us)
    for layer in (theirs, mine):
        layer.weight_hh_l1 = layer.weight_hh_l0
    assert_agree(outcome(mine, us), outcome(theirs, us), TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_torchs_own(dtype: torch.dtype) -> None:
    theirs, mine = pair("LSTM", {"bidirectional": True}, dtype)
    us = dense(theirs, dtype)
    assert all(torch.equal(a, b) for a, b in zip(tensors(mine(us)), tensors(theirs(us)), strict=True))


def test_autocast_gives_what_torch_gives() -> None:
    theirs, mine = pair("GRU", {})
    us = dense(theirs)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(tensors(mine(us)), tensors(theirs(us)), strict=True))


def test_the_engine_is_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agreement would mean nothing if torch's own code had run on both sides."""
    _, mine = pair("GRU", {})
    monkeypatch.setattr(nn.GRU, "forward", None)
    if not ns.nn.layers.COMPILED:
        pytest.skip("the compiled extension is not installed: torch's own code runs")
    mine(dense(mine))
    mine(packed(mine)(dense(mine)))
    with pytest.raises(TypeError):
        mine(dense(mine).double())


def test_cells_of_a_layer_are_its_parameters() -> None:
    """What is done to them is done to the layer: initial values, wrappers, sessions."""
    layer = ns.nn.LSTM(INPUT, HIDDEN, num_layers=2)
    for cell in layer.cells():
        init.forget_bias_(cell, 2.0)
    assert layer.bias_ih_l1[HIDDEN : 2 * HIDDEN].tolist() == [2.0] * HIDDEN
    us = dense(layer)
    (vs, states), _ = ns.scan(ns.WithState(ns.Stacked(*layer.cells())), us)
    output, (_, c) = layer(us)
    assert (vs - output).abs().max() < 1e-6
    assert (states[1].c[-1] - c[1]).abs().max() < 1e-6
    vs.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN", "GRUCell"])
def test_a_view_is_a_cell_as_constructed(kind: str) -> None:
    module = getattr(ns.nn, kind)(INPUT, HIDDEN)
    (view,) = (module.cell(),) if kind.endswith("Cell") else module.cells()
    made = type(view)(INPUT, HIDDEN)
    assert view.__dict__.keys() == made.__dict__.keys()
    assert view._parameters.keys() == made._parameters.keys()


@pytest.mark.filterwarnings("ignore")
def test_inputs_of_torchs_own_tests() -> None:
    """Every constructor call and input that PyTorch's module tests hold for recurrent modules."""
    pytest.importorskip("expecttest", reason="torch.testing._internal needs the package expecttest")
    from torch.testing._internal.common_modules import module_db

    count = 0
    for info in module_db:
        kind = info.module_cls.__name__
        if info.module_cls is not getattr(nn, kind, None) or not hasattr(ns.nn, kind):
            continue
        given = info.module_inputs_func(
            info, device="cpu", dtype=torch.float32, requires_grad=True, training=True
        )
        for case in given:
            if case.forward_input is None:
                continue
            modules = [
                getattr(place, kind)(*case.constructor_input.args, **case.constructor_input.kwargs)
                for place in (nn, ns.nn)
            ]
            modules[1].load_state_dict(modules[0].state_dict())
            for training in (True, False):
                results = []
                for module in modules:
                    module.train(training)
                    outs = tensors(module(*case.forward_input.args, **case.forward_input.kwargs))
                    total = sum(x.sin().sum() for x in outs if x.is_floating_point())
                    results.append([*outs, *torch.autograd.grad(total, list(module.parameters()))])
                torch.testing.assert_close(*results, atol=5e-5, rtol=1e-5)
                count += 1
    assert count > 40


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_starts_of_another_kind_are_refused_in_the_same_words(kind: str) -> None:
    theirs, mine = pair(kind, {})
    h = torch.randn(1, BATCH, HIDDEN)
    for hx in ("h", (h,), [h], (h, "c")):
        us = torch.randn(STEPS, BATCH, INPUT)
        assert refusal(mine, us, hx) == refusal(theirs, us, hx)


@pytest.mark.parametrize("kind", ["RNNCell", "GRUCell", "LSTMCell"])
def test_cells_refuse_starts_of_another_kind_in_the_same_words(kind: str) -> None:
    theirs, mine = pair(kind, {})
    us, h = torch.randn(BATCH, INPUT), torch.randn(BATCH, HIDDEN)
    with torch.no_grad():
        for hx in ("h", (h,), [h, "c"], h if kind == "LSTMCell" else (h, h)):
            assert refusal(mine, us, hx) == refusal(theirs, us, hx)
