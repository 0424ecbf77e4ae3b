"""Finite machines as networks: one unit a transition, one step a letter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nextstate.machines.automata import DFA, Automaton, Mealy
from nextstate.machines.compiling.blueprint import ALIVE, Blueprint, Form, Readout, Unit, letter, total, unit
from nextstate.machines.words import STUCK


def finite_blueprint(machine: Automaton) -> Blueprint:
    """The network of a finite machine: |transitions| + 1 units, one step a letter, exact in every dtype.

        u_{q,a}(t) = 1 if the letter is a and the state before it was q, else 0
                   = f( sum of u_{p,c}(t-1) over transitions (p, c) -> q  +  [x = a]  -  1 )

    Every pre-activation is -1, 0 or 1. A missing transition has no unit: a stuck machine is the state with
    nothing but `alive`. The output of a Mealy machine is a linear read-out, since the unit remembers the
    state before the letter.

    Source: the threshold network of Minsky 1967, with a unit for the transition instead of the state.
    """
    moves: dict[Any, Any] = {
        key: value[0] if isinstance(machine, Mealy) else value for key, value in machine.transitions.items()
    }
    entering: dict[Any, Form] = {
        q: total(unit(key) for key, target in moves.items() if target == q) for q in machine.states
    }
    # the zero state stands for the start state: before the first step `alive` is 0
    entering[machine.start] = entering[machine.start] + 1 - unit(ALIVE)
    rows: dict[Any, Form] = {(q, a): entering[q] + letter(a) - 1 for q, a in moves}
    rows[ALIVE] = Form(constant=1)
    units: dict[Any, Unit] = {name: Unit(group=None if name == ALIVE else "transition") for name in rows}

    def decode(values: Mapping[Any, Any]) -> Any:
        active = [name for name, value in values.items() if value and name != ALIVE]
        if not values[ALIVE]:
            return None if active else machine.start
        if len(active) > 1:
            return None
        return moves[active[0]] if active else STUCK

    return Blueprint("threshold", tuple(machine.alphabet), units, rows, _readouts(machine, entering), decode)


def _readouts(machine: Automaton, entering: Mapping[Any, Form]) -> list[Readout]:
    if isinstance(machine, DFA):
        return [Readout(total(entering[q] for q in machine.states if q in machine.accepting))]
    if isinstance(machine, Mealy):
        written = {key: output for key, (_, output) in machine.transitions.items()}
        labels = list(dict.fromkeys(output for output in written.values() if output is not None))
        return [Readout(total(unit(k) for k, value in written.items() if value == o), o) for o in labels]
    labels = list(dict.fromkeys(machine.outputs[q] for q in machine.states))
    return [Readout(total(entering[q] for q in machine.states if machine.outputs[q] == o), o) for o in labels]
