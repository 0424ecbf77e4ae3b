"""What gates do along a sequence: how often they are shut or open, how long the memory they keep lasts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from nextstate.cell import Cell
from nextstate.dynamics.flow import Flow, flow
from nextstate.lengths import valid_steps, zero_padding
from nextstate.run import request_for
from nextstate.states import Tree, tree_map

SHUT, OPEN = 0.1, 0.9


@dataclass(frozen=True)
class Gate:
    """The values of one gate, or of one tanh, at every step.

    `values` [T, B, H] lie in 0..1 for a gate and in -1..1 for a tanh (`kind`). `valid` [T, B] says which
    steps belong to a row. `keeps` is 1 for a gate that keeps the state where it is open, -1 where it is shut,
    else 0.

    >>> gate = Gate("z", "sigmoid", torch.tensor([[[0.05, 0.95]], [[0.5, 0.95]]]), None, 1)
    >>> gate.shut, gate.open, [round(x, 2) for x in gate.forget_times.tolist()]
    (0.25, 0.5, [0.54, 19.5])
    """

    name: str
    kind: str
    values: Tensor
    valid: Tensor | None
    keeps: int = 0

    @property
    def _counted(self) -> Tensor:
        """[steps of all rows, H]"""
        return self.values.flatten(0, 1) if self.valid is None else self.values[self.valid]

    @property
    def shut(self) -> float:
        """Share of values below 0.1; of a tanh, below -0.9.

        Source: left-saturated, Karpathy, Johnson and Li 2016 (arXiv 1506.02078).
        """
        return float((self._counted < (SHUT if self.kind == "sigmoid" else -OPEN)).double().mean())

    @property
    def open(self) -> float:
        """Share of values above 0.9."""
        return float((self._counted > OPEN).double().mean())

    @property
    def forget_times(self) -> Tensor:
        """Effective forget time of every unit, [H]: -1 / mean log k, k the share of the state that is kept.

        Steps over which the gate alone lets a memory fall to 1/e; infinite for a unit that keeps all.
        """
        kept = self._counted.double()
        kept = 1 - kept if self.keeps < 0 else kept
        return -1 / kept.log().mean(0)


def gates(cell: Cell, us: Tree, s0: Tree | None = None, *, lengths: Tensor | None = None) -> tuple[Gate, ...]:
    """Every gate (sigmoid) and every squashing (tanh) of a cell, at every step of an input.

    gates : (cell, [u], s0) -> (Gate, ...)

    Found by watching the step run once over all steps, so a cell of one's own has them too. A cell that
    declares its `gates` gives them their names; otherwise they are sigmoid1, tanh1, ... in the order of the
    step. The cells inside a wrapper or a stack are named in front: "cells.0 z".
    Shapes: us [T, B, ...], time first, lengths [B].

    Raises InputError for input that `scan` would refuse.

    >>> from nextstate import GRU
    >>> [(gate.name, gate.kind, gate.keeps) for gate in gates(GRU(3, 5), torch.ones(7, 2, 3))]
    [('r', 'sigmoid', 0), ('z', 'sigmoid', 1), ('n', 'tanh', 0)]
    """
    request = request_for("gates", cell, us, s0, lengths)
    along = flow("gates", cell, zero_padding(request.us, request.lengths), request.s0)
    valid = None if request.lengths is None else valid_steps(request.lengths, along.steps)
    u, state = (tree_map(lambda x: x.flatten(0, 1), tree) for tree in (along.us, along.states))
    with torch.no_grad():
        seen = _watched(cell, lambda: cell(u, state))
        known = _names(along)
    found = []
    for (_, kind, values), (name, keeps) in zip(seen, known, strict=True):
        if name and values.dim() == 2 and len(values) == along.steps * along.batch:
            shaped = values.unflatten(0, (along.steps, along.batch))
            found.append(Gate(name, kind, shaped, valid, keeps))
    return tuple(found)


Seen = tuple[Cell, str, Tensor]
"""Innermost cell, sigmoid or tanh, its result."""


class _Watch(TorchFunctionMode):
    def __init__(self, current: list[Cell]) -> None:
        super().__init__()
        self.current = current
        self.seen: list[Seen] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in ("sigmoid", "tanh") and isinstance(result, Tensor):
            self.seen.append((self.current[-1], name, result.detach()))
        return result


def _watched(cell: Cell, step: Callable[[], Any]) -> list[Seen]:
    """The sigmoids and tanhs of a step, in their order, each with the innermost cell that computed it."""
    current: list[Cell] = []
    with _nested(cell, current), _Watch(current) as watch:
        step()
    return watch.seen


@contextmanager
def _nested(cell: Cell, current: list[Cell]) -> Iterator[None]:
    """`current` holds the cells whose step is running, outermost first."""

    def enter(part: nn.Module, _: Any) -> None:
        current.append(part)  # type: ignore[arg-type]

    def leave(*_: Any) -> None:
        current.pop()

    handles = []
    for part in cell.modules():
        if isinstance(part, Cell):
            handles += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _names(along: Flow) -> list[tuple[str, int]]:
    """Name and sense (see `Gate.keeps`) of every sigmoid and tanh; "" for one that is no gate of its own.

    Which declared gate one is shows when the bias of each is made NaN in turn: the first result that a gate's
    bias reaches, and no other gate's before it, is that gate.
    """
    cell = along.map.cell
    u, state = along.row(0)
    plain = _watched(cell, lambda: cell(u, state))
    prefixes = {id(part): name for name, part in cell.named_modules()}
    reached: list[set[str]] = [set() for _ in plain]
    for part in cell.modules():
        declared = getattr(part, "gates", ())
        for place, gate in enumerate(declared if isinstance(part, Cell) else ()):
            for k, (owner, _, values) in enumerate(_poisoned(cell, part, place, u, state)):
                if owner is part and values.isnan().any():
                    reached[k].add(gate)
    found, numbers = [], {"sigmoid": 0, "tanh": 0}
    taken: dict[int, set[str]] = {}
    for (owner, kind, _), names in zip(plain, reached, strict=True):
        numbers[kind] += 1
        own = names - taken.setdefault(id(owner), set())
        name, keeps = "", 0
        if len(own) == 1:
            (name,) = own
            taken[id(owner)] |= own
            keeper = getattr(owner, "keeps", ("", 0))
            keeps = keeper[1] if keeper[0] == name else 0
        elif not names:
            name = f"{kind}{numbers[kind]}"
        prefix = prefixes[id(owner)]
        found.append((f"{prefix} {name}".strip() if name else "", keeps))
    return found


def _poisoned(cell: Cell, part: Any, place: int, u: Tree, state: Tree) -> list[Seen]:
    """What a step computes if one gate's bias is NaN."""
    bias = getattr(part, "bias_ih", None)
    if not isinstance(bias, nn.Parameter):
        return []
    poisoned = bias.detach().clone()
    poisoned.chunk(len(part.gates))[place].fill_(math.nan)
    prefix = next(name for name, module in cell.named_modules() if module is part)
    changed = {f"{prefix}.bias_ih".removeprefix("."): poisoned}
    return _watched(cell, lambda: functional_call(cell, changed, (u, state)))
