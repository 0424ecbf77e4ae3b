"""Stacks as several numbers of bounded length: whole numbers move when the live one is full or empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from nextstate.checks import refuse
from nextstate.machines.compiling.blueprint import ALIVE, Form, Number, Unit, total, unit
from nextstate.machines.compiling.program import Act, Program
from nextstate.machines.compiling.stores import CantorStore, Values, rule


@dataclass
class LimbStore:
    """A stack as `limbs` numbers of `digits` digits each, in the code of `CantorStore`.

    Only the first limb is worked on. A guard counts its digits: a push onto a full one hands it down whole,
    every limb moving down by one, and the pop that empties it brings the next one up. Zeros below the last
    symbol are blanks like any others. Exact for (limbs - 1) digits + 1 symbols; a counter watches that.
    Source: the idea of moving whole neurons, Chung and Siegelmann 2021.
    """

    program: Program
    digits: int
    limbs: int
    kind: str = "saturated"
    rows: dict[Any, Form] = field(default_factory=dict)
    units: dict[Any, Unit] = field(default_factory=dict)
    watch: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.number = CantorStore(self.program, self.limit)

    @property
    def limit(self) -> int:
        return (self.limbs - 1) * self.digits + 1

    def top(self, stack: int, symbol: int) -> Form:
        at_least = [
            Form(constant=1),
            *(
                unit(("at least", stack, a)) + unit(("pulled at least", stack, a))
                for a in range(1, self.program.symbols + 1)
            ),
            Form(),
        ]
        return at_least[symbol] - at_least[symbol + 1]

    def guard(self, s: int, k: int) -> Form:
        """1 if the live limb holds k digits; a network begins with a full limb of blanks."""
        held = total(unit(("digits", s, k, d)) for d in (-1, 0, 1))
        return held + 1 - unit(ALIVE) if k == self.digits else held

    def build(self, gates: Sequence[Form]) -> None:
        for s in range(self.program.stacks):
            self._live(s, gates)
            self._guards(s)
            self._limbs(s)
            self.number.count(s, self.rows, self.units, self.watch)
        self.rows["lost"] = unit("lost") + total(unit(name) for name in self.watch)
        self.units["lost"] = Unit()
        self.watch.append("lost")

    def _live(self, s: int, gates: Sequence[Form]) -> None:
        live = unit(("stack", s)) + unit(("pulled", s))
        base, largest = self.number.base, self.number.largest
        parts, full, one = [], self.guard(s, self.digits), self.guard(s, 1)
        for i, (r, gate) in enumerate(zip(self.program.rules, gates, strict=True)):
            act = r.acts[s]
            if act.shift > 0:
                fresh = Act(push=act.push[-1:])
                kept = Act(act.look, act.pop, act.push[:-1])
                self._part(("fresh", s, i), Form(), fresh, gate + full - 1)
                self._part(("spilt", s, i), live, kept, gate + full - 1)
                self._flag(("spill", s, i), gate + full)
                parts.append(unit(("fresh", s, i)))
            if act.shift < 0:
                self._flag(("pull", s, i), gate + one)
            self._part(("part", s, i), live, act, gate - full if act.shift > 0 else gate)
            parts.append(unit(("part", s, i)))
        value = total(parts)
        self._number(("stack", s), value)
        below = unit(("kept", s, 1)) if self.limbs > 1 else Form()
        self._number(("pulled", s), below + self._moved("pull", s) - 1)
        for a in range(1, self.program.symbols + 1):
            self.rows["at least", s, a] = base * value - 2 * a + 1
            self.rows["pulled at least", s, a] = (
                base * below - 2 * a + 1 + base * (self._moved("pull", s) - 1)
            )
            for name in ("at least", "pulled at least"):
                self.units[name, s, a] = Unit(gain=self.number.bits, reach=base * largest - 1)

    def _part(self, name: Any, live: Form, act: Act, gate: Form) -> None:
        factor, offset = self.number.map(act)
        self.rows[name] = factor * live + offset + self.number.weight(factor, offset) * gate
        gain = self.number.bits if factor > 1 else 0
        self.units[name] = Unit(self.number.largest, (name[0], name[1]), self.number.bits, gain)

    def _number(self, name: Any, row: Form) -> None:
        self.rows[name], self.units[name] = row, Unit(self.number.largest, None, self.number.bits)

    def _flag(self, name: Any, row: Form) -> None:
        self.rows[name], self.units[name] = row, Unit(group=(name[0], name[1]))

    def _moved(self, what: str, s: int) -> Form:
        """1 in a step in which the limbs of a stack move: "spill" down, "pull" up."""
        sign = 1 if what == "spill" else -1
        rules = enumerate(self.program.rules)
        return total(unit((what, s, i)) for i, r in rules if r.acts[s].shift == sign)

    def _guards(self, s: int) -> None:
        shift = {
            d: total(rule(i) for i, r in enumerate(self.program.rules) if r.acts[s].shift == d)
            for d in (-1, 0, 1)
        }
        for k in range(1, self.digits + 1):
            self._flag(("kept digits", s, k), self.guard(s, k))
            for d in (-1, 0, 1):
                before = (k - d - 1) % self.digits + 1  # a push onto a full limb leaves 1, and back
                self._flag(("digits", s, k, d), unit(("kept digits", s, before)) + shift[d] - 1)

    def _limbs(self, s: int) -> None:
        spill, pull = self._moved("spill", s), self._moved("pull", s)
        for l in range(1, self.limbs):
            self._number(("kept", s, l), self.limb(s, l))
            self._number(("hold", s, l), unit(("kept", s, l)) - spill - pull)
            if l == 1:
                rules = enumerate(self.program.rules)
                spilt = total(unit(("spilt", s, i)) for i, r in rules if r.acts[s].shift > 0)
                self._number(("down", s, l), spilt)
            else:
                self._number(("down", s, l), unit(("kept", s, l - 1)) + spill - 1)
            if l + 1 < self.limbs:
                self._number(("up", s, l), unit(("kept", s, l + 1)) + pull - 1)

    def limb(self, s: int, l: int) -> Form:
        up = unit(("up", s, l)) if l + 1 < self.limbs else Form()
        return unit(("hold", s, l)) + unit(("down", s, l)) + up

    def read(self, stack: int, values: Values) -> tuple[int, ...] | None:
        live = values["stack", stack] + values["pulled", stack]
        counts = [k for k in range(1, self.digits + 1) for d in (-1, 0, 1) if values["digits", stack, k, d]]
        if len(counts) != 1:
            return None
        found: list[int] = []
        numbers = [live, *(_value(self.limb(stack, l), values) for l in range(1, self.limbs))]
        for i, number in enumerate(numbers):
            digits = self.number.expand(Fraction(number))
            places = counts[0] if i == 0 else self.digits
            if digits is None or len(digits) > places:
                return None
            found += [*digits, *[0] * (places - len(digits))]
        while found and not found[-1]:
            found.pop()
        return tuple(found[::-1])

    def write(self, stack: int, digits: tuple[int, ...]) -> dict[Any, Number]:
        if len(digits) > self.limit:
            refuse("start", f"a stack of {len(digits)} symbols is not exact: the limit is {self.limit}")
        values: dict[Any, Number] = {("digits", stack, self.digits, 0): 1}
        downward = digits[::-1]
        for l in range(self.limbs):
            part = downward[l * self.digits : (l + 1) * self.digits]
            x = sum((Fraction(2 * a, self.number.base ** (i + 1)) for i, a in enumerate(part)), Fraction(0))
            values["stack" if l == 0 else "hold", stack, *([l] if l else [])] = x
        seen = downward[0] if downward else 0
        for a in range(1, self.program.symbols + 1):
            values["at least", stack, a] = int(a <= seen)
        return values | self.number.depth(stack, len(digits))


def _value(form: Form, values: Values) -> Number:
    return sum((values[name] for name in form.units), 0)
