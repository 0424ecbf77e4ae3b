"""Cells from cells: every wrapper here takes cells, is a cell, and combines with the others."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.cell import Cell
from nextstate.checks import describe, refuse
from nextstate.states import Tree


class Embedded(Cell):
    """A cell that reads ids: each is looked up in a trained table before the step.

    Embedded : Cell (x, s) -> (v, s')  =>  Cell (id, s) -> (v, s')

        (v, s') = cell(table[id], s)

    Shapes: ids [B] integers in 0..vocabulary-1, table [vocabulary, features]; a sequence of ids is [T, B].
    Start: table N(0, 1), as `torch.nn.Embedding`.

    Raises InputError if the ids are not integers [B].

    >>> from nextstate import GRU, scan
    >>> vs, s = scan(Embedded(GRU(4, 5), vocabulary=10, features=4), torch.tensor([[1, 9], [0, 3], [2, 2]]))
    >>> vs.shape
    torch.Size([3, 2, 5])
    """

    def __init__(self, cell: Cell, vocabulary: int, features: int) -> None:
        super().__init__()
        self.cell = cell
        self.table = nn.Parameter(torch.randn(vocabulary, features))

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tree:
        return self.cell.initial_state(batch_size, device=device, dtype=dtype)

    def forward(self, u: Tensor, s: Tree) -> tuple[Tree, Tree]:
        check_ids("Embedded", u)
        return self.cell(F.embedding(u, self.table), s)


def check_ids(operation: str, u: Tensor) -> None:
    if not isinstance(u, Tensor) or u.dim() != 1 or u.dtype not in (torch.int32, torch.int64):
        refuse(
            operation,
            f"the input of one step is {describe(u)}; expected int64 or int32 ids [B], "
            "so a sequence is [T, B]",
        )
