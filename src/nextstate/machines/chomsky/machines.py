"""The machines of the fifteen tasks: Mealy machines, and pushdown automata with one stack or more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nextstate.machines.automata import Mealy
from nextstate.machines.pushdown import PDA


class _Rules:
    """Rules of a machine with named stacks, of which each rule names only those it touches."""

    def __init__(self, *stacks: str) -> None:
        self.stacks, self.table = stacks, {}  # type: tuple[str, ...], dict[Any, Any]

    def add(
        self,
        state: str,
        letter: str | None,
        target: str,
        output: str | None = None,
        /,
        **acts: tuple[str, str],
    ) -> None:
        """`acts` maps a stack to (top, pushed); a stack not named is not looked at."""
        tops = tuple(acts.get(s, ("*", ""))[0] for s in self.stacks)
        pushes = tuple(tuple(acts.get(s, ("*", ""))[1].split()) for s in self.stacks)
        self.table[state, letter, tops] = (target, pushes, output)

    def move(self, state: str, source: str, to: str, target: str, symbols: str = "01") -> None:
        """Free moves that turn one stack over onto another, then go on to the next state."""
        for a in symbols:
            self.add(state, None, state, **{source: (a, ""), to: ("*", a)})
        self.add(state, None, target, **{source: ("", "")})

    def write(self, state: str, stack: str, end: str | None, symbols: str = "01") -> None:
        """The answer from a stack, its top first; after it `end` and zeros, or nothing."""
        for a in symbols:
            self.add(state, "_", state, a, **{stack: (a, "")})
        if end is not None:
            self.add(state, "_", "ended", end, **{stack: ("", "")})
            self.add("ended", "_", "ended", "0")

    def machine(self, letters: str, symbols: str, start: str) -> PDA:
        states = dict.fromkeys([start, *(key[0] for key in self.table), *(v[0] for v in self.table.values())])
        count = len(self.stacks)
        return PDA(tuple(letters), tuple(symbols.split()), tuple(states), start, (), self.table, count)


def _mealy(letters: str, start: Any, step: Callable[[Any, str], Any], shown: Callable[[Any], str]) -> Mealy:
    """The reachable part of a machine given by its step; "_" writes what the state shows."""
    seen: list[Any] = [start]
    moves: dict[Any, Any] = {}
    for state in seen:
        moves[state, "_"] = (state, shown(state))
        for a in letters:
            target = step(state, a)
            moves[state, a] = (target, None)
            if target not in seen:
                seen.append(target)
    return Mealy((*letters, "_"), tuple(seen), start, moves)


def even_pairs() -> Mealy:
    return _mealy("01", "", lambda q, a: (q or a)[0] + a, lambda q: str(int(q[:1] != q[-1:])))


def modular_arithmetic() -> Mealy:
    def step(state: Any, a: str) -> Any:  # (sum before the term, the term, what the next digit does to it)
        total, term, role = state
        if a.isdigit():
            value = int(a)
            return (total, {"+": value, "-": -value, "*": term * value}.get(role, term) % 5, "")
        return (total, term, "*") if a == "*" else ((total + term) % 5, 0, a)

    return _mealy("01234+-*", (0, 0, "+"), step, lambda q: str((q[0] + q[1]) % 5))


def cycle() -> Mealy:
    return _mealy("012", 0, lambda q, a: (q + {"0": 0, "1": 1, "2": -1}[a]) % 5, str)


def stack_manipulation() -> PDA:
    rules = _Rules("s")
    for letter, a in zip("01ab", "0101", strict=True):
        rules.add("read", letter, "read", s=("*", a))
    for top in ("0", "1", ""):
        rules.add("read", "p", "read", s=(top, ""))
    rules.write("read", "s", "2")
    return rules.machine("01pab_", "0 1", "read")


def reverse_string() -> PDA:
    rules = _Rules("s")
    for a in "01":
        rules.add("read", a, "read", s=("*", a))
    rules.write("read", "s", None)
    return rules.machine("01_", "0 1", "read")


def brackets(equation: bool) -> PDA:
    """Sums mod 5 with brackets: the state is (constant, factor of x, role of the next operand)."""
    rules, factors = _Rules("s"), (0, 1, -1) if equation else (0,)
    values = [(a, c) for a in range(5) for c in factors]

    def name(a: int, c: int, role: str) -> str:
        return f"{a % 5},{c},{role}"

    def joined(a: int, c: int, sign: str, more: tuple[int, int]) -> str:
        s = 1 if sign == "+" else -1
        return name(a + s * more[0], c or s * more[1], "")

    for a, c in values:
        for sign, other in ("+-", "-+"):
            here = name(a, c, sign)
            for d in range(5):
                rules.add(here, str(d), joined(a, c, sign, (d, 0)))
            rules.add(here, "-", name(a, c, other))
            rules.add(here, "(", name(0, 0, "+"), s=("*", here))
            if equation:
                rules.add(here, "x", joined(a, c, sign, (0, 1)))
            for value in values:
                rules.add(name(*value, ""), ")", joined(a, c, sign, value), s=(here, ""))
        done = name(a, c, "")
        for sign in "+-":
            rules.add(done, sign, name(a, c, sign))
        if not equation:
            rules.add(done, "_", done, str(a))
        else:
            rules.add(done, "=", f"solve {a},{c}")
            for v in range(5):
                rules.add(f"solve {a},{c}", str(v), f"x is {c * (v - a) % 5}")
    for x in range(5 * equation):
        rules.add(f"x is {x}", "_", f"x is {x}", str(x))
    symbols = " ".join(name(a, c, sign) for a, c in values for sign in "+-")
    return rules.machine("01234+-()" + "x=" * equation + "_", symbols, name(0, 0, "+"))


def duplicate_string() -> PDA:
    rules = _Rules("s", "t")
    for a in "01":
        rules.add("read", a, "read", s=("*", a))
        rules.add("first", "_", "first", a, t=(a, ""), s=("*", a))
    rules.add("read", ".", "turn")
    rules.move("turn", "s", "t", "first")
    rules.add("first", None, "again", t=("", ""))
    rules.move("again", "s", "t", "second")
    rules.write("second", "t", None)
    return rules.machine("01._", "0 1", "read")


def missing_duplicate() -> PDA:
    rules, other = _Rules("s", "t", "half"), "012"
    for a in other:
        rules.add("read", a, "read", s=("*", a))
        rules.add("one", None, "two", s=(a, ""), t=("*", a), half=("*", "0"))
        rules.add("two", None, "one", s=(a, ""), t=("*", a))
        rules.add("split", None, "split", t=(a, ""), s=("*", a), half=("0", ""))
    rules.add("read", "3", "read")
    rules.add("read", ".", "one")
    rules.add("one", None, "split", s=("", ""))
    rules.add("split", None, "turn", half=("", ""))
    rules.move("turn", "s", "half", "compare", other)
    for a in "01":
        rules.add("compare", None, "compare", t=(a, ""), half=(a, ""))
        rules.add("compare", None, f"it is {a}", t=("2", ""), half=(a, ""))
        rules.add("compare", None, f"it is {a}", t=(a, ""), half=("2", ""))
        rules.add(f"it is {a}", "_", f"it is {a}", a)
    return rules.machine("0123._", "0 1 2", "read")


def odds_first() -> PDA:
    rules = _Rules("odd", "even", "out")
    for a in "01":
        rules.add("odd", a, "even", odd=("*", a))
        rules.add("even", a, "odd", even=("*", a))
        rules.add("write odds", "_", "write odds", a, out=(a, ""))
    rules.add("odd", ".", "turn")
    rules.add("even", ".", "turn")
    rules.move("turn", "odd", "out", "write odds")
    rules.add("write odds", None, "turn evens", out=("", ""))
    rules.move("turn evens", "even", "out", "write evens")
    rules.write("write evens", "out", None)
    return rules.machine("01._", "0 1", "odd")


def _finish(rules: _Rules, state: str, stack: str, other: str) -> None:
    """The number on a stack, highest digit on top, written lowest first without its leading zeros."""
    rules.add(state, None, state, **{stack: ("0", "")})
    rules.add(state, None, "last turn", **{stack: ("1", "1")})
    rules.add(state, None, "written", **{stack: ("", "")})
    rules.move("last turn", stack, other, "written")
    rules.write("written", other, "2")


def binary_addition() -> PDA:
    rules = _Rules("a", "b", "c")
    for d in "01":
        rules.add("first", d, "first", a=("*", d))
        rules.add("second", d, "second", b=("*", d))
    rules.add("first", "+", "second")
    rules.add("second", ".", "turn a")
    rules.move("turn a", "a", "c", "turn b")
    rules.move("turn b", "b", "a", "carry 0")
    for carry in (0, 1):
        for x in ("0", "1", ""):
            for y in ("0", "1", ""):
                if x or y:
                    total = carry + int(x or 0) + int(y or 0)
                    acts = {"a": (x, ""), "c": (y, ""), "b": ("*", str(total % 2))}
                    rules.add(f"carry {carry}", None, f"carry {total // 2}", **acts)
        rules.add(f"carry {carry}", None, "strip", a=("", ""), c=("", ""), b=("*", str(carry)))
    _finish(rules, "strip", "b", "c")
    return rules.machine("01+._", "0 1", "first")


def binary_multiplication() -> PDA:
    """Add and shift: the lowest digit of the sum is final after every digit of the multiplier."""
    rules = _Rules("a", "b", "kept", "sum", "next", "out")
    for d in "01":
        rules.add("first", d, "first", kept=("*", d))
        rules.add("second", d, "second", next=("*", d))
    rules.add("first", "*", "second")
    rules.add("second", ".", "turn a")
    rules.move("turn a", "kept", "a", "turn b")
    rules.move("turn b", "next", "b", "digit")
    for d in "01":
        rules.add("digit", None, "digit", b=("0", ""), sum=(d, ""), out=("*", d))
    rules.add("digit", None, "digit", b=("0", ""), sum=("", ""), out=("*", "0"))
    rules.add("digit", None, "low 0", b=("1", ""))
    rules.add("digit", None, "rest", b=("", ""))
    for carry in (0, 1):
        for where, stack in (("low", "out"), ("add", "next")):
            if (where, carry) == ("low", 1):
                continue
            for x in ("0", "1", ""):
                for y in ("0", "1", ""):
                    if x or y:
                        total = carry + int(x or 0) + int(y or 0)
                        acts = {"sum": (y, ""), stack: ("*", str(total % 2))}
                        acts |= {"a": (x, ""), "kept": ("*", x)}
                        rules.add(f"{where} {carry}", None, f"add {total // 2}", **acts)
        rules.add(f"add {carry}", None, "back a", a=("", ""), sum=("", ""), next=("*", "1" * carry))
    rules.move("back a", "kept", "a", "back sum")
    rules.move("back sum", "next", "sum", "digit")
    rules.move("rest", "sum", "out", "strip")
    _finish(rules, "strip", "out", "next")
    return rules.machine("01*._", "0 1", "first")


def compute_sqrt() -> PDA:
    """Two digits down, one digit of the root a round: keep r - (4 root + 1) where it is not negative.

    On `tried` a symbol holds the digit of r and of the difference, so that either can be restored.
    """
    rules = _Rules("left", "r", "root", "tried", "seen")
    for d in "01":
        rules.add("even", d, "odd", tried=("*", d))
        rules.add("odd", d, "even", tried=("*", d))
        rules.add("high", None, "low", left=(d, ""), r=("*", d))
        rules.add("low", None, "try", left=(d, ""), r=("*", d))
    rules.add("even", ".", "turn even")
    rules.add("odd", ".", "turn odd")
    rules.move("turn even", "tried", "left", "high")
    rules.move("turn odd", "tried", "left", "low")
    rules.add("high", None, "turn root", left=("", ""))
    for x in ("0", "1", ""):
        _subtract(rules, "try", "zero", x, 1, 0)
        for borrow in (0, 1):
            _subtract(rules, f"zero {borrow}", "rest", x, 0, borrow)
            for y in ("0", "1", ""):
                if x or y:
                    acts = {"root": (y, ""), "seen": ("*", y)}
                    _subtract(rules, f"rest {borrow}", "rest", x, int(y or 0), borrow, **acts)
    for borrow in (0, 1):
        rules.add(f"rest {borrow}", None, f"restore {borrow}", r=("", ""), root=("", ""))
        for pair in ("00", "01", "10", "11"):
            digit = pair[1 - borrow]
            state = f"restore {borrow}"
            if digit == "1":
                rules.add(state, None, state, tried=(pair, ""), r=("*", "1"))
            else:  # zeros above the highest one are dropped
                rules.add(state, None, state, tried=(pair, ""), r=("", ""))
                for top in "01":
                    rules.add(state, None, state, tried=(pair, ""), r=(top, f"{top} 0"))
        rules.add(f"restore {borrow}", None, f"root {borrow}", tried=("", ""))
        for d in "01":
            rules.add(f"root {borrow}", None, f"root {borrow}", seen=(d, ""), root=("*", d))
        rules.add(f"root {borrow}", None, "high", seen=("", ""), root=("*", str(1 - borrow)))
    rules.move("turn root", "root", "seen", "written")
    rules.write("written", "seen", None)
    return rules.machine("01._", "0 1 00 01 10 11", "even")


def _subtract(
    rules: _Rules, state: str, after: str, x: str, digit: int, borrow: int, **acts: tuple[str, str]
) -> None:
    difference = int(x or 0) - digit - borrow
    pair = f"{x or 0}{difference % 2}"
    rules.add(state, None, f"{after} {int(difference < 0)}", r=(x, ""), tried=("*", pair), **acts)


def parity() -> Mealy:
    return _mealy("01", 0, lambda q, a: q ^ int(a), str)
