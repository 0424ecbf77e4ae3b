"""Cells whose input is more than a vector: ids, and a sign to start anew."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.cell import Cell
from nextstate.cells.parameters import check_sizes
from nextstate.checks import describe, refuse
from nextstate.combine.wrapper import Combined, Wrapper
from nextstate.states import Tree, leaves, select


class Embedded(Wrapper):
    """A cell that reads ids: each is looked up in a trained table before the step.

    Embedded : Cell (x, s) -> (v, s')  =>  Cell (id, s) -> (v, s')

        (v, s') = cell(table[id], s)

    Shapes: ids [B] integers in 0..vocabulary-1, table [vocabulary, features]; a sequence of ids is [T, B].
    Start: table N(0, 1), as `torch.nn.Embedding`.

    Raises InputError if the ids are not integers [B] or outside the table; on a GPU the latter is torch's own
    assertion, for looking at every id would make the host wait.

    >>> from nextstate import GRU, scan
    >>> vs, s = scan(Embedded(GRU(4, 5), vocabulary=10, features=4), torch.tensor([[1, 9], [0, 3], [2, 2]]))
    >>> vs.shape
    torch.Size([3, 2, 5])
    """

    def __init__(self, cell: Cell, vocabulary: int, features: int) -> None:
        super().__init__(cell)
        check_sizes("Embedded", vocabulary, features)
        self.table = nn.Parameter(torch.randn(vocabulary, features))

    def forward(self, u: Tensor, s: Tree) -> tuple[Tree, Tree]:
        return self.cell(look_up("Embedded", u, self.table), s)


class ResetWhen(Wrapper):
    """A cell that starts anew at the steps where it is told to: several sequences in one row.

    ResetWhen : Cell (u, s) -> (v, s')  =>  Cell ((u, reset), s) -> (v, s')

        (v, s') = cell(u, where(reset, initial_state, s))

    Shapes: reset [B] boolean, so in a sequence [T, B]. The reset comes before the step: the step at which it
    is set already runs from the cell's initial state, and no gradient passes it.

    Raises InputError if the input is not a pair of which the second is boolean [B], or if the cell holds a
    `WeightDropped`, whose masks are those of all rows: write WeightDropped(ResetWhen(cell)).

    >>> from nextstate import FunctionCell, scan
    >>> total = FunctionCell(lambda u, s: (s + u, s + u), lambda b, **kw: torch.zeros(b, 1, **kw))
    >>> reset = torch.tensor([[False], [False], [True], [False]])
    >>> scan(ResetWhen(total), (torch.ones(4, 1, 1), reset))[0].flatten().tolist()
    [1.0, 2.0, 1.0, 2.0]
    """

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        if any(isinstance(module, Combined) and module.draws_weights for module in self.modules()):
            refuse("ResetWhen", "the cell draws masks of its weights; write WeightDropped(ResetWhen(cell))")

    def forward(self, u: tuple[Tree, Tensor], s: Tree) -> tuple[Tree, Tree]:
        pair = isinstance(u, tuple) and len(u) == 2
        if not pair or not isinstance(u[1], Tensor) or u[1].dim() != 1 or u[1].dtype != torch.bool:
            refuse(
                "ResetWhen", f"the input of one step is {describe(u)}; expected (u, reset), reset [B] bool"
            )
        inner, reset = u
        parts = leaves(s)
        if parts:
            floating = next((part for part in parts if part.is_floating_point()), parts[0])
            rows = len(reset) if self._draws_start() else 1  # one row serves all unless each is drawn
            start = self.cell.initial_state(rows, device=floating.device, dtype=floating.dtype)
            s = select(reset, start, s)
        return self.cell(inner, s)

    def _draws_start(self) -> bool:
        return any(isinstance(module, Combined) and module.draws_start for module in self.cell.modules())


def look_up(operation: str, u: Tensor, table: Tensor) -> Tensor:
    """The rows of a table for the ids of one step.

    look_up : (ids [B], table [K, F]) -> [B, F]

    Raises InputError if the ids are not integers [B], or not below K where the look-up itself finds out.
    """
    if not isinstance(u, Tensor) or u.dim() != 1 or u.dtype not in (torch.int32, torch.int64):
        refuse(
            operation,
            f"the input of one step is {describe(u)}; expected int64 or int32 ids [B], "
            "so a sequence is [T, B]",
        )
    try:
        return F.embedding(u, table)
    except IndexError:
        low, high = int(u.min()), int(u.max())
        refuse(operation, f"ids run from {low} to {high}; each must lie in 0..{len(table) - 1}")
