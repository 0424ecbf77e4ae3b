"""What every wrapper around one cell shares."""

from __future__ import annotations

import torch

from nextstate.cell import Cell
from nextstate.checks import refuse
from nextstate.states import Tree


class Combined(Cell):
    """A cell made of other cells."""

    draws_start = False
    """Whether the start state is drawn at random, as dropout masks are."""

    draws_weights = False
    """Whether `initial_state` draws masks of weights too, which cannot change within a sequence."""


class Wrapper(Combined):
    """A cell around one other cell, with that cell's start state unless it says otherwise.

    Wrapper : Cell => Cell
    """

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        if not isinstance(cell, Cell):
            refuse(type(self).__name__, f"expected a Cell to wrap, got {type(cell).__name__}")
        self.cell = cell

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tree:
        return self.cell.initial_state(batch_size, device=device, dtype=dtype)


def check_rate(operation: str, name: str, rate: float) -> None:
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
        refuse(operation, f"{name} is {rate!r}; a rate lies in 0 <= rate < 1")
