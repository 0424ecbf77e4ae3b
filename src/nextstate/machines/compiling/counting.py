"""Counter machines as one layer of ReLU: no gate ever multiplies a count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from nextstate.machines.compiling.blueprint import ALIVE, Blueprint, Form, Readout, Unit, letter, total, unit
from nextstate.machines.counters import Counted, CounterMachine
from nextstate.machines.words import STUCK


def counter_blueprint(machine: CounterMachine, limit: int) -> Blueprint:
    """The network of a real-time counter machine: one step a letter, exact while no count passes `limit`.

        v_{q,a,S} = ReLU( [state q] + [x = a] - 1 - sum of the counters in S )      1 if all of S are zero
        u_{q,a,Z} = sum over S containing Z of (-1)^|S - Z| v_{q,a,S}               1 if exactly Z are zero
        X_i       = ReLU( x_i ),   x_i = X_i + sum of u * step                      affine in the state

    with v only for the sets S some move needs (at most 2^k a state and letter). A counter only ever lowers a
    pre-activation. Two units a counter and one more watch for counts past the limit and remember it.
    """
    names = range(machine.counters)
    fired = {key: _fires(key) for key in machine.transitions}
    entering: dict[Any, Form] = {
        q: total(fired[key] for key, move in machine.transitions.items() if move[0] == q)
        for q in machine.states
    }
    entering[machine.start] = entering[machine.start] + 1 - unit(ALIVE)
    count = {
        i: unit(("count", i)) + total(move[1][i] * fired[key] for key, move in machine.transitions.items())
        for i in names
    }
    rows: dict[Any, Form] = {ALIVE: Form(constant=1)}
    units: dict[Any, Unit] = {ALIVE: Unit()}
    for form in fired.values():
        name: Any
        for name in form.units:
            q, a, zero = name
            rows[name] = entering[q] + letter(a) - 1 - total(count[i] for i in zero)
            units[name] = Unit(group=("fires", zero))
    largest = limit + max((max(move[1], default=0) for move in machine.transitions.values()), default=0)
    for i in names:
        rows["count", i], units["count", i] = count[i], Unit(top=largest)
        rows["over", i], units["over", i] = count[i] - limit, Unit(top=largest - limit)
    watch = total(unit(("over", i)) for i in names) + unit("lost")
    rows["lost"], units["lost"] = watch, Unit(top=largest - limit)

    def decode(values: Mapping[Any, Any]) -> Any:
        states = [q for q in machine.states if _value(entering[q], values) == 1]
        counts = tuple(int(_value(count[i], values)) for i in names)
        if any(_value(entering[q], values) not in (0, 1) for q in machine.states) or len(states) > 1:
            return None
        if any(c < 0 for c in counts):
            return None
        return Counted(states[0], counts) if states else STUCK

    readouts = list(_readouts(machine, fired, entering, count))
    return Blueprint("relu", tuple(machine.alphabet), units, rows, readouts, decode, watch=watch, limit=limit)


def _fires(key: Any) -> Form:
    """The move as a sum of units: inclusion and exclusion over its positive tests."""
    state, symbol, tests = key
    zero = [i for i, test in enumerate(tests) if test == "0"]
    positive = [i for i, test in enumerate(tests) if test == "+"]
    return total(
        (-1) ** size * unit((state, symbol, frozenset((*zero, *more))))
        for size in range(len(positive) + 1)
        for more in combinations(positive, size)
    )


def _readouts(
    machine: CounterMachine,
    fired: Mapping[Any, Form],
    entering: Mapping[Any, Form],
    count: Mapping[int, Form],
) -> Iterator[Readout]:
    for state, tests in machine.accepting.items():
        yield Readout(entering[state] - total(count[i] for i, t in enumerate(tests) if t == "0"))
    labels = dict.fromkeys(move[2] for move in machine.transitions.values() if move[2] is not None)
    for label in labels:
        moves = machine.transitions.items()
        yield Readout(total(fired[key] for key, move in moves if move[2] == label), label)


def _value(form: Form, values: Mapping[Any, Any]) -> Any:
    return form.constant + sum(w * values[name] for name, w in form.units.items())
