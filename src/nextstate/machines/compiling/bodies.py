"""What a blueprint is carried by: the tensors of a cell, or exact rational numbers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from nextstate.cell import Cell
from nextstate.machines.compiling.blueprint import Blueprint, Form, Number
from nextstate.states import Tree, tree_map

Values = Mapping[Any, Number]


class Body(Protocol):
    """A way to run a blueprint one step at a time; `letter` None feeds a blank."""

    def start(self, values: Values | None) -> Any: ...

    def step(self, state: Any, letter: Hashable | None) -> Any: ...

    def values(self, state: Any) -> Values | None:
        """The value of every unit; None if the state is none a machine can be in."""

    def value(self, state: Any, form: Form) -> Number | float:
        """The value of an affine form over the units."""


class Dyadic(NamedTuple):
    """Values that are not zero, each a whole number over 2^exponent."""

    values: dict[Any, int]
    exponent: int


class RationalBody:
    """The blueprint in exact arithmetic without bounds: the theorem as software.

    All weights are fractions over a power of two, so a state is whole numbers over one common power.

    >>> from nextstate.machines.compiling.blueprint import Unit, unit
    >>> half = Blueprint("saturated", (), {"x": Unit()}, {"x": unit("x") * Fraction(1, 2)}, [], dict)
    >>> body = RationalBody(half)
    >>> body.values(body.step(body.start({"x": 1}), None))
    {'x': Fraction(1, 2)}
    """

    def __init__(self, blueprint: Blueprint) -> None:
        self.blueprint = blueprint
        weights = [w for form in blueprint.rows.values() for w in (form.constant, *form.units.values())]
        self._bits = max(Fraction(w).denominator.bit_length() - 1 for w in weights)
        scale = 2**self._bits
        self._from: dict[Any, list[tuple[Any, int]]] = {name: [] for name in blueprint.rows}
        self._heard: dict[Any, list[tuple[Any, int]]] = {a: [] for a in blueprint.letters}
        self._constant = {}
        for name, form in blueprint.rows.items():
            self._constant[name] = int(form.constant * scale)
            for source, w in form.units.items():
                self._from[source].append((name, int(w * scale)))
            for a, w in form.letters.items():
                self._heard[a].append((name, int(w * scale)))
        self._alone = [name for name, c in self._constant.items() if c > 0]

    def start(self, values: Values | None) -> Dyadic:
        given = {name: Fraction(v) for name, v in (values or {}).items() if v}
        exponent = max((v.denominator.bit_length() - 1 for v in given.values()), default=0)
        return Dyadic({name: int(v * 2**exponent) for name, v in given.items()}, exponent)

    def step(self, state: Dyadic, letter: Hashable | None) -> Dyadic:
        sums: dict[Any, int] = dict.fromkeys(self._alone, 0)
        for source, value in state.values.items():
            for name, w in self._from[source]:
                sums[name] = sums.get(name, 0) + w * value
        one = 1 << state.exponent
        if letter is not None:
            for name, w in self._heard[letter]:
                sums[name] = sums.get(name, 0) + w * one
        exponent = state.exponent + self._bits
        ceiling = None if self.blueprint.kind == "relu" else 1 << exponent
        after = {}
        for name, value in sums.items():
            value += self._constant[name] * one
            if value > 0:
                after[name] = value if ceiling is None else min(value, ceiling)
        shared = 0
        for value in after.values():
            shared |= value
        spare = min(exponent, (shared & -shared).bit_length() - 1) if shared else exponent
        return Dyadic({name: value >> spare for name, value in after.items()}, exponent - spare)

    def values(self, state: Dyadic) -> dict[Any, Number]:
        scale = 2**state.exponent
        return {name: Fraction(state.values.get(name, 0), scale) for name in self.blueprint.rows}

    def value(self, state: Dyadic, form: Form) -> Number:
        found = sum(w * state.values.get(name, 0) for name, w in form.units.items())
        return form.constant + Fraction(found, 2**state.exponent)


@dataclass(frozen=True)
class Code:
    """How a cell's state stands for the values of the units: one number a unit, in order.

    `write` turns values [N] into the first tensor of a state and `read` back, refusing with None.
    """

    names: tuple[Any, ...]
    write: Callable[[Tensor], Tree]
    read: Callable[[Tree], Tensor | None]


class TensorBody:
    """A blueprint in an ordinary cell: batch of one, on the device and in the dtype of its weights."""

    def __init__(self, cell: Cell, letters: tuple[Hashable, ...], code: Code) -> None:
        self.cell, self.letters, self.code = cell, letters, code
        self._index = {name: i for i, name in enumerate(code.names)}
        weight = next(cell.parameters())
        self._like: dict[str, Any] = {"dtype": weight.dtype, "device": weight.device}
        self._inputs = torch.eye(max(len(letters), 1), **self._like)[:, None]
        self._number = {a: i for i, a in enumerate(letters)}
        self._forms: dict[int, tuple[Form, Tensor, Tensor]] = {}

    def start(self, values: Values | None) -> Tree:
        if values is None:
            return self.cell.initial_state(1, **self._like)
        row = [float(values.get(name, 0)) for name in self.code.names]
        return self.code.write(torch.tensor(row, **self._like))

    def input(self, letter: Hashable | None) -> Tensor:
        return torch.zeros_like(self._inputs[0]) if letter is None else self._inputs[self._number[letter]]

    def step(self, state: Tree, letter: Hashable | None) -> Tree:
        with torch.no_grad():
            return self.cell(self.input(letter), state)[1]

    def values(self, state: Tree) -> dict[Any, Number] | None:
        row = self.code.read(tree_map(lambda x: x[0].detach().cpu(), state))
        if row is None or not bool(row.isfinite().all()):
            return None
        return dict(zip(self.code.names, map(_number, row.tolist()), strict=True))

    def value(self, state: Tree, form: Form) -> float:
        if not form.units:
            return float(form.constant)
        if id(form) not in self._forms:
            where = torch.tensor([self._index[name] for name in form.units], device=self._like["device"])
            weights = torch.tensor([float(w) for w in form.units.values()], **self._like)
            self._forms[id(form)] = (form, where, weights)
        _, where, weights = self._forms[id(form)]
        row = self.code.read(tree_map(lambda x: x[0].detach(), state))
        return float("nan") if row is None else float(form.constant) + float(row[where] @ weights)


def _number(value: float) -> Number:
    return int(value) if value.is_integer() else Fraction(value)
