"""Finite automata: acceptors, Moore machines, Mealy machines, and their plain interpreters."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nextstate.machines.words import (
    STUCK,
    Letter,
    State,
    Table,
    Word,
    check_word,
    names,
    repeated,
    report,
    table,
    unknown,
)


@dataclass(frozen=True)
class DFA:
    """A deterministic finite automaton, complete or partial.

    DFA : word -> accepted

    `transitions` maps (state, letter) to a state. Where a pair is missing the machine is stuck: it stays
    stuck and accepts no continuation.

    Raises InputError with every fault at once: unknown states or letters, doubles, an empty alphabet.
    Source: Rabin and Scott 1959.

    >>> even = DFA.table("01", {"even": ["even", "odd"], "odd": ["odd", "even"]}, accepting=["even"])
    >>> even.accepts("0110"), even.accepts("01"), even.trace("011")
    (True, False, ['even', 'even', 'odd', 'even'])
    """

    alphabet: Sequence[Letter]
    states: Sequence[State]
    start: State
    accepting: Collection[State]
    transitions: Mapping[Any, Any]

    def __post_init__(self) -> None:
        _freeze(self)
        object.__setattr__(self, "accepting", frozenset(names("DFA", "accepting", self.accepting)))
        report("DFA", _faults(self) + unknown("state", self.accepting, self.states, "accepting"))

    @classmethod
    def table(
        cls, alphabet: Sequence[Letter], rows: Mapping[Any, Sequence[Any]], *, accepting: Iterable[Any]
    ) -> DFA:
        """A machine from one row a state, targets in the order of the alphabet; None where there is none.

        The first row is the start state.

        >>> DFA.table("ab", {0: [0, 1], 1: [None, 1]}, accepting=[0, 1]).accepts("aabbb")
        True
        """
        return cls(
            tuple(alphabet),
            tuple(rows),
            next(iter(rows), None),
            frozenset(accepting),
            _rows("DFA", alphabet, rows),
        )

    def step(self, state: State, letter: Letter) -> State:
        return self.transitions.get((state, letter), STUCK)

    def trace(self, word: Word) -> list[State]:
        """The states before, between and after the letters of a word."""
        return _trace(self, word)

    def accepts(self, word: Word) -> bool:
        return self.trace(word)[-1] in self.accepting

    def label(self, state: State) -> bool:
        """What is observed in a state: whether it accepts."""
        return state in self.accepting


@dataclass(frozen=True)
class Moore:
    """A finite machine that shows an output in every state.

    Moore : word -> [output], one more than letters

    `outputs` maps every state to its output; a stuck machine shows None.

    Source: Moore 1956.

    >>> mod3 = Moore.table("1", {0: ["b"], "b": [2], 2: [0]}, outputs={0: "0", "b": "1", 2: "2"})
    >>> mod3.outputs_of("1111")
    ['0', '1', '2', '0', '1']
    """

    alphabet: Sequence[Letter]
    states: Sequence[State]
    start: State
    outputs: Mapping[Any, Any]
    transitions: Mapping[Any, Any]

    def __post_init__(self) -> None:
        _freeze(self)
        object.__setattr__(self, "outputs", table("Moore", "outputs", self.outputs))
        mute = [f"state {q!r} has no output" for q in self.states if q not in self.outputs]
        report("Moore", _faults(self) + unknown("state", self.outputs, self.states, "outputs") + mute)

    @classmethod
    def table(
        cls,
        alphabet: Sequence[Letter],
        rows: Mapping[Any, Sequence[Any]],
        *,
        outputs: Mapping[Any, Any],
    ) -> Moore:
        """A machine from one row a state, as `DFA.table`, and the output of every state.

        >>> Moore.table("a", {0: [1], 1: [0]}, outputs={0: "x", 1: "y"}).label(1)
        'y'
        """
        start = next(iter(rows), None)
        return cls(tuple(alphabet), tuple(rows), start, Table(outputs), _rows("Moore", alphabet, rows))

    def step(self, state: State, letter: Letter) -> State:
        return self.transitions.get((state, letter), STUCK)

    def trace(self, word: Word) -> list[State]:
        """The states before, between and after the letters of a word."""
        return _trace(self, word)

    def outputs_of(self, word: Word) -> list[Any]:
        return [self.label(state) for state in self.trace(word)]

    def label(self, state: State) -> Any:
        """What is observed in a state: its output."""
        return None if state is STUCK else self.outputs[state]


@dataclass(frozen=True)
class Mealy:
    """A finite machine that writes one output a letter.

    Mealy : word -> [output], as many as letters

    `transitions` maps (state, letter) to (state, output); a stuck machine writes None.

    Source: Mealy 1955.

    >>> delay = Mealy("01", (0, 1), 0, {(q, a): (int(a), str(q)) for q in (0, 1) for a in "01"})
    >>> delay.outputs_of("1101")
    ['0', '1', '1', '0']
    """

    alphabet: Sequence[Letter]
    states: Sequence[State]
    start: State
    transitions: Mapping[Any, Any]

    def __post_init__(self) -> None:
        _freeze(self)
        shape = [
            f"transition {key!r} leads to {value!r}, expected (state, output)"
            for key, value in self.transitions.items()
            if not (isinstance(value, tuple) and len(value) == 2)
        ]
        report("Mealy", shape or _faults(self))

    def step(self, state: State, letter: Letter) -> State:
        return self.transitions.get((state, letter), (STUCK, None))[0]

    def trace(self, word: Word) -> list[State]:
        """The states before, between and after the letters of a word."""
        return _trace(self, word)

    def outputs_of(self, word: Word) -> list[Any]:
        return [
            self.transitions.get((state, letter), (STUCK, None))[1]
            for state, letter in zip(self.trace(word), word, strict=False)
        ]


Automaton = DFA | Moore | Mealy


def _rows(kind: str, alphabet: Sequence[Letter], rows: Mapping[Any, Sequence[Any]]) -> Table:
    report(
        kind,
        [
            f"row {state!r} has {len(row)} targets for {len(alphabet)} letters"
            for state, row in rows.items()
            if len(row) != len(alphabet)
        ],
    )
    return Table(
        {
            (state, letter): target
            for state, row in rows.items()
            for letter, target in zip(alphabet, row, strict=True)
            if target is not None
        }
    )


def _freeze(machine: Any) -> None:
    for field in ("alphabet", "states"):
        object.__setattr__(machine, field, names(type(machine).__name__, field, getattr(machine, field)))
    kind = type(machine).__name__
    names(kind, "start", [machine.start])
    object.__setattr__(machine, "transitions", table(kind, "transitions", machine.transitions))


def _faults(machine: Any) -> list[str]:
    faults = repeated("letter", machine.alphabet) + repeated("state", machine.states)
    if not machine.alphabet:
        faults.append("the alphabet is empty")
    faults += unknown("state", [machine.start], machine.states, "start")
    malformed = [key for key in machine.transitions if not (isinstance(key, tuple) and len(key) == 2)]
    faults += [f"transition {key!r} is not (state, letter)" for key in malformed]
    if malformed:
        return faults
    targets = [t[0] if isinstance(machine, Mealy) else t for t in machine.transitions.values()]
    faults += unknown("state", [q for q, _ in machine.transitions] + targets, machine.states, "transitions")
    return faults + unknown("letter", [a for _, a in machine.transitions], machine.alphabet, "transitions")


def _trace(machine: Any, word: Word) -> list[State]:
    check_word(type(machine).__name__, word, machine.alphabet)
    return list(_walk(machine, word))


def _walk(machine: Any, word: Word) -> Iterator[State]:
    state = machine.start
    yield state
    for letter in word:
        state = machine.step(state, letter)
        yield state
