"""Regular expressions to minimal automata: Thompson's construction, subsets, minimisation."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from nextstate.checks import refuse
from nextstate.machines.algebra import minimise
from nextstate.machines.automata import DFA

_SPECIAL = frozenset("()|*+?.[]\\")


def regex(pattern: str, alphabet: Sequence[str]) -> DFA:
    r"""The minimal automaton of the words a regular expression matches as a whole.

    regex : (pattern, alphabet) -> DFA

    Syntax: letters, `.` any letter, `[ab]` and `[^ab]` sets, `( )`, `|`, `*`, `+`, `?`, `\` before a special
    character, the empty pattern for the empty word.

    Raises InputError at the place where the pattern is malformed or uses a letter outside the alphabet.
    Source: Thompson 1968; Rabin and Scott 1959.

    >>> machine = regex("(1|01*0)*", "01")                    # an even number of zeros
    >>> len(machine.states), machine.accepts("0110"), machine.accepts("0")
    (2, True, False)
    """
    if not isinstance(pattern, str):
        refuse("regex", f"the pattern is {pattern!r}; expected text")
    try:
        fragment = _Parser(pattern, tuple(alphabet)).parse()
    except RecursionError:
        refuse("regex", f"the groups of {pattern[:20]!r}... are nested too deep to be read")
    return minimise(fragment.determinise())  # type: ignore[return-value]


class _Nfa:
    """States 0..n-1; `moves[q]` holds (letter or None for a free move, target)."""

    def __init__(self, alphabet: tuple[str, ...]) -> None:
        self.alphabet = alphabet
        self.moves: list[list[tuple[str | None, int]]] = []
        self.start = self.end = 0

    def state(self) -> int:
        self.moves.append([])
        return len(self.moves) - 1

    def closure(self, states: set[int]) -> frozenset[int]:
        seen, todo = set(states), list(states)
        while todo:
            for letter, target in self.moves[todo.pop()]:
                if letter is None and target not in seen:
                    seen.add(target)
                    todo.append(target)
        return frozenset(seen)

    def determinise(self) -> DFA:
        start = self.closure({self.start})
        table: dict[Any, Any] = {}
        seen, queue = {start: 0}, deque([start])
        while queue:
            here = queue.popleft()
            for a in self.alphabet:
                target = self.closure({t for q in here for letter, t in self.moves[q] if letter == a})
                if target not in seen:
                    seen[target] = len(seen)
                    queue.append(target)
                table[seen[here], a] = seen[target]
        accepting = frozenset(number for subset, number in seen.items() if self.end in subset)
        return DFA(self.alphabet, tuple(seen.values()), 0, accepting, table)


class _Parser:
    """Recursive descent; every method returns the (start, end) states of what it read."""

    def __init__(self, pattern: str, alphabet: tuple[str, ...]) -> None:
        self.pattern, self.at, self.nfa = pattern, 0, _Nfa(alphabet)
        long = [a for a in alphabet if not isinstance(a, str) or len(a) != 1]
        if long:
            refuse("regex", f"letters must be single characters, got {long}")

    def parse(self) -> _Nfa:
        self.nfa.start, self.nfa.end = self.alternatives()
        if self.at < len(self.pattern):
            self.fail("unexpected character")
        return self.nfa

    def alternatives(self) -> tuple[int, int]:
        start, end = self.nfa.state(), self.nfa.state()
        while True:
            first, last = self.sequence()
            self.free(start, first)
            self.free(last, end)
            if self.peek() != "|":
                return start, end
            self.at += 1

    def sequence(self) -> tuple[int, int]:
        start = end = self.nfa.state()
        while self.peek() not in ("", "|", ")"):
            first, last = self.repeated()
            self.free(end, first)
            end = last
        return start, end

    def repeated(self) -> tuple[int, int]:
        first, last = self.atom()
        while self.peek() in ("*", "+", "?"):
            sign = self.peek()
            self.at += 1
            start, end = self.nfa.state(), self.nfa.state()
            self.free(start, first)
            self.free(last, end)
            if sign in "*?":
                self.free(start, end)
            if sign in "*+":
                self.free(last, first)
            first, last = start, end
        return first, last

    def atom(self) -> tuple[int, int]:
        sign = self.peek()
        if sign == "(":
            self.at += 1
            inner = self.alternatives()
            if self.peek() != ")":
                self.fail("a ( is not closed")
            self.at += 1
            return inner
        if sign == "[":
            return self.letters(self.chosen())
        if sign == ".":
            self.at += 1
            return self.letters(set(self.nfa.alphabet))
        return self.letters({self.letter()})

    def chosen(self) -> set[str]:
        self.at += 1
        excluded = self.peek() == "^"
        self.at += excluded
        listed: set[str] = set()
        while self.peek() != "]":
            if not self.peek():
                self.fail("a [ is not closed")
            listed.add(self.letter())
        self.at += 1
        return set(self.nfa.alphabet) - listed if excluded else listed

    def letter(self) -> str:
        sign = self.peek()
        if sign == "\\":
            self.at += 1
            sign = self.peek()
        elif sign in _SPECIAL:
            self.fail("nothing to repeat or close")
        if sign not in self.nfa.alphabet:
            self.fail(f"the alphabet is {list(self.nfa.alphabet)}")
        self.at += 1
        return sign

    def letters(self, chosen: set[str]) -> tuple[int, int]:
        start, end = self.nfa.state(), self.nfa.state()
        self.nfa.moves[start] += [(a, end) for a in sorted(chosen)]
        return start, end

    def free(self, source: int, target: int) -> None:
        self.nfa.moves[source].append((None, target))

    def peek(self) -> str:
        return self.pattern[self.at] if self.at < len(self.pattern) else ""

    def fail(self, why: str) -> None:
        refuse("regex", f"{why} at position {self.at} of {self.pattern!r} ({self.peek() or 'end'!r})")
