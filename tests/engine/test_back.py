"""Rows read from their last step to their first: the law, its gradients, and that nothing is reversed."""

import pytest
import torch

import nextstate as ns
from nextstate import loops, run
from nextstate.cell import FunctionCell
from nextstate.engines.layout import Layout
from nextstate.lengths import reverse_valid
from nextstate.states import leaves, tree_map

LENGTHS = torch.tensor([3, 0, 7, 1, 7, 5])
CELLS = {
    "gru": lambda: ns.GRU(4, 5),
    "lstm": lambda: ns.LSTM(4, 5),
    "own": lambda: FunctionCell(
        lambda u, s: (((s + u).tanh() * u, s), (s + u).tanh()), lambda b, **kw: torch.zeros(b, 4, **kw)
    ),
}


def setting(cell):
    torch.manual_seed(1)
    us = torch.randn(7, 6, 4, requires_grad=True)
    return us, tree_map(lambda s: torch.randn_like(s).requires_grad_(), cell.initial_state(6))


def with_gradients(cell, us, s0, vs, s):
    """Outputs and state, and the gradients of input, start and parameters."""
    values = [*leaves(vs), *leaves(s)]
    torch.manual_seed(2)
    loss = sum((x * torch.randn_like(x)).sum() for x in values)
    return [*values, *torch.autograd.grad(loss, [us, *leaves(s0), *cell.parameters()])]


def found(cell, operation):
    us, s0 = setting(cell)
    return with_gradients(cell, us, s0, *getattr(run, f"{operation}_back")(cell, us, s0, lengths=LENGTHS))


def reversed_by_hand(cell, operation):
    us, s0 = setting(cell)
    vs, s = getattr(ns, operation)(cell, reverse_valid(us, LENGTHS), s0, lengths=LENGTHS)
    return with_gradients(cell, us, s0, reverse_valid(vs, LENGTHS) if operation == "scan" else vs, s)


@pytest.mark.parametrize("operation", ["scan", "fold"])
@pytest.mark.parametrize("name", CELLS)
def test_the_bits_of_the_reversed_sequence(name, operation):
    cell = CELLS[name]()
    for one, other in zip(found(cell, operation), reversed_by_hand(cell, operation), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("name", CELLS)
def test_every_row_is_read_from_its_own_end(name, engine):
    cell = CELLS[name]()
    us, s0 = setting(cell)
    with ns.engine(engine):
        vs, s = run.scan_back(cell, us, s0, lengths=LENGTHS)
        last, end = run.fold_back(cell, us, s0, lengths=LENGTHS)
    for b, n in enumerate(LENGTHS.tolist()):
        state = tree_map(lambda x: x[b : b + 1], s0)  # noqa: B023  (called at once)
        for t in reversed(range(n)):
            v, state = cell(us[t, b : b + 1], state)
            for one, other in zip(leaves(vs), leaves(v), strict=True):
                assert torch.allclose(one[t, b], other[0], atol=1e-5)
        for one, whole in zip(leaves(last), leaves(vs), strict=True):
            assert torch.allclose(one[b], whole[0, b] if n else torch.zeros_like(one[b]), atol=1e-6)
        for one, other, right in zip(leaves(s), leaves(end), leaves(state), strict=True):
            assert torch.allclose(one[b], right[0], atol=1e-5)
            assert torch.allclose(other[b], right[0], atol=1e-5)


def test_the_engine_reverses_nothing(monkeypatch):
    cell = ns.GRU(4, 5)
    wanted = reversed_by_hand(cell, "scan")
    monkeypatch.setattr(run, "reverse_valid", None)
    assert torch.equal(found(cell, "scan")[0], wanted[0])


def test_a_layout_that_runs_forward_is_seen(monkeypatch):
    cell, of = ns.GRU(4, 5), Layout.of
    wanted = reversed_by_hand(cell, "scan")
    monkeypatch.setattr(
        Layout, "of", staticmethod(lambda steps, batch, lengths, reverse=False: of(steps, batch, lengths))
    )
    assert not torch.allclose(found(cell, "scan")[0], wanted[0], atol=1e-2)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize(
    ("steps", "lengths"),
    [(2, None), (2, torch.tensor([0, 0])), (2, torch.tensor([2, 2])), (0, torch.tensor([0, 0]))],
)
def test_full_rows_empty_rows_and_no_steps(name, steps, lengths):
    cell, us = CELLS[name](), torch.randn(steps, 2, 4)
    reverse = reverse_valid(us, lengths)
    vs, s = run.scan_back(cell, us, lengths=lengths)
    wanted, end = loops.scan(cell, reverse, cell.initial_state(2), lengths)
    last, s_too = run.fold_back(cell, us, lengths=lengths)
    wanted_last, _ = loops.fold(cell, reverse, cell.initial_state(2), lengths)
    pairs = [(vs, reverse_valid(wanted, lengths)), (s, end), (last, wanted_last), (s_too, end)]
    for one, other in pairs:
        for x, y in zip(leaves(one), leaves(other), strict=True):
            assert x.shape == y.shape
            assert torch.allclose(x, y, atol=1e-6)


def test_a_fold_keeps_one_step():
    us = torch.randn(40, 3, 4)
    (v, _), _ = run.fold_back(CELLS["own"](), us, lengths=torch.tensor([40, 3, 0]))
    assert v.untyped_storage().nbytes() == v.numel() * v.element_size()


class Drawn(ns.GRU):
    def initial_state(self, batch_size, *, device=None, dtype=None):
        return torch.randn(batch_size, 5, device=device, dtype=dtype)


def test_a_start_is_drawn_once():
    layer, us = ns.Bidirectional(ns.GRU(4, 5), Drawn(4, 5)), torch.randn(7, 6, 4)
    ends = []
    for engine in ("auto", "reference"):
        torch.manual_seed(3)
        with ns.engine(engine):
            ends.append(layer(us, lengths=LENGTHS)[0])
    assert torch.allclose(*ends, atol=1e-5)


def test_ids_are_looked_up_backwards():
    cell = ns.Embedded(ns.GRU(4, 5), 5, 4)
    ids = torch.randint(5, (30, 6))
    lengths = torch.tensor([30, 0, 12, 1, 30, 29])
    vs, s = run.scan_back(cell, ids, lengths=lengths)
    wanted, end = loops.scan(cell, reverse_valid(ids, lengths), cell.initial_state(6), lengths)
    assert torch.allclose(vs, reverse_valid(wanted, lengths), atol=1e-5)
    assert torch.allclose(s, end, atol=1e-5)
    with pytest.raises(ns.InputError, match="ids run from"):
        run.scan_back(cell, ids + 5, lengths=lengths)


def test_second_derivatives():
    cell = ns.GRU(3, 2).double()
    lengths = torch.tensor([2, 1, 3])

    def read(us):
        return run.scan_back(cell, us, lengths=lengths)[0]

    us = torch.randn(3, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(read, us)


def test_a_sequence_without_steps_is_read_under_the_lock(monkeypatch):
    """It calls the cell itself, whose weights another thread may have exchanged to trace it."""
    engine, seen = run.ENGINES["cpu"], []
    plain = loops.scan
    monkeypatch.setattr(loops, "scan", lambda *given: seen.append(engine.lock._is_owned()) or plain(*given))
    ns.scan(ns.GRU(4, 5), torch.zeros(0, 2, 4), engine="cpu")
    assert seen == [True]
