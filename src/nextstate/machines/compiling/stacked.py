"""Pushdown automata and Turing machines as networks: two steps of the network a move, no clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nextstate.machines.compiling.blueprint import (
    ALIVE,
    Blueprint,
    Form,
    Number,
    Readout,
    Unit,
    letter,
    total,
    unit,
)
from nextstate.machines.compiling.program import Program
from nextstate.machines.compiling.stores import Store, Values, rule
from nextstate.machines.words import STUCK


def stack_blueprint(program: Program, store: Store, limit: int | None) -> Blueprint:
    """The network of a stack program over a store.

        rule_i  = f( [state q_i] + sum of [top looked at] + [letter] - (how many of these) + 1 )
        state_q = f( sum of rule_i entering q )

    The units are of two colours, and each reads only the other: in every step one colour works and the other
    stands at 0, so that no clock is needed. Letters are read in the first of the two steps.
    """
    control = {q: unit(("state", q)) for q in program.states}
    # the zero state stands for the start: before the first step `alive` is 0
    control[program.start] = control[program.start] + 1 - unit(ALIVE)
    gates = [_gate(program, store, control, i) for i in range(len(program.rules))]
    store.build(gates)
    rows: dict[Any, Form] = {ALIVE: Form(constant=1)}
    units: dict[Any, Unit] = {ALIVE: Unit()}
    for i, gate in enumerate(gates):
        rows["rule", i], units["rule", i] = gate + 1, Unit(group="rule")
    for q in program.states:
        rows["state", q] = total(rule(i) for i, r in enumerate(program.rules) if r.target == q)
        units["state", q] = Unit(group="state")
    rows.update(store.rows)
    units.update(store.units)

    return Blueprint(
        store.kind,
        program.letters,
        units,
        rows,
        _readouts(program, store, control),
        decoder(program, store.read),
        encoder(program, store.write),
        period=2,
        watch=total(unit(name) for name in store.watch),
        moving=total(rule(i) for i, r in enumerate(program.rules) if r.letter is None and not r.idle),
        limit=limit,
    )


def decoder(
    program: Program, read: Callable[[int, Values], tuple[int, ...] | None]
) -> Callable[[Values], Any]:
    """Values of the units to the configuration; None between the two steps of a move."""
    rules = [("rule", i) for i in range(len(program.rules))]

    def decode(values: Values) -> Any:
        states = [q for q in program.states if values["state", q]]
        if not values[ALIVE]:
            started = any(values.values())
            return None if started else program.configuration(program.start, ((),) * program.stacks)
        if len(states) > 1 or any(values["state", q] != 1 for q in states) or values[ALIVE] != 1:
            return None
        if any(values[name] for name in rules):
            return None
        if not states:
            return STUCK
        stacks = [read(s, values) for s in range(program.stacks)]
        if any(stack is None for stack in stacks):
            return None
        return program.configuration(states[0], tuple(stacks))  # type: ignore[arg-type]

    return decode


def encoder(
    program: Program, write: Callable[[int, tuple[int, ...]], dict[Any, Number]]
) -> Callable[[Any], dict[Any, Number]]:
    """A configuration to the values of the units that are not zero."""

    def encode(configuration: Any) -> dict[Any, Number]:
        state, stacks = program.digits(configuration)
        values: dict[Any, Number] = {ALIVE: 1, ("state", state): 1}
        for s, digits in enumerate(stacks):
            values |= write(s, digits)
        return values

    return encode


def _gate(program: Program, store: Store, control: Mapping[Any, Form], i: int) -> Form:
    """0 if rule i is about to fire, <= -1 if not."""
    r = program.rules[i]
    looks = [store.top(s, act.look) for s, act in enumerate(r.acts) if act.look is not None]
    heard = total(letter(a) for a in program.letters)
    read = letter(r.letter) - 1 if r.letter is not None else -heard
    return control[r.state] + total(looks) + read - 1 - len(looks)


def _readouts(program: Program, store: Store, control: Mapping[Any, Form]) -> list[Readout]:
    readouts = [
        Readout(control[q] - total(1 - store.top(s, 0) for s, must in enumerate(empty) if must))
        for q, empty in program.accepting
    ]
    labels = dict.fromkeys(r.output for r in program.rules if r.output is not None)
    for label in labels:
        firing = total(rule(i) for i, r in enumerate(program.rules) if r.output == label)
        readouts.append(Readout(firing, label))
    return readouts
