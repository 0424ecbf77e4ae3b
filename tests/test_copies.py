"""A cell is its parameters, its mode and its attributes: copies agree, and every change is seen at once."""

from __future__ import annotations

import copy

import pytest
import torch

import nextstate as ns
from agreement import assert_close
from catalogue import BY_NAME, ROWS, Row, random_state, randomise_


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
