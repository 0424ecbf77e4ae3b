"""Streams: the same bits however they are cut and whatever runs beside; states saved, forked, refused."""

from __future__ import annotations

import copy
import json
import pickle
import struct

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils import prune

import nextstate as ns
from agreement import assert_close
from catalogue import ROWS, Row, randomise_
from dropins.sessions import equal, made
from nextstate.checks import InputError
from nextstate.states import tree_map

STEPS = 12
DETERMINISTIC = tuple(row for row in ROWS if row.inputs != "resets")
rows = pytest.mark.parametrize("row", DETERMINISTIC, ids=lambda row: row.name)
wide = pytest.mark.parametrize(
    ("kind", "inputs", "hidden"),
    [(ns.GRU, 16, 32), (ns.GRU, 3, 5), (ns.LSTM, 16, 16), (ns.Elman, 32, 16), (ns.ProjectedLSTM, 16, 32)],
)


@wide
def test_steps_chunks_and_whole_have_the_same_bits(kind: type[ns.Cell], inputs: int, hidden: int) -> None:
    cell, us = made(kind, inputs, hidden), torch.randn(STEPS, inputs)
    with torch.no_grad():
        vs, last = ns.scan(cell, us[:, None])
    session = ns.Session(cell)
    for cut in ((), (1,), (4, 5), (3, 6, 9), tuple(range(1, STEPS))):
        session.reset()
        parts = []
        for first, end in zip((0, *cut), (*cut, STEPS), strict=True):
            chunk = us[first:end]
            parts.append(session.step(chunk[0])[None] if len(chunk) == 1 else session.feed(chunk))
        assert torch.equal(torch.cat(parts), vs[:, 0])
        assert equal(session.state, last)


@wide
def test_rows_side_by_side_have_the_bits_of_one_alone(kind: type[ns.Cell], inputs: int, hidden: int) -> None:
    cell, us = made(kind, inputs, hidden), torch.randn(STEPS, 37, inputs)
    together = ns.Session(cell, batch_size=37)
    found = torch.stack([together.step(u) for u in us])
    alone = ns.Session(cell)
    for row in (0, 17, 36):
        alone.reset()
        assert torch.equal(torch.stack([alone.step(u) for u in us[:, row]]), found[:, row])


OUTSIDE = (
    "MinGRU",
    "Decoder",
    "Embedded GRU",
    "Embedded Stacked Residual LearnedStart Dropped",
    "two lambdas without memory",
)
"""Cells with products beside the loop: torch computes them, and its bits depend on the number of rows. The
products of ids are such too, where a scan looks them up."""


@rows
def test_every_cell_streams(row: Row) -> None:
    cell = row.cell(dtype=torch.float32).eval()
    us = row.us(STEPS, 2, dtype=torch.float32)
    session = ns.Session(cell, batch_size=2)
    with torch.no_grad():
        vs, last = ns.scan(cell, us, session.state)
    steps = [session.step(tree_map(lambda x: x[t], us)) for t in range(STEPS)]  # noqa: B023  (called at once)
    found = tree_map(lambda *parts: torch.stack(parts), *steps)
    if row.name in OUTSIDE:
        assert_close((found, session.state), (vs, last))
        return
    assert equal(found, vs)
    assert equal(session.state, last)


class Conditioned(ns.Cell):
    """A GRU that reads a vector of its sequence with every input: a constant, handed on in the state."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.read = made(ns.GRU, 16, 32), torch.nn.Linear(3, 16)

    def initial_state(self, batch_size: int, *, device=None, dtype=None) -> tuple[Tensor, Tensor]:
        return torch.zeros(batch_size, 32, dtype=dtype), torch.zeros(batch_size, 3, dtype=dtype)

    def forward(self, u: Tensor, s: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        v, h = self.cell(u + self.read(s[1]).tanh(), s[0])
        return v, (h, s[1])


class Mirrored(ns.Cell):
    """A GRU that reads its input in another order: the number of rows stands in the views made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = randomise_(ns.GRU(4, 5))

    def initial_state(self, batch_size, *, device=None, dtype=None):
        return self.gru.initial_state(batch_size, device=device, dtype=dtype)

    def forward(self, u, h):
        return self.gru(u.unflatten(-1, (2, 2)).flip(1).flatten(1), h)


def test_the_number_of_rows_is_the_sessions_own() -> None:
    cell, us = Mirrored().eval(), torch.randn(STEPS, 3, 4)
    session = ns.Session(cell, batch_size=3)
    found = torch.stack([session.step(u) for u in us])
    assert session._stepper is not None
    assert_close(found, ns.scan(cell, us)[0].detach(), 1e-6)


def test_a_state_with_other_constants() -> None:
    """What is prepared for one constant is not used for another."""
    cell, us = Conditioned(), torch.randn(4, 16)
    session, seen = ns.Session(cell), []
    for context in (torch.zeros(1, 3), torch.randn(1, 3), torch.randn(1, 3)):
        session.state = before = torch.randn(1, 32), context
        with torch.no_grad():
            expected, (last, _) = ns.scan(cell, us[:, None], before)
        seen.append(torch.stack([session.step(u) for u in us]))
        assert_close(seen[-1], expected[:, 0], 1e-6)
        assert_close(session.state, (last, context), 1e-6)
        assert session._stepper is not None or not ns.nn.layers.COMPILED
        session.state = before
        assert torch.equal(torch.stack([session.step(u) for u in us]), seen[-1])


def test_another_state_gives_other_bits() -> None:
    """The comparison is able to fail."""
    cell, us = made(ns.GRU, 16, 32), torch.randn(STEPS, 16)
    session = ns.Session(cell)
    first = session.feed(us)
    assert not torch.equal(session.feed(us), first)
    session.reset()
    assert torch.equal(session.feed(us), first)


@pytest.mark.parametrize("wrap", [lambda cell: cell, lambda cell: ns.Stacked(cell, made(ns.LSTM, 5, 6))])
def test_ids_have_the_same_bits_in_steps_and_chunks(wrap) -> None:
    """However many: a scan over many looks their products up, which rounds otherwise."""
    cell = ns.Embedded(wrap(made(ns.GRU, 3, 5)), vocabulary=7, features=3)
    us = torch.randint(0, 7, (60,))
    session, streams = ns.Session(cell), ns.Streams(cell)
    steps = torch.stack([session.step(u) for u in us])
    session.reset()
    assert torch.equal(session.feed(us), steps)
    assert torch.equal(streams.feed(streams.open(9), us[:, None].expand(60, 9).contiguous())[:, 4], steps)
    with pytest.raises(IndexError):
        session.step(torch.tensor(7))
    assert torch.equal(
        session.state[0] if isinstance(session.state, tuple) else session.state, last(cell, us)
    )


def last(cell: ns.Cell, us: Tensor) -> Tensor:
    session = ns.Session(cell)
    session.feed(us)
    return session.state[0] if isinstance(session.state, tuple) else session.state


SLOW = ("two lambdas without memory",)


@rows
def test_the_fast_road_is_taken(row: Row) -> None:
    """A step is prepared once, whatever the cell: hundreds of microseconds otherwise."""
    if not ns.nn.layers.COMPILED:
        pytest.skip("the compiled extension is not installed")
    session = ns.Session(row.cell(dtype=torch.float32), batch_size=2)
    session.step(tree_map(lambda x: x[0], row.us(1, 2, dtype=torch.float32)))
    assert (session._stepper is None) == (row.name in SLOW)


@wide
def test_peek_fork_and_outputs_that_stay(kind: type[ns.Cell], inputs: int, hidden: int) -> None:
    cell, us = made(kind, inputs, hidden), torch.randn(STEPS, inputs)
    session = ns.Session(cell)
    session.feed(us[:3])
    for _ in range(2):  # before and after the fast road is laid
        before = session.state
        seen = session.peek(us[3])
        assert equal(session.state, before)
        twin = session.fork()
        first = session.step(us[3])
        kept = first.clone()
        session.step(us[4])
        assert torch.equal(first, seen)
        assert torch.equal(first, kept), "an output changed after it was handed out"
        assert torch.equal(twin.step(us[3]), seen)
        session.state = before


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda session: pickle.loads(pickle.dumps(session))])
def test_a_copied_or_pickled_session_goes_on(copied) -> None:
    session, us = ns.Session(made(ns.GRU, 16, 32)), torch.randn(4, 16)
    session.step(us[0])
    twin = copied(session)
    expected = torch.stack([session.step(u) for u in us[1:]])
    assert torch.equal(torch.stack([twin.step(u) for u in us[1:]]), expected)


REMADE = {
    "weight_norm": nn.utils.weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "pruning": lambda cell, name: prune.l1_unstructured(cell, name, 0.5),
    "parametrised weight_norm": nn.utils.parametrizations.weight_norm,
    "parametrised spectral_norm": nn.utils.parametrizations.spectral_norm,
}


@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is deprecated", "ignore:GRU runs on the ref")
@pytest.mark.parametrize("how", REMADE)
def test_weights_that_are_computed_in_every_call(how: str) -> None:
    """Also where a step of training came after the last call, which left the old weights in place."""
    cell, us = made(ns.GRU, 8, 6), torch.randn(5, 8)
    REMADE[how](cell, "weight_ih")
    before = ns.Session(cell).feed(us)
    ns.scan(cell, us[:, None])[0].sum().backward()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.sub_(0.5 * torch.randn_like(parameter))
    session, streams = ns.Session(cell), ns.Streams(cell)
    (stream,) = streams.open(1)
    steps = torch.stack([session.step(u) for u in us])
    with torch.no_grad():
        expected = ns.scan(cell.eval(), us[:, None])[0][:, 0]
    assert (before - expected).abs().max() > 0.01
    assert torch.equal(steps, ns.Session(cell).feed(us))
    assert (steps - expected).abs().max() < 1e-6
    assert (streams.feed([stream], us[:, None])[:, 0] - expected).abs().max() < 1e-6


def test_the_cell_is_copied_in_eval_mode() -> None:
    cell = ns.Dropped(made(ns.GRU, 16, 16), state=0.5).train()
    us = torch.randn(3, 16)
    session = ns.Session(cell)
    expected = ns.Session(copy.deepcopy(cell).eval()).feed(us)
    with torch.no_grad():
        cell.cell.weight_hh.zero_()
    assert torch.equal(session.feed(us), expected)
    assert cell.training
    assert not session.step(us[0]).requires_grad


@wide
def test_saved_bytes_bring_the_state_back(kind: type[ns.Cell], inputs: int, hidden: int) -> None:
    cell, us = made(kind, inputs, hidden), torch.randn(STEPS, inputs)
    session = ns.Session(cell)
    for u in us[:5]:
        session.step(u)
    data = session.save()
    expected = session.feed(us[5:])
    other = ns.Session(cell)
    other.restore(data)
    assert torch.equal(other.feed(us[5:]), expected)


def without(data: bytes, **changes: str) -> bytes:
    """Saved bytes with another header over the same tensors."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"].update(changes)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


HEADER = {"format": "nextstate state", "version": "1", "cell": "GRU"}
DAMAGE = {
    "nothing": (lambda data: b"", "0 bytes that are no saved state"),
    "text": (lambda data: b"weights of a GRU", "no saved state"),
    "cut": (lambda data: data[:-5], "no saved state, or not all of it"),
    "a bit": (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "digest differs"),
    "other version": (lambda data: without(data, version="9"), "layout version '9'; this is version '1'"),
    "other format": (lambda data: save({"h": torch.zeros(2)}), "their format is None"),
    "other cell": (lambda data: ns.Session(ns.LSTM(16, 32)).save(), "of a LSTM, this is a GRU"),
    "other size": (lambda data: ns.Session(ns.GRU(16, 48)).save(), r"\(1, 48\) .*; this cell has \(1, 32\)"),
    "other rows": (lambda data: ns.Session(ns.GRU(16, 32), batch_size=2).save(), r"\(2, 32\)"),
    "other names": (
        lambda data: save({"h": torch.zeros(1, 32)}, HEADER),
        "the state is None; this cell has",
    ),
    "no bytes": (lambda data: "data", "expected bytes, got a str"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_and_foreign_bytes_are_refused_and_change_nothing(damage: str) -> None:
    session = ns.Session(made(ns.GRU, 16, 32))
    session.feed(torch.randn(3, 16))
    before = session.state
    spoil, words = DAMAGE[damage]
    with pytest.raises(InputError, match=words):
        session.restore(spoil(session.save()))
    assert equal(session.state, before)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: s.step(torch.randn(7)), "expected"),
        (lambda s: s.step(torch.randn(2, 16)), "expected"),
        (lambda s: s.feed(torch.randn(16)), "expected"),
        (lambda s: s.step([1.0]), "expected a tensor"),
        (lambda s: s.step(torch.randn(16).double()), "float64"),
        (lambda s: s.step(torch.randn(16, device="meta")), "on meta"),
        (lambda s: setattr(s, "state", torch.zeros(1, 5)), "state"),
    ],
)
@pytest.mark.parametrize("warm", [False, True])
def test_wrong_input_is_refused_and_changes_nothing(call, words: str, warm: bool) -> None:
    session = ns.Session(made(ns.GRU, 16, 32))
    if warm:
        session.step(torch.randn(16))
    before = session.state
    with pytest.raises(InputError, match=words):
        call(session)
    assert equal(session.state, before)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((torch.nn.GRU(3, 4),), {}),
        ((ns.GRU(3, 4),), {"batch_size": 0}),
        ((ns.GRU(3, 4),), {"batch_size": True}),
    ],
)
def test_a_session_needs_a_cell_and_rows(arguments, options) -> None:
    with pytest.raises(InputError):
        ns.Session(*arguments, **options)


def test_inputs_that_are_not_contiguous_or_need_gradients() -> None:
    session, us = ns.Session(made(ns.GRU, 16, 32)), torch.randn(16, 5)
    expected = ns.Session(made_like(session)).feed(us.T.contiguous())
    found = torch.stack([session.step(us[:, t].requires_grad_()) for t in range(5)])
    assert torch.equal(found, expected)


def made_like(session: ns.Session) -> ns.Cell:
    return session._cell


def test_the_state_of_other_cells_in_the_same_wrapper_is_refused() -> None:
    """Where shapes alone cannot tell."""
    source = ns.Session(ns.Stacked(ns.GRU(16, 32), ns.Residual(ns.GRU(32, 32))))
    session = ns.Session(ns.Stacked(ns.GRU(16, 32), ns.Residual(ns.Elman(32, 32))))
    words = "of a Stacked of GRU, Residual, GRU, this is a Stacked of GRU, Residual, Elman"
    with pytest.raises(InputError, match=words):
        session.restore(source.save())
    small = ns.Session(ns.Stacked(ns.Quantised(ns.GRU(16, 32), "int8"), ns.Residual(ns.GRU(32, 32))))
    small.restore(source.save())


def test_a_state_given_as_a_plain_tuple_gets_its_names_back() -> None:
    for warm in (False, True):
        session = ns.Session(made(ns.LSTM, 16, 32))
        if warm:
            session.step(torch.randn(16))
        h, c = torch.randn(2, 1, 32)
        session.state = (h, c)
        assert torch.equal(session.state.c, c)
