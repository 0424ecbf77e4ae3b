"""Turing machines with one tape, infinite to both sides."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from nextstate.checks import refuse
from nextstate.machines.words import State, Table, Word, check_word, names, repeated, report, unknown


class Taped(NamedTuple):
    """Configuration of a Turing machine, free of the blanks beyond the last symbol of each side.

    `left` ends beside the head; `right` begins with the symbol under it.
    """

    state: State
    left: tuple[str, ...]
    right: tuple[str, ...]


@dataclass(frozen=True)
class TuringMachine:
    """A deterministic Turing machine.

    TuringMachine : word on the tape -> tape

    `transitions` maps (state, symbol under the head) to (state, symbol written, move), the move one of
    "L", "R", "S". It halts where there is no transition, and accepts if it halts in an `accepting` state.
    The head starts on the first letter of the word. The first symbol is the blank.

    Raises InputError with every fault at once.
    Source: Turing 1936.

    >>> flip = TuringMachine("_01", ("go",), "go", (),
    ...     {("go", "0"): ("go", "1", "R"), ("go", "1"): ("go", "0", "R")})
    >>> "".join(flip.run("0110").left)
    '1001'
    """

    symbols: Sequence[str]
    states: Sequence[State]
    start: State
    accepting: Collection[State]
    transitions: Mapping[Any, Any]

    def __post_init__(self) -> None:
        for field in ("symbols", "states"):
            object.__setattr__(self, field, names("TuringMachine", field, getattr(self, field)))
        accepting = frozenset(names("TuringMachine", "accepting", self.accepting))
        object.__setattr__(self, "accepting", accepting)
        names("TuringMachine", "start", [self.start])
        if not isinstance(self.transitions, Mapping):
            refuse("TuringMachine", f"transitions is {self.transitions!r}; expected a mapping")
        object.__setattr__(self, "transitions", Table(self.transitions))
        report("TuringMachine", _faults(self))

    @classmethod
    def standard(cls, text: str) -> TuringMachine:
        """A machine in the notation of the busy-beaver lists: one group a state, one triple a symbol.

        States are A, B, C, ...; "---" and a state without a group halt.

        >>> TuringMachine.standard("1RB1LB_1LA1RZ").run("").state
        'Z'
        """
        if not isinstance(text, str):
            refuse("TuringMachine.standard", f"got {text!r}; expected text such as '1RB1LB_1LA1RZ'")
        groups = text.strip().split("_")
        states = [chr(ord("A") + i) for i in range(len(groups))]
        width = max(len(group) for group in groups) // 3
        if any(len(group) != 3 * width for group in groups) or width < 2:
            refuse("TuringMachine.standard", f"{text!r} is not groups of equal length, three signs a symbol")
        table = {}
        for state, group in zip(states, groups, strict=True):
            for symbol in range(width):
                triple = group[3 * symbol : 3 * symbol + 3]
                if triple != "---":
                    table[state, str(symbol)] = (triple[2], triple[0], triple[1])
        targets = [move[0] for move in table.values()]
        states += sorted(set(targets) - set(states))
        return cls(tuple(map(str, range(width))), tuple(states), "A", frozenset(), table)

    @property
    def blank(self) -> str:
        return self.symbols[0]

    def initial(self, word: Word = ()) -> Taped:
        """The configuration before the first move."""
        check_word("TuringMachine", word, self.symbols)
        return self.tidy(self.start, (), tuple(word))

    def tidy(self, state: State, left: tuple[str, ...], right: tuple[str, ...]) -> Taped:
        """A configuration without the blanks beyond the last symbol of each side."""
        first = next((i for i, symbol in enumerate(left) if symbol != self.blank), len(left))
        last = next((i for i in range(len(right), 0, -1) if right[i - 1] != self.blank), 0)
        return Taped(state, left[first:], right[:last])

    def step(self, configuration: Taped) -> Taped | None:
        """The configuration after one move; None if the machine has halted."""
        state, left, right = configuration
        read = right[0] if right else self.blank
        if (state, read) not in self.transitions:
            return None
        target, written, move = self.transitions[state, read]
        right = (written, *right[1:])
        if move == "R":
            left, right = (*left, written), right[1:]
        elif move == "L":
            left, right = left[:-1], (left[-1] if left else self.blank, *right)
        return self.tidy(target, left, right)

    def configurations(self, word: Word = ()) -> Iterator[Taped]:
        """The configurations from the first to the one that halts, if there is one."""
        here: Taped | None = self.initial(word)
        while here is not None:
            yield here
            here = self.step(here)

    def run(self, word: Word = (), *, limit: int = 1_000_000) -> Taped:
        """The configuration in which the machine halts.

        Raises InputError if it has not halted after `limit` moves.
        """
        here = self.initial(word)
        moves = 0
        while (following := self.step(here)) is not None:
            here = following
            moves += 1
            if moves > limit:
                refuse("TuringMachine.run", f"not halted after limit={limit} moves")
        return here

    def accepts(self, word: Word = (), *, limit: int = 1_000_000) -> bool:
        return self.run(word, limit=limit).state in self.accepting


def _faults(machine: TuringMachine) -> list[str]:
    faults = repeated("symbol", machine.symbols) + repeated("state", machine.states)
    if not machine.symbols:
        faults.append("there is no blank: the first symbol is it")
    faults += unknown("state", [machine.start], machine.states, "start")
    faults += unknown("state", machine.accepting, machine.states, "accepting")
    for key, value in machine.transitions.items():
        where = f"transition {key!r}"
        if not _is_move(key, value):
            faults.append(f"{where} -> {value!r} is not (state, symbol) -> (state, symbol, 'L'|'R'|'S')")
            continue
        faults += unknown("state", [key[0], value[0]], machine.states, where)
        faults += unknown("symbol", [key[1], value[1]], machine.symbols, where)
    return faults


def _is_move(key: Any, value: Any) -> bool:
    return (
        isinstance(key, tuple)
        and isinstance(value, tuple)
        and (len(key), len(value)) == (2, 3)
        and (value[2] in ("L", "R", "S"))
        and all(isinstance(part, Hashable) for part in value)
    )
