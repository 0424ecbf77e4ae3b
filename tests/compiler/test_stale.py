"""Calls without gradients keep what they prepared; they see every change of the cell and of the start."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import nextstate as ns
from agreement import assert_close

SIZES = pytest.mark.parametrize("hidden", [32, 20], ids=["short cut", "kernel"])


def swap(name: str) -> Callable[[ns.Cell], None]:
    def change(cell: ns.Cell) -> None:
        parameter = cell.get_parameter(name)
        parameter.data = torch.randn_like(parameter) * 0.3

    return change


def step(**options: bool) -> Callable[[ns.Cell], None]:
    def change(cell: ns.Cell) -> None:
        optimiser = torch.optim.AdamW(cell.parameters(), lr=0.1, **options)
        for parameter in cell.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimiser.step()

    return change


CHANGES = {
    "weight swapped": swap("weight_hh"),
    "bias swapped": swap("bias_ih"),
    "for each": step(foreach=True),
    "fused": step(fused=True),
}


@SIZES
@pytest.mark.parametrize("name", CHANGES)
@torch.no_grad()
def test_a_change_is_seen(name: str, hidden: int) -> None:
    cell, us = ns.GRU(16, hidden), torch.randn(3, 5, 16)
    for _ in range(3):
        before = ns.scan(cell, us, engine="cpu")
    for _ in range(2):
        CHANGES[name](cell)
        after = ns.scan(cell, us, engine="cpu")
        assert (after[0] - before[0]).abs().max() > 1e-2
        assert_close(after, ns.scan(cell, us, engine="reference"))
        before = after


@SIZES
def test_descent_by_hand_through_data_is_seen(hidden: int) -> None:
    """Torch counts no version for `.data`; the call with gradients before the step tells."""
    cell, us = ns.GRU(16, hidden), torch.randn(3, 5, 16)
    for _ in range(3):
        ns.scan(cell, us, engine="cpu")[0].square().sum().backward()
        for parameter in cell.parameters():
            parameter.data -= 0.1 * parameter.grad
        with torch.no_grad():
            assert_close(ns.scan(cell, us, engine="cpu"), ns.scan(cell, us, engine="reference"))


@SIZES
@pytest.mark.parametrize("rows", [1, 4, 6])
@torch.no_grad()
def test_a_start_of_other_rows_is_refused(rows: int, hidden: int) -> None:
    """Before and after calls that were right: the short cut must not read past the end of the start."""
    cell, us = ns.GRU(16, hidden), torch.randn(3, 5, 16)
    for _ in range(2):
        ns.scan(cell, us, engine="cpu")
        with pytest.raises(ns.InputError, match="5 rows"):
            ns.scan(cell, us, torch.randn(rows, hidden), engine="cpu")
