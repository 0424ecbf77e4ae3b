"""Example machines: regular, counter, pushdown and Turing, and random ones."""

from __future__ import annotations

import random
from collections.abc import Callable

from nextstate.checks import refuse
from nextstate.machines.algebra import minimise
from nextstate.machines.automata import DFA, Mealy
from nextstate.machines.counters import CounterMachine
from nextstate.machines.pushdown import PDA
from nextstate.machines.regex import regex
from nextstate.machines.turing import TuringMachine


def tomita(number: int) -> DFA:
    """The minimal automaton of the nth language of Tomita, n = 1..7, over the letters 0 and 1.

    1 only ones; 2 (10)*; 3 no odd run of zeros anywhere after an odd run of ones; 4 no 000; 5 even zeros and
    even ones; 6 zeros minus ones divisible by 3; 7 0*1*0*1*.

    Source: Tomita 1982.

    >>> [len(tomita(n).states) for n in range(1, 8)]
    [2, 3, 5, 4, 4, 3, 5]
    """
    even, third = (0, 1), (0, 1, 2)
    if number == 5:
        rows = {(z, o): [(1 - z, o), (z, 1 - o)] for z in even for o in even}
        return minimise(DFA.table("01", rows, accepting=[(0, 0)]))  # type: ignore[return-value]
    if number == 6:
        return DFA.table("01", {d: [(d + 1) % 3, (d - 1) % 3] for d in third}, accepting=[0])
    if number == 3:  # a: no odd run of ones yet, b: within one, c: after one with even zeros, d: odd zeros
        rows3 = {
            "a": ["a", "b"],
            "b": ["d", "a"],
            "c": ["d", "e"],
            "d": ["c", "x"],
            "e": ["d", "c"],
            "x": "xx",
        }
        return minimise(DFA.table("01", rows3, accepting="abce"))  # type: ignore[return-value]
    patterns = {1: "1*", 2: "(10)*", 4: "(1|01|001)*(0|00)?", 7: "0*1*0*1*"}
    if number not in patterns:
        refuse("tomita", f"number is {number!r}; there are 1 to 7")
    return regex(patterns[number], "01")


def parity() -> DFA:
    """An odd number of ones.

    >>> parity().accepts("0111")
    True
    """
    return DFA.table("01", {0: [0, 1], 1: [1, 0]}, accepting=[1])


def modular(modulus: int, remainder: int = 0) -> DFA:
    """The number of ones has a given remainder.

    >>> modular(5, 2).accepts("1" * 12)
    True
    """
    return DFA.table("01", {i: [i, (i + 1) % modulus] for i in range(modulus)}, accepting=[remainder])


def dyck(depth: int, kinds: int = 1) -> DFA:
    """Balanced brackets of some kinds, nested at most so deep: Dyck-(kinds, depth).

    >>> dyck(2).accepts("(())()"), dyck(2).accepts("((()))"), len(dyck(3, 2).states)
    (True, False, 15)
    """
    if depth < 0 or not 1 <= kinds <= 4:
        refuse("dyck", f"depth is {depth} and kinds is {kinds}; expected depth >= 0 and 1 to 4 kinds")
    pairs = ["()", "[]", "{}", "<>"][:kinds]
    states, frontier = [""], [""]
    for _ in range(depth):
        frontier = [stack + pair[0] for stack in frontier for pair in pairs]
        states += frontier
    table = {}
    for stack in states:
        for opening, closing in map(tuple, pairs):
            if len(stack) < depth:
                table[stack, opening] = stack + opening
            if stack.endswith(opening):
                table[stack, closing] = stack[:-1]
    named = {stack: stack or "empty" for stack in states}
    moves = {(named[q], a): named[target] for (q, a), target in table.items()}
    return DFA(tuple("".join(pairs)), tuple(named.values()), "empty", {"empty"}, moves)


def random_dfa(states: int, letters: int, *, missing: float = 0.0, seed: int = 0) -> DFA:
    """A machine with random targets, each missing with a given probability; half of the states accept.

    >>> random_dfa(5, 2, seed=3) == random_dfa(5, 2, seed=3)
    True
    """
    if states < 1 or not 1 <= letters <= 26:
        refuse("random_dfa", f"states is {states} and letters is {letters}; expected 1 or more, and 1 to 26")
    draw = random.Random(f"{states} {letters} {missing} {seed}")
    alphabet = tuple("abcdefghijklmnopqrstuvwxyz"[:letters])
    rows = {
        q: [None if draw.random() < missing else draw.randrange(states) for _ in alphabet]
        for q in range(states)
    }
    return DFA.table(alphabet, rows, accepting=[q for q in range(states) if draw.random() < 0.5])


def binary_addition() -> Mealy:
    """The sum of two binary numbers, lowest digits first: letters are pairs of digits, the state the carry.

    >>> "".join(binary_addition().outputs_of(["11", "10", "00"]))          # 3 + 1
    '001'
    """
    moves = {
        (carry, f"{a}{b}"): ((carry + a + b) // 2, str((carry + a + b) % 2))
        for carry in (0, 1)
        for a in (0, 1)
        for b in (0, 1)
    }
    return Mealy(("00", "01", "10", "11"), (0, 1), 0, moves)


def equal_blocks(letters: str = "abc") -> CounterMachine:
    """a^n b^n c^n ... for any number of letters: counter i holds how many of letter i+1 are still owed.

    >>> equal_blocks().accepts("aabbcc"), equal_blocks("ab").accepts("aab")
    (True, False)
    """
    k = len(letters) - 1
    zeros = "0" * k
    moves = {(0, letters[0], "*" * k): (0, (1,) * k)}
    for i in range(k):
        tests = "0" * i + "+" + "*" * (k - 1 - i)
        lower = tuple(-int(j == i) for j in range(k))
        moves[i, letters[i + 1], tests] = (i + 1, lower)
        moves[i + 1, letters[i + 1], tests] = (i + 1, lower)
    return CounterMachine(letters, tuple(range(k + 1)), 0, {0: zeros, k: zeros}, moves, counters=k)


def counting_sort(values: int) -> CounterMachine:
    """Sorting by counting: reads digits, then for every "_" writes the smallest digit still owed.

    >>> [x for x in counting_sort(3).outputs_of("2021____") if x is not None]
    ['0', '1', '2', '2']
    """
    digits = [str(i) for i in range(values)]
    moves: dict[object, object] = {}
    for i, digit in enumerate(digits):
        raised = tuple(int(i == j) for j in range(values))
        lowered = tuple(-int(i == j) for j in range(values))
        moves["read", digit, "*" * values] = ("read", raised)
        tests = "0" * i + "+" + "*" * (values - 1 - i)
        moves["read", "_", tests] = ("write", lowered, digit)
        moves["write", "_", tests] = ("write", lowered, digit)
    return CounterMachine((*digits, "_"), ("read", "write"), "read", {"write": "0" * values}, moves, values)


def marked_palindromes() -> PDA:
    """The words w # reversed(w) over a and b.

    >>> marked_palindromes().accepts("ab#ba"), marked_palindromes().accepts("ab#ab")
    (True, False)
    """
    moves: dict[object, object] = {("read", "#", "*"): ("check", "")}
    for a in "ab":
        moves["read", a, "*"] = ("read", a)
        moves["check", a, a] = ("check", "")
    return PDA("ab#", "ab", ("read", "check"), "read", {"check": ""}, moves)


def palindromes() -> TuringMachine:
    """Palindromes over a and b, without a mark in the middle: no deterministic pushdown automaton does it.

    >>> [word for word in ("", "aba", "abba", "ab") if palindromes().accepts(word)]
    ['', 'aba', 'abba']
    """
    moves = {("pick", "_"): ("yes", "_", "S"), ("back", "_"): ("pick", "_", "R")}
    for a in "ab":
        moves["pick", a] = (f"carry-{a}", "_", "R")
        moves[f"carry-{a}", "_"] = (f"compare-{a}", "_", "L")
        moves[f"compare-{a}", a] = ("back", "_", "L")
        moves[f"compare-{a}", "_"] = ("yes", "_", "S")
        moves["back", a] = ("back", a, "L")
        for b in "ab":
            moves[f"carry-{a}", b] = (f"carry-{a}", b, "R")
    states = tuple(dict.fromkeys(["pick", "back", "yes", *(q for q, _ in moves)]))
    return TuringMachine("_ab", states, "pick", {"yes"}, moves)


_BEAVERS = {
    2: "1RB1LB_1LA1RZ",
    3: "1RB1RZ_0RC1RB_1LC1LA",
    4: "1RB1LB_1LA0LC_1RZ1LD_1RD0RA",
    5: "1RB1LC_1RC1RB_1RD0LE_1LA1LD_1RZ0LA",
}


def busy_beaver(states: int) -> TuringMachine:
    """The two-symbol machine of 2 to 5 states that leaves most ones: 4, 6, 13, 4098.

    Source: Rado 1962; Brady 1983; Marxen and Buntrock 1990.

    >>> ones = busy_beaver(4).run("")
    >>> (ones.left + ones.right).count("1")
    13
    """
    if states not in _BEAVERS:
        refuse("busy_beaver", f"states is {states!r}; there are {list(_BEAVERS)}")
    return TuringMachine.standard(_BEAVERS[states])


NAMED: dict[str, Callable[[], DFA]] = {
    **{f"tomita{n}": (lambda n=n: tomita(n)) for n in range(1, 8)},  # type: ignore[misc]
    "parity": parity,
    "mod5": lambda: modular(5),
    "dyck3": lambda: dyck(3),
}
"""Regular languages by name, for the command line."""
