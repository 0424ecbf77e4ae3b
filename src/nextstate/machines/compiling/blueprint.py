"""A network before it has a cell: named units, exact weights, and the proof of how long it stays exact."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

Name = Hashable
Number = int | Fraction


@dataclass(frozen=True)
class Form:
    """An affine form over units of the state and letters of the input.

    >>> form = 2 * unit("x") + letter("a") - 1
    >>> form.units, form.letters, form.constant
    ({'x': 2}, {'a': 1}, -1)
    """

    units: Mapping[Name, Number] = field(default_factory=dict)
    letters: Mapping[Name, Number] = field(default_factory=dict)
    constant: Number = 0

    def __add__(self, other: Form | Number) -> Form:
        if not isinstance(other, Form):
            return Form(self.units, self.letters, self.constant + other)
        return Form(
            _sum(self.units, other.units), _sum(self.letters, other.letters), self.constant + other.constant
        )

    __radd__ = __add__

    def __mul__(self, factor: Number) -> Form:
        return Form(
            {name: factor * w for name, w in self.units.items() if factor},
            {name: factor * w for name, w in self.letters.items() if factor},
            factor * self.constant,
        )

    __rmul__ = __mul__

    def __neg__(self) -> Form:
        return self * -1

    def __sub__(self, other: Form | Number) -> Form:
        return self + -1 * other

    def __rsub__(self, other: Number) -> Form:
        return -self + other


def _sum(left: Mapping[Name, Number], right: Mapping[Name, Number]) -> dict[Name, Number]:
    total = dict(left)
    for name, w in right.items():
        total[name] = total.get(name, 0) + w
        if total[name] == 0:
            del total[name]
    return total


def unit(name: Name) -> Form:
    return Form({name: 1})


def letter(name: Name) -> Form:
    return Form({}, {name: 1})


def total(forms: Iterable[Form]) -> Form:
    """The sum of forms; the zero form for none."""
    units: dict[Name, Number] = {}
    letters: dict[Name, Number] = {}
    constant: Number = 0
    for form in forms:
        constant += form.constant
        for mine, theirs in ((units, form.units), (letters, form.letters)):
            for name, w in theirs.items():
                mine[name] = mine.get(name, 0) + w
    return Form({n: w for n, w in units.items() if w}, {n: w for n, w in letters.items() if w}, constant)


ALIVE = "alive"
"""The unit that is 0 in the zero state and 1 ever after: with it every network starts from zeros."""


@dataclass(frozen=True)
class Unit:
    """What is known of a unit whatever the input.

    `top` is the largest value it takes, `group` a set of units of which at most one is not zero, `places`
    0 for a whole number, else b for a number whose digits of b bits are counted by the depth of a stack.
    `gain` is b where the row multiplies such a number by its base (it shifts one digit out), else 0.
    `reach` is the largest pre-activation, which matters where clip is made of two ReLU.
    """

    top: Number = 1
    group: Name = None
    places: int = 0
    gain: int = 0
    reach: Number = 1


@dataclass(frozen=True)
class Readout:
    """Something shown where `form`, over the units after a step, is above 1/2.

    `label` is the output then written; None stands for acceptance.
    """

    form: Form
    label: Any = None


@dataclass(frozen=True)
class Blueprint:
    """A recurrent network h' = f(W h + V x + b) with exact weights, not yet in a cell.

    `kind` says which functions f carry it to the same values: "threshold" (every pre-activation that does
    not fire is <= 0 and every one that fires is 1: any of Heaviside, saturated linear, ReLU), "saturated"
    (clip to [0, 1]) or "relu". `decode` maps the values of the units to the machine's configuration or None.
    `period` steps of the network are one step of the machine.
    """

    kind: str
    letters: tuple[Name, ...]
    units: Mapping[Name, Unit]
    rows: Mapping[Name, Form]
    readouts: Sequence[Readout]
    decode: Callable[[Mapping[Name, Number]], Any]
    encode: Callable[[Any], Mapping[Name, Number]] | None = None
    """Values of the units for a configuration, where a machine may start in others than its first."""
    period: int = 1
    watch: Form = field(default_factory=Form)
    """A sum that is 0 for as long as the network is exact."""
    moving: Form = field(default_factory=Form)
    """A sum that is not 0 in a step in which the machine moves without a letter."""
    limit: int | None = None
    """The depth (of a stack) or count (of a counter) up to which it is exact; None: always."""


def largest_sum(blueprint: Blueprint, form: Form, *, doubled: bool = False) -> Fraction:
    """A bound on the absolute value of every partial sum of a row, in any order of its terms.

    `doubled`: each unit is clip(z) = ReLU(z) - ReLU(z - 1), two terms that may both be large.
    """
    best: dict[Any, Fraction] = {}
    alone = abs(Fraction(form.constant))
    for name, w in form.units.items():
        about = blueprint.units[name]
        terms = 2 * about.reach - 1 if doubled and about.reach > 1 else about.top
        value = abs(Fraction(w)) * Fraction(terms)
        if about.group is None:
            alone += value
        else:
            best[about.group] = max(best.get(about.group, Fraction(0)), value)
    heard = max((abs(Fraction(w)) for w in form.letters.values()), default=Fraction(0))
    return alone + heard + sum(best.values())


def exact_depth(blueprint: Blueprint, significand: int, smallest: int, *, doubled: bool) -> int:
    """The number of stack digits up to which every row is computed without any rounding.

    A floating-point number of p significant bits holds every multiple of 2^g of size at most 2^(p+g), so a
    row whose terms are multiples of 2^g and whose partial sums stay within that is exact in every order of
    summation, fused or not. `significand` is p, `smallest` the exponent of the smallest positive number.

    Source: the error-free conditions of floating-point sums (Higham 2002, section 2.1).
    """
    depth = 0
    while depth < 4096 and _exact_at(blueprint, depth + 1, significand, smallest, doubled):
        depth += 1
    return depth


def _exact_at(blueprint: Blueprint, depth: int, significand: int, smallest: int, doubled: bool) -> bool:
    for name, form in blueprint.rows.items():
        grain = min(0, _row_grain(blueprint, name, depth))
        if doubled:  # the halves of a unit may be fractions where their difference is a whole number
            halves = [n for n in form.units if blueprint.units[n].reach > 1]
            grain = min([grain, *(_row_grain(blueprint, n, depth) + _twos(form.units[n]) for n in halves)])
        size = largest_sum(blueprint, form, doubled=doubled)
        if grain < smallest or size > Fraction(2) ** (significand + grain):
            return False
    return True


def _row_grain(blueprint: Blueprint, name: Name, depth: int) -> int:
    """The exponent g of a power of two of which every term of a row is a multiple."""
    form = blueprint.rows[name]
    places = max((blueprint.units[n].places for n in (name, *form.units)), default=0)
    grain = min([_twos(w) for w in (form.constant, *form.units.values(), *form.letters.values())])
    return min(grain, 1 - places * depth + blueprint.units[name].gain) if places else grain


def _twos(number: Number) -> int:
    """The exponent of the largest power of two that divides a dyadic number (0 for zero)."""
    value = Fraction(number)
    if value == 0:
        return 0
    if value.denominator & (value.denominator - 1):
        raise ValueError(f"{value} is not a dyadic fraction")
    bits = value.numerator & -value.numerator
    return bits.bit_length() - 1 if value.denominator == 1 else 1 - value.denominator.bit_length()
