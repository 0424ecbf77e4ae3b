"""A cell is its parameters, its mode and its attributes: copies agree, and every change is seen at once."""

from __future__ import annotations

import copy

import pytest
import torch

import nextstate as ns
from agreement import HERE, assert_agree, assert_close, on, outcome
from catalogue import BY_NAME, ROWS, Row, random_state, randomise_
from nextstate.states import tree_map


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_saved_state_makes_the_same_cell(row: Row) -> None:
    cell, us = row.cell(), row.us(4, 2)
    s0, other = random_state(cell, 2), row.cell()
    vs, _ = ns.scan(cell, us, s0)
    with pytest.raises(AssertionError):
        assert_close(ns.scan(other, us, s0)[0], vs, 1e-30)
    other.load_state_dict(cell.state_dict())
    assert_close(ns.scan(other, us, s0)[0], vs, 1e-30)


@pytest.mark.parametrize("name", ["GRU", "LSTM", "Stacked GRU LSTM", "Embedded GRU"])
def test_a_deep_copy_is_apart(name: str) -> None:
    cell, us = BY_NAME[name].cell(dtype=torch.float32), BY_NAME[name].us(4, 2, dtype=torch.float32)
    before, _ = ns.scan(cell, us)
    twin = copy.deepcopy(cell)
    randomise_(twin)
    assert_close(ns.scan(cell, us)[0], before, 1e-30)
    assert not torch.equal(ns.scan(twin, us)[0], before)


def seen(cell: ns.Cell, us: torch.Tensor) -> None:
    """What runs by default is what the cell is now."""
    assert_close(ns.scan(cell, us)[0], ns.scan(cell, us, engine="reference")[0])


def test_every_change_of_a_cell_is_seen() -> None:
    us = torch.randn(4, 2, 3)
    cell = BY_NAME["Elman"].cell(dtype=torch.float32)
    seen(cell, us)
    randomise_(cell)
    seen(cell, us)
    cell.activation = torch.relu
    seen(cell, us)
    cell.activation = torch.nn.Sigmoid()
    seen(cell, us)
    cell.weight_ih = torch.nn.Parameter(torch.randn(5, 3))
    seen(cell, us)
    cell.weight_hh = torch.nn.Parameter(torch.randn(5, 5, dtype=torch.float32))
    seen(cell, us)


def test_every_change_of_a_function_cell_is_seen() -> None:
    us, factor = torch.randn(4, 2, 3), torch.tensor(2.0)
    cell = ns.FunctionCell(lambda u, s: (s, s + u), lambda b, **kw: torch.zeros(b, 3, **kw))
    seen(cell, us)
    cell.step = lambda u, s: (s, factor * s + u)
    seen(cell, us)
    factor.fill_(3.0)
    seen(cell, us)


def test_modes_are_seen() -> None:
    cell = ns.Dropped(BY_NAME["GRU"].cell(3, 5, torch.float32), input=0.5, input_size=3)
    us = torch.randn(4, 2, 3)
    s0 = cell.train().initial_state(2)
    for mode in (True, False, True):
        cell.train(mode)
        assert_close(ns.scan(cell, us, s0)[0], ns.scan(cell, us, s0, engine="reference")[0])
    zoneout = ns.Zoneout(BY_NAME["GRU"].cell(3, 5, torch.float32), 0.2).eval()
    seen(zoneout, us)
    zoneout.rates = (0.9,)
    seen(zoneout, us)


class Twice(torch.nn.Module):
    """A wrapper that holds its cell under two names, as training wrappers do."""

    def __init__(self, cell: ns.Cell) -> None:
        super().__init__()
        self.inner, self.original = cell, cell

    def initial_state(self, batch_size: int, *, device=None, dtype=None):
        return self.inner.initial_state(batch_size, device=device, dtype=dtype)

    def forward(self, u, s):
        return self.inner(u, s)


def tied() -> ns.Cell:
    """Two cells with one recurrent matrix."""
    first, second = ns.GRU(3, 3), ns.GRU(3, 3)
    second.weight_hh = first.weight_hh
    return ns.Stacked(first, second)


def shared() -> ns.Cell:
    """One cell in two layers."""
    cell = ns.GRU(3, 3)
    return ns.Stacked(cell, cell)


@pytest.mark.parametrize(
    "make", [lambda: Twice(ns.GRU(3, 3)), tied, shared], ids=["wrapped", "tied", "shared"]
)
@pytest.mark.parametrize("engine", HERE)
def test_a_parameter_that_stands_in_two_places(make, engine: str) -> None:
    cell = randomise_(make())
    parameters = dict(cell.named_parameters())
    us, s0 = torch.randn(4, 2, 3), tree_map(torch.randn_like, cell.initial_state(2))
    for _ in range(2):
        assert_agree(outcome(on(engine), cell, us, s0), outcome(on("reference"), cell, us, s0))
        assert all(parameters[name] is p for name, p in cell.named_parameters()), "a run changed the cell"
