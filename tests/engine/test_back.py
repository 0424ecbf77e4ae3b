"""Rows read from their last step to their first: the law, its gradients, and that nothing is reversed."""

import pytest
import torch

import nextstate as ns
from nextstate import run
from nextstate.cell import FunctionCell
from nextstate.engines.layout import Layout
from nextstate.lengths import reverse_valid
from nextstate.states import leaves, tree_map

LENGTHS = torch.tensor([3, 0, 7, 1, 7, 5])
CELLS = {
    "gru": lambda: ns.GRU(4, 5),
    "lstm": lambda: ns.LSTM(4, 5),
    "own": lambda: FunctionCell(
        lambda u, s: ((s + u).tanh() * u, (s + u).tanh()), lambda b, **kw: torch.zeros(b, 4, **kw)
    ),
}


def found(cell, back, operation):
    """Outputs, state, and the gradients of input, start and parameters, by one way or the other."""
    torch.manual_seed(1)
    us = torch.randn(7, 6, 4, requires_grad=True)
    s0 = tree_map(lambda s: torch.randn_like(s).requires_grad_(), cell.initial_state(6))
    if back:
        vs, s = getattr(run, f"{operation}_back")(cell, us, s0, lengths=LENGTHS)
    else:
        vs, s = getattr(ns, operation)(cell, reverse_valid(us, LENGTHS), s0, lengths=LENGTHS)
        vs = reverse_valid(vs, LENGTHS) if operation == "scan" else vs
    values = [vs, *leaves(s)]
    torch.manual_seed(2)
    loss = sum((x * torch.randn_like(x)).sum() for x in values)
    return [*values, *torch.autograd.grad(loss, [us, *leaves(s0), *cell.parameters()])]


@pytest.mark.parametrize("operation", ["scan", "fold"])
@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("name", CELLS)
def test_the_same_as_a_scan_of_the_reversed_sequence(name, engine, operation):
    torch.manual_seed(0)
    cell = CELLS[name]()
    with ns.engine(engine):
        for one, other in zip(found(cell, True, operation), found(cell, False, operation), strict=True):
            assert one.shape == other.shape
            assert torch.allclose(one, other, atol=1e-5)


def test_the_engine_reverses_nothing(monkeypatch):
    cell = ns.GRU(4, 5)
    wanted = found(cell, False, "scan")
    monkeypatch.setattr(run, "reverse_valid", None)
    for one, other in zip(found(cell, True, "scan"), wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_layout_that_runs_forward_is_seen(monkeypatch):
    cell, of = ns.GRU(4, 5), Layout.of
    wanted = found(cell, False, "scan")
    monkeypatch.setattr(
        Layout, "of", staticmethod(lambda steps, batch, lengths, reverse=False: of(steps, batch, lengths))
    )
    assert not torch.allclose(found(cell, True, "scan")[0], wanted[0], atol=1e-2)


@pytest.mark.parametrize("lengths", [None, torch.tensor([0, 0]), torch.tensor([2, 2])])
def test_full_and_empty_rows(lengths):
    cell, us = ns.GRU(4, 5), torch.randn(2, 2, 4)
    vs, s = run.scan_back(cell, us, lengths=lengths)
    wanted, end = ns.scan(cell, reverse_valid(us, lengths), lengths=lengths)
    assert torch.allclose(vs, reverse_valid(wanted, lengths), atol=1e-6)
    assert torch.allclose(s, end, atol=1e-6)
