"""Stacks inside a network: as one number in base B, or as cells that hold one symbol each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol

from nextstate.checks import refuse
from nextstate.machines.compiling.blueprint import Form, Number, Unit, total, unit
from nextstate.machines.compiling.program import Act, Program

Values = Mapping[Any, Number]


class Store(Protocol):
    """The memory of a stack network.

    The control lives on two colours of units that read only each other: `tops` is asked of the first (the
    state), `rows` holds the units of both, and `rules` are the units of the second (one fires a step).
    """

    kind: str
    rows: dict[Any, Form]
    units: dict[Any, Unit]
    watch: list[Any]

    def top(self, stack: int, symbol: int) -> Form:
        """1 if the symbol (0: none) lies on top, else 0; over units of the first colour."""

    def build(self, gates: Sequence[Form]) -> None:
        """Add the rows; `gates[i]` is 0 if rule i is about to fire and <= -1 if not."""

    def read(self, stack: int, values: Values) -> tuple[int, ...] | None:
        """The digits of a stack, the top last; None if the values are no stack."""

    def write(self, stack: int, digits: tuple[int, ...]) -> dict[Any, Number]:
        """The values that hold these digits."""


def rule(i: int) -> Form:
    return unit(("rule", i))


@dataclass
class CantorStore:
    """A stack as one number 0.d1 d2 d3... in base B, digit 2a for symbol a: a point of a Cantor set.

        [top >= a] = clip(B x - 2a + 1)       push a: x/B + 2a/B       pop a: B x - 2a

    B is the smallest power of two >= 2 symbols + 2. Exact to `limit` digits; a counter a stack watches it.
    Source: Siegelmann and Sontag 1995, with digits that make an endless run of blanks the number 0.
    """

    program: Program
    limit: int | None
    kind: str = "saturated"
    rows: dict[Any, Form] = field(default_factory=dict)
    units: dict[Any, Unit] = field(default_factory=dict)
    watch: list[Any] = field(default_factory=list)

    @property
    def bits(self) -> int:
        return (2 * self.program.symbols + 1).bit_length()

    @property
    def base(self) -> int:
        return 2**self.bits

    def top(self, stack: int, symbol: int) -> Form:
        at_least = [
            Form(constant=1),
            *(unit(("at least", stack, a)) for a in range(1, self.program.symbols + 1)),
            Form(),
        ]
        return at_least[symbol] - at_least[symbol + 1]

    def build(self, gates: Sequence[Form]) -> None:
        for s in range(self.program.stacks):
            parts = []
            for i, (rule_i, gate) in enumerate(zip(self.program.rules, gates, strict=True)):
                factor, offset = self.map(rule_i.acts[s])
                row = factor * unit(("stack", s)) + offset + self.weight(factor, offset) * gate
                self.rows["part", s, i] = row
                gain = self.bits if factor > 1 else 0
                self.units["part", s, i] = Unit(self.largest, ("part", s), self.bits, gain)
                parts.append(unit(("part", s, i)))
            value = total(parts)
            self.rows["stack", s], self.units["stack", s] = value, Unit(self.largest, None, self.bits)
            for a in range(1, self.program.symbols + 1):
                self.rows["at least", s, a] = self.base * value - 2 * a + 1
                self.units["at least", s, a] = Unit(gain=self.bits, reach=self.base * self.largest - 1)
            if self.limit is not None:
                self.count(s, self.rows, self.units, self.watch)
        if self.watch:
            self.rows["lost"] = unit("lost") + total(unit(name) for name in self.watch)
            self.units["lost"] = Unit()
            self.watch.append("lost")

    def read(self, stack: int, values: Values) -> tuple[int, ...] | None:
        digits = self.expand(Fraction(values["stack", stack]))
        if digits is None:
            return None
        seen = digits[0] if digits else 0
        shown = [int(a <= seen) for a in range(1, self.program.symbols + 1)]
        if shown != [values["at least", stack, a] for a in range(1, self.program.symbols + 1)]:
            return None
        return tuple(digits[::-1])

    def write(self, stack: int, digits: tuple[int, ...]) -> dict[Any, Number]:
        if self.limit is not None and len(digits) > self.limit:
            refuse("start", f"a stack of {len(digits)} symbols is not exact: the limit is {self.limit}")
        x = Fraction(0)
        for digit in digits:
            x = (x + 2 * digit) / self.base
        seen = digits[-1] if digits else 0
        shown = {("at least", stack, a): int(a <= seen) for a in range(1, self.program.symbols + 1)}
        return {("stack", stack): x, **shown, **self.depth(stack, len(digits))}

    @property
    def largest(self) -> Fraction:
        return Fraction(2 * self.program.symbols, self.base - 1)

    @property
    def _scale(self) -> int:
        return 1 << (self.limit or 1).bit_length()

    def map(self, act: Act) -> tuple[Fraction, Fraction]:
        """The act as x -> factor x + offset."""
        factor, offset = Fraction(1), Fraction(0)
        if act.pop:
            factor, offset = Fraction(self.base), Fraction(-2 * (act.look or 0))
        for symbol in act.push:
            factor, offset = factor / self.base, (offset + 2 * symbol) / self.base
        return factor, offset

    def weight(self, factor: Fraction, offset: Fraction) -> int:
        """A power of two so large that a rule that does not fire leaves its part well below 0."""
        guard = 1
        while factor * self.largest + offset - guard > Fraction(-1, 4 * self.base):
            guard *= 2
        return guard

    def count(self, s: int, rows: dict[Any, Form], units: dict[Any, Unit], watch: list[Any]) -> None:
        """The number of digits, as a fraction of a power of two, on both colours; `over` past the limit."""
        moved = total(
            Fraction(r.acts[s].shift, self._scale) * rule(i) for i, r in enumerate(self.program.rules)
        )
        depth = unit(("kept depth", s)) + moved
        rows["kept depth", s], units["kept depth", s] = unit(("depth", s)), Unit()
        rows["depth", s], units["depth", s] = depth, Unit()
        allowed = (self.limit or 0) - self._uncounted(s)
        rows["over", s], units["over", s] = self._scale * depth - allowed, Unit()
        watch.append(("over", s))

    def depth(self, s: int, digits: int) -> dict[Any, Number]:
        """The value of the counter for so many digits."""
        counted = max(digits - self._uncounted(s), 0)
        return {} if self.limit is None else {("depth", s): Fraction(counted, self._scale)}

    def _uncounted(self, s: int) -> int:
        """1 if a digit may go uncounted: a blank popped off an empty stack, a symbol put in its place."""
        acts = [r.acts[s] for r in self.program.rules]
        return int(any(act.pop and act.look == 0 and act.push for act in acts))

    def expand(self, x: Fraction) -> list[int] | None:
        """The digits of a number, the top first; None if one of them is no symbol."""
        digits: list[int] = []
        while x:
            digit, x = divmod(x * self.base, 1)
            if digit % 2 or digit > 2 * self.program.symbols or len(digits) > 100_000:
                return None
            digits.append(int(digit) // 2)
        return digits


@dataclass
class DigitalStore:
    """A stack as `cells` cells of one unit a symbol, all of which move when the stack does.

        cell'[i] = [shift is d] AND cell[i - d], for the shifts d = -1, 0, 1 the rules use

    Every value is 0 or 1, so it is exact in every dtype; what is pushed out of the last cell is watched.
    """

    program: Program
    cells: int
    kind: str = "threshold"
    rows: dict[Any, Form] = field(default_factory=dict)
    units: dict[Any, Unit] = field(default_factory=dict)
    watch: list[Any] = field(default_factory=list)

    def top(self, stack: int, symbol: int) -> Form:
        symbols = range(1, self.program.symbols + 1)
        return self.cell(stack, 0, symbol) if symbol else 1 - total(self.cell(stack, 0, a) for a in symbols)

    def cell(self, s: int, i: int, a: int) -> Form:
        moved = [("cell", s, i, a, d) for d in self.shifts(s) if 0 <= i - d < self.cells]
        pushed = [("push", s, i, a)] if self._pushing(s, i, a) else []
        return total(unit(name) for name in (*moved, *pushed))

    def shifts(self, s: int) -> list[int]:
        return sorted({r.acts[s].shift for r in self.program.rules})

    def moving(self, s: int, i: int, d: int) -> Form:
        """The rules that shift stack s by d and do not put a new symbol over cell i - d."""
        return total(
            rule(n)
            for n, r in enumerate(self.program.rules)
            if r.acts[s].shift == d and not (r.acts[s].pop and i == len(r.acts[s].push) - 1)
        )

    def _pushing(self, s: int, i: int, a: int) -> list[Form]:
        return [
            rule(n)
            for n, r in enumerate(self.program.rules)
            if i < len(r.acts[s].push) and r.acts[s].push[-1 - i] == a
        ]

    def build(self, gates: Sequence[Form]) -> None:
        for s in range(self.program.stacks):
            for i in range(self.cells):
                for a in range(1, self.program.symbols + 1):
                    self._cell(s, i, a)
            full = total(unit(("copy", s, self.cells - 1, a)) for a in range(1, self.program.symbols + 1))
            self._add(("over", s), full + self.moving(s, self.cells, 1) - 1, None)
            self.watch.append(("over", s))
            pushed = [r for a in range(1, self.program.symbols + 1) for r in self._pushing(s, self.cells, a)]
            if pushed:  # two symbols at once into a stack of a single cell
                self._add(("spilt", s), total(pushed), None)
                self.watch.append(("spilt", s))
        self._add("lost", unit("lost") + total(unit(name) for name in self.watch), None)
        self.watch.append("lost")

    def _cell(self, s: int, i: int, a: int) -> None:
        self._add(("copy", s, i, a), self.cell(s, i, a), ("copy", s, i))
        for d in self.shifts(s):
            if 0 <= i - d < self.cells:
                row = unit(("copy", s, i - d, a)) + self.moving(s, i, d) - 1
                self._add(("cell", s, i, a, d), row, ("cell", s, i))
        if pushing := self._pushing(s, i, a):
            self._add(("push", s, i, a), total(pushing), ("cell", s, i))

    def _add(self, name: Any, row: Form, group: Any) -> None:
        self.rows[name], self.units[name] = row, Unit(group=group)

    def read(self, stack: int, values: Values) -> tuple[int, ...] | None:
        digits: list[int] = []
        for i in range(self.cells):
            held = [a for a in range(1, self.program.symbols + 1) if _sum(self.cell(stack, i, a), values)]
            if len(held) > 1 or any(_sum(self.cell(stack, i, a), values) != 1 for a in held):
                return None
            digits.append(held[0] if held else 0)
        while digits and not digits[-1]:
            digits.pop()
        return tuple(digits[::-1])

    def write(self, stack: int, digits: tuple[int, ...]) -> dict[Any, Number]:
        values: dict[Any, Number] = {}
        if len(digits) > self.cells:
            refuse("start", f"a stack of {len(digits)} symbols does not fit in {self.cells} cells")
        for i, digit in enumerate(reversed(digits)):
            if digit:
                values[next(iter(self.cell(stack, i, digit).units))] = 1
        return values


def _sum(form: Form, values: Values) -> Number:
    return sum((values[name] for name in form.units), 0)
