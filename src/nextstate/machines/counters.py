"""Real-time counter machines: a finite control and counters it can raise, lower and test for zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

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


class Counted(NamedTuple):
    """Configuration of a counter machine."""

    state: State
    counters: tuple[int, ...]


@dataclass(frozen=True)
class CounterMachine:
    """A deterministic counter machine that moves once a letter.

    CounterMachine : word -> (accepted, [output])

    `transitions` maps (state, letter, tests) to (state, steps) or (state, steps, output). `tests` has one
    sign a counter: "0" is zero, "+" is positive, "*" does not matter. `steps` is added to the counters; a
    counter may only be lowered by 1, and where its test is "+". `accepting` maps a state to the tests, of
    "0" and "*", under which it accepts (a plain set of states: always).

    Raises InputError with every fault at once.
    Source: Fischer, Meyer and Rosenberg 1968 (real-time counter machines).

    >>> anbn = CounterMachine("ab", ("a", "b"), "a", {"a": "0", "b": "0"}, {
    ...     ("a", "a", "*"): ("a", (1,)), ("a", "b", "+"): ("b", (-1,)), ("b", "b", "+"): ("b", (-1,))})
    >>> anbn.accepts("aaabbb"), anbn.accepts("aabbb"), anbn.trace("aab")[-1]
    (True, False, Counted(state='b', counters=(1,)))
    """

    alphabet: Sequence[Letter]
    states: Sequence[State]
    start: State
    accepting: Any
    transitions: Mapping[Any, Any]
    counters: int = 1

    def __post_init__(self) -> None:
        for field in ("alphabet", "states"):
            object.__setattr__(self, field, names("CounterMachine", field, getattr(self, field)))
        names("CounterMachine", "start", [self.start])
        report("CounterMachine", _malformed(self))
        object.__setattr__(self, "accepting", _with_tests(self.accepting, "*" * self.counters))
        moves = {key: (*value, None) if len(value) == 2 else value for key, value in self.transitions.items()}
        object.__setattr__(self, "transitions", table("CounterMachine", "transitions", moves))
        report("CounterMachine", _faults(self))

    def step(self, configuration: Counted | Stuck, letter: Letter) -> Counted | Stuck:
        return self._move(configuration, letter)[0]

    def trace(self, word: Word) -> list[Counted | Stuck]:
        """The configurations before, between and after the letters of a word."""
        check_word("CounterMachine", word, self.alphabet)
        here: Counted | Stuck = Counted(self.start, (0,) * self.counters)
        path = [here]
        for letter in word:
            here = self.step(here, letter)
            path.append(here)
        return path

    def accepts(self, word: Word) -> bool:
        return self.accepts_in(self.trace(word)[-1])

    def accepts_in(self, configuration: Counted | Stuck) -> bool:
        if isinstance(configuration, Stuck) or configuration.state not in self.accepting:
            return False
        return _match(self.accepting[configuration.state], configuration.counters)

    def outputs_of(self, word: Word) -> list[Any]:
        """The outputs written, one a letter; None where a move writes nothing."""
        return [self._move(here, a)[1] for here, a in zip(self.trace(word), word, strict=False)]

    def _move(self, configuration: Counted | Stuck, letter: Letter) -> tuple[Counted | Stuck, Any]:
        if not isinstance(configuration, Stuck):
            for (_, _, tests), (target, steps, output) in self._rules().get(
                (configuration.state, letter), ()
            ):
                if _match(tests, configuration.counters):
                    raised = tuple(x + d for x, d in zip(configuration.counters, steps, strict=True))
                    return Counted(target, raised), output
        return STUCK, None

    def _rules(self) -> dict[Any, list[Any]]:
        index = self.__dict__.get("_index")
        if index is None:
            index = {}
            for key, value in self.transitions.items():
                index.setdefault(key[:2], []).append((key, value))
            object.__setattr__(self, "_index", index)
        return index


def _match(tests: str, counters: tuple[int, ...]) -> bool:
    return all(t == "*" or (t == "0") == (x == 0) for t, x in zip(tests, counters, strict=True))


def _with_tests(accepting: Mapping[State, str] | Iterable[State], default: str) -> Table:
    if isinstance(accepting, Mapping):
        return table("CounterMachine", "accepting", accepting)
    return Table(dict.fromkeys(names("CounterMachine", "accepting", accepting), default))


def overlap(left: Iterable[Any], right: Iterable[Any]) -> bool:
    """Whether two rows of tests can both hold ("*" holds always).

    >>> overlap("0*", "*+"), overlap("0*", "++")
    (True, False)
    """
    return all(x == y or "*" in (x, y) for x, y in zip(left, right, strict=True))


def _malformed(machine: CounterMachine) -> list[str]:
    """What cannot be looked into any further."""
    if not isinstance(machine.counters, int) or not 0 <= machine.counters <= LARGEST:
        return [f"counters is {machine.counters!r}; expected a whole number from 0 to {LARGEST}"]
    if not isinstance(machine.transitions, Mapping):
        return [f"transitions is {machine.transitions!r}; expected a mapping"]
    return [
        f"transition {key!r} -> {value!r} is not (state, letter, tests) -> (state, steps[, output])"
        for key, value in machine.transitions.items()
        if not (isinstance(key, tuple) and isinstance(value, tuple))
        or (len(key), len(value)) not in ((3, 2), (3, 3))
        or not (isinstance(key[2], str) and isinstance(value[1], tuple))
        or not all(isinstance(step, int) for step in value[1])
    ]


def _faults(machine: CounterMachine) -> list[str]:
    k = machine.counters
    faults = repeated("letter", machine.alphabet) + repeated("state", machine.states)
    if not machine.alphabet:
        faults.append("the alphabet is empty")
    faults += unknown("state", [machine.start], machine.states, "start")
    faults += unknown("state", machine.accepting, machine.states, "accepting")
    for state, tests in machine.accepting.items():
        if not isinstance(tests, str) or len(tests) != k or set(tests) - set("0*"):
            faults.append(f"accepting {state!r} has tests {tests!r}, expected {k} signs of '0' and '*'")
    for (state, letter, tests), (target, steps, _) in machine.transitions.items():
        where = f"transition {(state, letter, tests)!r}"
        faults += unknown("state", [state, target], machine.states, where)
        faults += unknown("letter", [letter], machine.alphabet, where)
        if len(tests) != k or set(tests) - set("0+*"):
            faults.append(f"{where} needs {k} tests of '0', '+', '*'")
        elif len(steps) != k:
            faults.append(f"{where} has {len(steps)} steps for {k} counters")
        else:
            for i, (test, step) in enumerate(zip(tests, steps, strict=True)):
                if step < -1 or (step == -1 and test != "+"):
                    faults.append(
                        f"{where} adds {step} to counter {i} tested {test!r}: -1 needs the test '+'"
                    )
    for (p, a, left), (q, b, right) in combinations(machine.transitions, 2):
        if (p, a) == (q, b) and len(left) == len(right) and overlap(left, right):
            faults.append(f"transitions {(p, a, left)!r} and {(q, b, right)!r} can both apply")
    return faults
