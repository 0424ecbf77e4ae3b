"""Stacks that lengthen on demand: the digital network as a convolution, its weights free of the depth."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.cell import Cell
from nextstate.machines.compiling.blueprint import ALIVE, Blueprint, Form, Number
from nextstate.machines.compiling.program import Program
from nextstate.machines.compiling.stores import DigitalStore, rule


class GrowingState(NamedTuple):
    """`control` [B, states + rules + 1] and `cells` [B, stacks, symbols, kinds of unit, depth].

    `lost` [B, 1] is 1 once a symbol was pushed out of the last cell, and stays so.
    """

    control: Tensor
    cells: Tensor
    lost: Tensor


LOST = "lost"


class GrowingStacks(Cell):
    """A stack machine as a gated convolution over the depth of its stacks, all values 0 or 1.

    GrowingStacks : (u, (control, cells, lost)) -> (control', (control', cells', lost'))

        cell  = sum over d of moved_d + pushed
        copy'    = f( cell )
        moved_d' = f( copy shifted by d + [rules that shift by d] - 1 )
        pushed'  = f( [rules that push here] )
        control' = f( W control + sum of tops + V u + b )             f = ReLU
        lost'    = min(1, lost + sum of what moves out of the last cell)

    The equations of the digital memory, written once for all depths: any depth gives the same weights, and a
    state may be lengthened with zeros between two steps. Within one scan the depth stays what it is, and
    `lost` tells if that was too little.
    """

    def __init__(self, program: Program, blueprint: Blueprint, dtype: torch.dtype) -> None:
        super().__init__()
        store = DigitalStore(program, 4)  # the boundary rules of a stack reach two cells deep
        shifts = (-1, 0, 1)
        self.names = tuple(
            name for name in blueprint.rows if name == ALIVE or _is(name, "state") or _is(name, "rule")
        )
        stacks, symbols = program.stacks, program.symbols
        index = {name: i for i, name in enumerate(self.names)}
        letters = {a: i for i, a in enumerate(program.letters)}
        n = len(self.names)

        def tensor(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(*shape, dtype=dtype))

        self.weight_ih, self.weight_hh, self.bias = tensor(n, max(len(letters), 1)), tensor(n, n), tensor(n)
        self.weight_top = tensor(n, stacks, symbols)
        self.moving, self.kept = tensor(3, stacks, n), tensor(3, stacks, n, 2)
        self.pushing = tensor(stacks, symbols, n, 2)
        with torch.no_grad():
            for name, i in index.items():
                form = blueprint.rows[name]
                self.bias[i] = float(form.constant)
                for a, w in form.letters.items():
                    self.weight_ih[i, letters[a]] = float(w)
                for source, w in form.units.items():
                    if source in index:
                        self.weight_hh[i, index[source]] = float(w)
                for s in range(stacks):
                    for a in range(1, symbols + 1):
                        seen = next(iter(store.cell(s, 0, a).units), None)
                        self.weight_top[i, s, a - 1] = float(form.units.get(seen, 0))
            for s in range(stacks):
                for j, d in enumerate(shifts):
                    self._set(self.moving[j, s], store.moving(s, 3, d), index)
                    for i in range(2):
                        lost = store.moving(s, 3, d) - store.moving(s, i, d)
                        self._set(self.kept[j, s, :, i], lost, index)
                for a in range(1, symbols + 1):
                    for i in range(2):
                        pushed = [
                            rule(number)
                            for number, r in enumerate(program.rules)
                            if i < len(r.acts[s].push) and r.acts[s].push[-1 - i] == a
                        ]
                        for form in pushed:
                            self._set(self.pushing[s, a - 1, :, i], form, index, add=True)
        self.stacks, self.symbols = stacks, symbols

    @staticmethod
    def _set(row: Tensor, form: Form, index: Mapping[Any, int], *, add: bool = False) -> None:
        for name, w in form.units.items():
            row[index[name]] = float(w) + (float(row[index[name]]) if add else 0)

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> GrowingState:
        like: dict[str, Any] = {"device": device, "dtype": dtype or self.bias.dtype}
        control = torch.zeros(batch_size, len(self.names), **like)
        cells = torch.zeros(batch_size, self.stacks, self.symbols, 5, 4, **like)
        return GrowingState(control, cells, torch.zeros(batch_size, 1, **like))

    def forward(self, u: Tensor, s: GrowingState) -> tuple[Tensor, GrowingState]:
        control, cells, lost = s
        held = cells[:, :, :, 1:].sum(3)
        copies = cells[:, :, :, 0]
        tops = torch.einsum("bsm,nsm->bn", held[..., 0], self.weight_top)
        after = torch.relu(F.linear(control, self.weight_hh, self.bias) + F.linear(u, self.weight_ih) + tops)
        gates = torch.einsum("bn,dsn->dbs", control, self.moving)[:, :, :, None, None] - 1
        kept = torch.einsum("bn,dsni->dbsi", control, self.kept)[:, :, :, None]
        pushed = torch.einsum("bn,smni->bsmi", control, self.pushing)
        depth = cells.shape[-1]
        down = F.pad(copies[..., 1:], (0, 1))
        up = F.pad(copies[..., :-1], (1, 0))
        moved = torch.stack([down, copies, up]) + gates - F.pad(kept, (0, depth - 2))
        rows = [held, *moved, F.pad(pushed, (0, depth - 2))]
        cells = torch.relu(torch.stack(rows, 3))
        out = torch.relu(copies[..., -1] + gates[2, ..., 0]).sum((1, 2))
        return after, GrowingState(after, cells, (lost + out[:, None]).clamp(max=1))

    def lengthened(self, s: GrowingState) -> GrowingState:
        """The state with room to spare: twice as deep if anything lies within the last two cells."""
        if bool(s.cells[..., -2:].any()):
            return GrowingState(s.control, F.pad(s.cells, (0, s.cells.shape[-1])), s.lost)
        return s


class GrowingBody:
    """`GrowingStacks` one step at a time, lengthened where needed."""

    def __init__(self, cell: GrowingStacks, program: Program) -> None:
        self.cell, self.program = cell, program
        self._index = {name: i for i, name in enumerate(cell.names)}
        self._number = {a: i for i, a in enumerate(program.letters)}
        self._like: dict[str, Any] = {"dtype": cell.bias.dtype, "device": cell.bias.device}

    def start(self, values: Mapping[Any, Number] | None) -> GrowingState:
        state = self.cell.initial_state(1, **self._like)
        if values is None:
            return state
        deepest = max((name[2] for name in values if _is(name, "cell")), default=0)
        cells = F.pad(state.cells, (0, deepest))
        for name, value in values.items():
            if name in self._index:
                state.control[0, self._index[name]] = float(value)
            else:
                cells[0, name[1], name[3] - 1, 2, name[2]] = float(value)
        return GrowingState(state.control, cells, state.lost)

    def step(self, state: GrowingState, letter: Hashable | None) -> GrowingState:
        with torch.no_grad():
            return self.cell(self.input(letter), self.cell.lengthened(state))[1]

    def input(self, letter: Hashable | None) -> Tensor:
        u = torch.zeros(1, self.cell.weight_ih.shape[1], **self._like)
        if letter is not None:
            u[0, self._number[letter]] = 1
        return u

    def values(self, state: GrowingState) -> dict[Any, Number] | None:
        """Units by name; a cell is reported as one unit that has not moved (the sum is what counts)."""
        if not bool(((state.cells == 0) | (state.cells == 1)).all()):
            return None
        control: dict[Any, Number] = {
            name: int(v) for name, v in zip(self.cell.names, state.control[0].tolist(), strict=True)
        }
        held = state.cells[0, :, :, 1:].sum(2)
        found: dict[Any, Number] = {
            ("cell", s, i, a + 1, 0): int(held[s, a, i]) for s, a, i in held.nonzero().tolist()
        }
        return control | found

    def value(self, state: GrowingState, form: Form) -> float:
        control = state.control[0].detach()
        held = state.cells[0, :, :, 1:, 0].detach().sum(2)
        found = float(form.constant)
        name: Any
        for name, w in form.units.items():
            if name == LOST:
                found += float(w) * float(state.lost[0, 0].detach())
            elif name in self._index:
                found += float(w) * float(control[self._index[name]])
            elif name[0] == "cell" and name[2] == 0 and name[4] == 0:
                found += float(w) * float(held[name[1], name[3] - 1])
        return found


def read_cells(stack: int, values: Mapping[Any, Number]) -> tuple[int, ...] | None:
    """The digits of a stack from the values `GrowingBody` reports; None if a cell holds two symbols."""
    held = {name[2]: name[3] for name in values if _is(name, "cell") and name[1] == stack}
    if len(held) != sum(_is(name, "cell") and name[1] == stack for name in values):
        return None
    return tuple(held.get(i, 0) for i in range(max(held, default=-1), -1, -1))


def write_cells(stack: int, digits: tuple[int, ...]) -> dict[Any, Number]:
    """The values of a stack, as `GrowingBody` takes them."""
    return {("cell", stack, i, digit, 0): 1 for i, digit in enumerate(reversed(digits)) if digit}


def _is(name: Any, kind: str) -> bool:
    return isinstance(name, tuple) and len(name) > 0 and name[0] == kind
