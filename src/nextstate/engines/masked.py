"""A cell that is told at every step whether its row still runs: ragged rows in a batch of full ones."""

from __future__ import annotations

import torch

from nextstate.cell import Cell
from nextstate.states import Tree, select, zeros_like


class Masked(Cell):
    """Masked : ((u, live), s) -> (v, s'), or (0, s) where `live` [B] is false.

    >>> from nextstate import FunctionCell
    >>> total = FunctionCell(lambda u, s: (s + u, s + u), lambda b, **kw: torch.zeros(b, 1, **kw))
    >>> v, s = Masked(total)((torch.ones(2, 1), torch.tensor([True, False])), torch.full((2, 1), 4.0))
    >>> v.flatten().tolist(), s.flatten().tolist()
    ([5.0, 0.0], [5.0, 4.0])
    """

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tree:
        return self.cell.initial_state(batch_size, device=device, dtype=dtype)

    def forward(self, u: Tree, s: Tree) -> tuple[Tree, Tree]:
        inner, live = u
        v, s_next = self.cell(inner, s)
        return select(live, v, zeros_like(v)), select(live, s_next, s)
