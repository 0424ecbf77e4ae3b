"""Pushdown automata and Turing machines in one form: a finite control and stacks of digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from nextstate.checks import refuse
from nextstate.machines.pushdown import ANY, EMPTY, PDA, Stacked
from nextstate.machines.turing import Taped, TuringMachine
from nextstate.machines.words import Letter, State


@dataclass(frozen=True)
class Act:
    """What a rule does to one stack: pop the symbol looked at, then push symbols, the last one on top."""

    look: int | None = None
    pop: bool = False
    push: tuple[int, ...] = ()

    @property
    def shift(self) -> int:
        return len(self.push) - self.pop


@dataclass(frozen=True)
class Rule:
    state: State
    letter: Letter | None
    acts: tuple[Act, ...]
    target: State
    output: Any = None
    idle: bool = False
    """Whether it stands for having no move."""


@dataclass(frozen=True)
class Program:
    """A control over stacks of digits 1..symbols, each lying on an endless run of zeros.

    Rules with the letter None apply when nothing is read; exactly one applies in every live configuration
    (staying as it is, if the machine has no move).
    """

    letters: tuple[Letter, ...]
    symbols: int
    stacks: int
    states: tuple[State, ...]
    start: State
    rules: tuple[Rule, ...]
    accepting: tuple[tuple[State, tuple[bool, ...]], ...]
    """States that accept, and which stacks must be empty for it."""
    configuration: Callable[[State, tuple[tuple[int, ...], ...]], Any]
    """The configuration of the machine; stacks given from the bottom, without the zeros below."""
    digits: Callable[[Any], tuple[State, tuple[tuple[int, ...], ...]]]
    """The inverse of `configuration`."""


def program_of(machine: PDA | TuringMachine) -> Program:
    """The stack program of a machine; one rule is one move.

    >>> flip = TuringMachine("_1", ("go",), "go", (), {("go", "1"): ("go", "_", "R")})
    >>> [(rule.acts[0].push, rule.acts[1].pop) for rule in program_of(flip).rules if not rule.idle]
    [((0,), True)]
    """
    return _of_pda(machine) if isinstance(machine, PDA) else _of_turing(machine)


def _of_pda(machine: PDA) -> Program:
    number = {symbol: i + 1 for i, symbol in enumerate(machine.symbols)}
    name = {i: symbol for symbol, i in number.items()}

    def act(top: str, push: tuple[str, ...]) -> Act:
        look = None if top == ANY else 0 if top == EMPTY else number[top]
        if len(push) - bool(look) > 1:
            refuse("compile", f"a move pushes {push!r}: split it into moves that add at most one symbol")
        return Act(look, bool(look), tuple(number[s] for s in push))

    rules = [
        Rule(q, a, tuple(act(t, p) for t, p in zip(tops, pushes, strict=True)), target, output)
        for (q, a, tops), (target, pushes, output) in machine.transitions.items()
    ]
    for state in machine.states:
        free = [tops for (q, a, tops) in machine.transitions if q == state and a is None]
        rules += [Rule(state, None, acts, state, idle=True) for acts in _idle(free, machine, act)]
    accepting = tuple((q, tuple(t == EMPTY for t in tests)) for q, tests in machine.accepting.items())

    def configuration(state: State, stacks: tuple[tuple[int, ...], ...]) -> Stacked | None:
        if any(0 in stack for stack in stacks):
            return None
        return Stacked(state, tuple(tuple(name[d] for d in stack) for stack in stacks))

    def digits(here: Stacked) -> tuple[State, tuple[tuple[int, ...], ...]]:
        return here.state, tuple(tuple(number[s] for s in stack) for stack in here.stacks)

    return Program(
        tuple(machine.alphabet),
        len(machine.symbols),
        machine.stacks,
        tuple(machine.states),
        machine.start,
        tuple(rules),
        accepting,
        configuration,
        digits,
    )


def _idle(
    free: list[tuple[str, ...]], machine: PDA, act: Callable[[str, tuple[str, ...]], Act]
) -> Iterator[tuple[Act, ...]]:
    """Acts that change nothing, for every view of the stacks in which no free move applies."""
    seen = [any(tops[i] != ANY for tops in free) for i in range(machine.stacks)]
    views = [(*machine.symbols, EMPTY) if looked else (ANY,) for looked in seen]
    for tops in product(*views):
        if not any(all(f in (ANY, t) for f, t in zip(move, tops, strict=True)) for move in free):
            yield tuple(act(t, () if t in (ANY, EMPTY) else (t,)) for t in tops)


def _of_turing(machine: TuringMachine) -> Program:
    number = {symbol: i for i, symbol in enumerate(machine.symbols)}
    name = dict(enumerate(machine.symbols))
    rules = []
    for state in machine.states:
        for symbol, s in number.items():
            if (state, symbol) not in machine.transitions:
                rules.append(Rule(state, None, (Act(), Act(s, True, (s,))), state, idle=True))
                continue
            target, written, move = machine.transitions[state, symbol]
            w = number[written]
            if move == "R":
                rules.append(Rule(state, None, (Act(push=(w,)), Act(s, True)), target))
            elif move == "S":
                rules.append(Rule(state, None, (Act(), Act(s, True, (w,))), target))
            else:
                rules += [
                    Rule(state, None, (Act(l, True), Act(s, True, (w, l))), target) for l in number.values()
                ]

    def configuration(state: State, stacks: tuple[tuple[int, ...], ...]) -> Taped:
        left, right = (tuple(name[d] for d in stack) for stack in stacks)
        return machine.tidy(state, left, right[::-1])

    def digits(here: Taped) -> tuple[State, tuple[tuple[int, ...], ...]]:
        left, right = (tuple(number[s] for s in side) for side in (here.left, here.right))
        return here.state, (left, right[::-1])

    return Program(
        (),
        len(machine.symbols) - 1,
        2,
        tuple(machine.states),
        machine.start,
        tuple(rules),
        tuple((q, (False, False)) for q in machine.accepting),
        configuration,
        digits,
    )
