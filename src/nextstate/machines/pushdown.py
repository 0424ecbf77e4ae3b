"""Deterministic pushdown automata, with one stack or several, with or without output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

from nextstate.checks import refuse
from nextstate.machines.counters import overlap
from nextstate.machines.words import (
    LARGEST,
    STUCK,
    Letter,
    State,
    Stuck,
    Table,
    Word,
    check_word,
    names,
    repeated,
    report,
    table,
    unknown,
)

ANY, EMPTY = "*", ""
"""Tests of a stack: look at nothing (and pop nothing); be empty."""


class Stacked(NamedTuple):
    """Configuration of a pushdown automaton; the last symbol of a stack is its top."""

    state: State
    stacks: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class PDA:
    """A deterministic pushdown automaton; with two stacks it can do what a Turing machine can.

    PDA : word -> (accepted, [output])

    `transitions` maps (state, letter, tops) to (state, pushes) or (state, pushes, output). The letter None is
    a free move: free moves are taken before the next letter is read. `tops` has one entry a stack: a symbol,
    which is popped; "" if the stack must be empty; "*" to look at nothing and pop nothing. `pushes` has for
    each stack the symbols then pushed, the last one ending on top. With one stack both are written plainly.
    `accepting` maps a state to tests of "" and "*" (a plain set of states: always).

    Raises InputError with every fault at once, among them two moves that can both apply.
    Source: Hopcroft and Ullman 1979; several stacks: Siegelmann and Sontag 1995 (p-stack machines).

    >>> balanced = PDA("()", "(", ("q",), "q", {"q": ""}, {
    ...     ("q", "(", "*"): ("q", "("), ("q", ")", "("): ("q", "")})
    >>> balanced.accepts("(()())"), balanced.accepts("(()"), balanced.accepts("())(")
    (True, False, False)
    """

    alphabet: Sequence[Letter]
    symbols: Sequence[str]
    states: Sequence[State]
    start: State
    accepting: Any
    transitions: Mapping[Any, Any]
    stacks: int = 1

    def __post_init__(self) -> None:
        for field in ("alphabet", "symbols", "states"):
            object.__setattr__(self, field, names("PDA", field, getattr(self, field)))
        names("PDA", "start", [self.start])
        report("PDA", _malformed(self))
        accepting: Any = self.accepting
        if not isinstance(accepting, Mapping):
            accepting = dict.fromkeys(names("PDA", "accepting", accepting), (ANY,) * self.stacks)
        accepting = {
            q: (t,) if isinstance(t, str) else names("PDA", "tests", t) for q, t in accepting.items()
        }
        object.__setattr__(self, "accepting", Table(accepting))
        object.__setattr__(self, "transitions", table("PDA", "transitions", _normal(self.transitions)))
        report("PDA", _faults(self))

    @property
    def initial(self) -> Stacked:
        return Stacked(self.start, ((),) * self.stacks)

    def step(self, configuration: Stacked | Stuck, letter: Letter | None) -> Stacked | Stuck:
        """One move: on a letter, or the free move (None); STUCK if there is none."""
        return self.move(configuration, letter)[0]

    def move(self, configuration: Stacked | Stuck, letter: Letter | None) -> tuple[Stacked | Stuck, Any]:
        """One move and what it writes."""
        if not isinstance(configuration, Stuck):
            for tops, (target, pushes, output) in self._rules().get((configuration.state, letter), ()):
                if all(_holds(t, stack) for t, stack in zip(tops, configuration.stacks, strict=True)):
                    stacks = zip(tops, configuration.stacks, pushes, strict=True)
                    return Stacked(target, tuple(_changed(*part) for part in stacks)), output
        return STUCK, None

    def settle(self, configuration: Stacked | Stuck, limit: int = 1_000_000) -> Stacked | Stuck:
        """The configuration after all free moves.

        Raises InputError if more than `limit` of them follow each other.
        """
        moves = 0
        while (following := self.step(configuration, None)) is not STUCK:
            configuration = following
            moves += 1
            if moves > limit:
                refuse("PDA", f"more than limit={limit} free moves from one configuration")
        return configuration

    def trace(self, word: Word, limit: int = 1_000_000) -> list[Stacked | Stuck]:
        """The settled configurations before, between and after the letters of a word."""
        return [here for here, _ in self._walk(word, limit)]

    def accepts(self, word: Word, limit: int = 1_000_000) -> bool:
        return self.accepts_in(self.trace(word, limit)[-1])

    def accepts_in(self, configuration: Stacked | Stuck) -> bool:
        if isinstance(configuration, Stuck) or configuration.state not in self.accepting:
            return False
        tests = self.accepting[configuration.state]
        return all(_holds(t, stack) for t, stack in zip(tests, configuration.stacks, strict=True))

    def outputs_of(self, word: Word, limit: int = 1_000_000) -> list[Any]:
        """The outputs written, one a letter; None where a move writes nothing."""
        return [output for _, output in self._walk(word, limit)[1:]]

    def _walk(self, word: Word, limit: int) -> list[tuple[Stacked | Stuck, Any]]:
        check_word("PDA", word, self.alphabet)
        path: list[tuple[Stacked | Stuck, Any]] = [(self.settle(self.initial, limit), None)]
        for letter in word:
            here, output = self.move(path[-1][0], letter)
            path.append((self.settle(here, limit), output))
        return path

    def _rules(self) -> dict[Any, list[Any]]:
        index = self.__dict__.get("_index")
        if index is None:
            index = {}
            for (state, letter, tops), value in self.transitions.items():
                index.setdefault((state, letter), []).append((tops, value))
            object.__setattr__(self, "_index", index)
        return index


def _holds(test: str, stack: tuple[str, ...]) -> bool:
    return test == ANY or (not stack if test == EMPTY else bool(stack) and stack[-1] == test)


def _changed(test: str, stack: tuple[str, ...], pushed: tuple[str, ...]) -> tuple[str, ...]:
    return (stack if test in (ANY, EMPTY) else stack[:-1]) + pushed


def _normal(transitions: Mapping[Any, Any]) -> dict[Any, Any]:
    table = {}
    for (state, letter, tops), value in transitions.items():
        target, pushes, *output = value
        one = isinstance(tops, str)
        pushes = (tuple(pushes),) if one and not _nested(pushes) else tuple(tuple(p) for p in pushes)
        tops = (tops,) if one else tuple(tops)
        table[state, letter, tops] = (target, pushes, output[0] if output else None)
    return table


def _nested(pushes: Any) -> bool:
    return isinstance(pushes, tuple) and any(isinstance(p, tuple) for p in pushes)


def _malformed(machine: PDA) -> list[str]:
    """What cannot be looked into any further."""
    if not isinstance(machine.stacks, int) or not 1 <= machine.stacks <= LARGEST:
        return [f"stacks is {machine.stacks!r}; expected a whole number from 1 to {LARGEST}"]
    if not isinstance(machine.transitions, Mapping):
        return [f"transitions is {machine.transitions!r}; expected a mapping"]
    return [
        f"transition {key!r} -> {value!r} is not (state, letter, tops) -> (state, pushes[, output])"
        for key, value in machine.transitions.items()
        if not (isinstance(key, tuple) and isinstance(value, tuple))
        or (len(key), len(value)) not in ((3, 2), (3, 3))
        or not (isinstance(key[2], str | tuple) and isinstance(value[1], str | tuple | list))
        or not all(isinstance(push, str | tuple | list) for push in value[1])
    ]


def _faults(machine: PDA) -> list[str]:
    k = machine.stacks
    faults = repeated("letter", machine.alphabet) + repeated("state", machine.states)
    faults += repeated("symbol", machine.symbols)
    faults += [f"a stack symbol cannot be {s!r}" for s in machine.symbols if s in (ANY, EMPTY)]
    faults += unknown("state", [machine.start], machine.states, "start")
    faults += unknown("state", machine.accepting, machine.states, "accepting")
    for state, tests in machine.accepting.items():
        if len(tests) != k or set(tests) - {ANY, EMPTY}:
            faults.append(f"accepting {state!r} has tests {tests!r}, expected {k} of '' and '*'")
    for (state, letter, tops), (target, pushes, output) in machine.transitions.items():
        where = f"transition {(state, letter, tops)!r}"
        faults += unknown("state", [state, target], machine.states, where)
        faults += unknown("letter", [letter], (*machine.alphabet, None), where)
        if len(tops) != k or len(pushes) != k:
            faults.append(f"{where} has {len(tops)} tops and {len(pushes)} pushes for {k} stacks")
        faults += unknown("symbol", tops, (*machine.symbols, ANY, EMPTY), where)
        faults += unknown("symbol", [s for push in pushes for s in push], machine.symbols, where)
        if letter is None and output is not None:
            faults.append(f"{where} is a free move and cannot write {output!r}")
    by_state: dict[State, list[Any]] = {}
    for state, letter, tops in machine.transitions:
        by_state.setdefault(state, []).append((letter, tops))
    for state, moves in by_state.items():
        faults += [
            f"moves {(state, *left)!r} and {(state, *right)!r} can both apply"
            for left, right in combinations(moves, 2)
            if (left[0] == right[0] or None in (left[0], right[0])) and _both(left[1], right[1])
        ]
    return faults


def _both(left: Iterable[str], right: Iterable[str]) -> bool:
    left, right = tuple(left), tuple(right)
    return len(left) == len(right) and overlap(left, right)
