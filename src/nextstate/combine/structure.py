"""Cells put on top of each other, around each other, and with other starts and outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from nextstate.cell import Cell
from nextstate.checks import describe, refuse
from nextstate.combine.wrapper import Combined, Wrapper
from nextstate.states import Tree, leaves, rebuild, tree_map


class Stacked(Combined):
    """Cells on top of each other: the output of one is the input of the next, within one step.

    Stacked : Cell (u, s1) -> (x, s1'), Cell (x, s2) -> (v, s2')  =>  Cell (u, (s1, s2)) -> (v, (s1', s2'))

    Shapes: the state is the tuple of the cells' states, the output that of the last cell.

    Raises InputError without a cell, or if the state has not one part for each cell.

    >>> from nextstate import GRU, LSTM, scan
    >>> vs, (h, lstm) = scan(Stacked(GRU(3, 4), LSTM(4, 5)), torch.ones(7, 2, 3))
    >>> vs.shape, h.shape, lstm.c.shape
    (torch.Size([7, 2, 5]), torch.Size([2, 4]), torch.Size([2, 5]))
    """

    def __init__(self, *cells: Cell) -> None:
        super().__init__()
        if not cells or not all(isinstance(cell, Cell) for cell in cells):
            given = ", ".join(type(cell).__name__ for cell in cells) or "nothing"
            refuse("Stacked", f"expected one or more cells, got {given}")
        self.cells = nn.ModuleList(cells)

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> tuple[Tree, ...]:
        return tuple(cell.initial_state(batch_size, device=device, dtype=dtype) for cell in self._cells())

    def forward(self, u: Tree, s: tuple[Tree, ...]) -> tuple[Tree, tuple[Tree, ...]]:
        if not isinstance(s, tuple) or len(s) != len(self.cells):
            refuse("Stacked", f"the state is {describe(s)}; expected a tuple of {len(self.cells)} states")
        after = []
        for cell, before in zip(self._cells(), s, strict=True):
            u, s_next = cell(u, before)
            after.append(s_next)
        return u, tuple(after)

    def _cells(self) -> Iterator[Cell]:
        return cast("Iterator[Cell]", iter(self.cells))


class Residual(Wrapper):
    """A cell whose output is added to its input.

    Residual : Cell (u, s) -> (v, s')  =>  Cell (u, s) -> (u + v, s')

    Shapes: v must have the shape of u.

    Raises InputError if it has not.

    >>> from nextstate import GRU, scan
    >>> vs, s = scan(Stacked(Residual(GRU(4, 4)), Residual(GRU(4, 4))), torch.ones(7, 2, 4))
    >>> vs.shape
    torch.Size([7, 2, 4])
    """

    def forward(self, u: Tensor, s: Tree) -> tuple[Tensor, Tree]:
        v, s = self.cell(u, s)
        if not isinstance(u, Tensor) or not isinstance(v, Tensor) or u.shape != v.shape:
            refuse("Residual", f"the input is {describe(u)}, the output {describe(v)}; they must agree")
        return u + v, s


class WithState(Wrapper):
    """A cell that also puts out its state: the states of all steps, beside the outputs.

    WithState : Cell (u, s) -> (v, s')  =>  Cell (u, s) -> ((v, s'), s')

    >>> from nextstate import LSTM, scan
    >>> (vs, states), last = scan(WithState(LSTM(3, 4)), torch.ones(7, 2, 3))
    >>> states.c.shape, bool((states.c[-1] == last.c).all())
    (torch.Size([7, 2, 4]), True)
    """

    def forward(self, u: Tree, s: Tree) -> tuple[tuple[Tree, Tree], Tree]:
        v, s = self.cell(u, s)
        return (v, s), s


class LearnedStart(Wrapper):
    """A cell whose initial state is a parameter, the same for every row.

    LearnedStart : Cell => Cell with a trained s0

    Shapes: one parameter [...] in `start` for each tensor [B, ...] of the state.
    Start: the wrapped cell's own initial state, zeros as a rule.

    Raises InputError if a tensor of the state is not floating, or if the cell holds a `Dropped`, whose masks
    live in the state: learn the start inside, Dropped(LearnedStart(cell)).

    >>> from nextstate import GRU, scan
    >>> cell = LearnedStart(GRU(3, 4))
    >>> scan(cell, torch.ones(7, 2, 3))[0].sum().backward()
    >>> cell.start[0].grad.shape
    torch.Size([4])
    """

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        if any(isinstance(module, Combined) and module.draws_start for module in cell.modules()):
            refuse("LearnedStart", "the cell draws masks with its start; write Dropped(LearnedStart(cell))")
        state = cell.initial_state(1)
        if not all(leaf.is_floating_point() for leaf in leaves(state)):
            refuse("LearnedStart", f"the state is {describe(state)}; only floating tensors can be learned")
        self.start = nn.ParameterList(nn.Parameter(leaf[0].detach().clone()) for leaf in leaves(state))

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tree:
        like = self.cell.initial_state(batch_size, device=device, dtype=dtype)
        start = rebuild(like, list(self.start))
        return tree_map(lambda leaf, row: row.to(leaf).expand(leaf.shape), like, start)

    def forward(self, u: Tree, s: Tree) -> tuple[Tree, Tree]:
        return self.cell(u, s)
