"""Finite machines as networks: in every cell, proved equal, with finite gains, and what no code is."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from in_step import FLOATS, lockstep, random_word

import nextstate as ns
from nextstate import InputError
from nextstate.machines import (
    DFA,
    Moore,
    compile,
    distinguishing_word,
    equivalent,
    extract,
)
from nextstate.machines.compiling.lowering import smallest_gain
from nextstate.machines.library import (
    binary_addition,
    random_dfa,
    tomita,
)

CARRIERS: tuple[dict[str, Any], ...] = (
    {"activation": "heaviside"},
    {"activation": "saturated"},
    {"activation": "relu"},
    {"activation": "tanh"},
    {"cell": "gru"},
    {"cell": "lstm"},
)

MOORE = Moore.table("ab", {0: [1, 2], 1: [None, 0], 2: [2, 1]}, outputs={0: "x", 1: "y", 2: "x"})


@pytest.mark.parametrize("options", CARRIERS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_finite_machines_in_every_cell(options: dict[str, Any], dtype: torch.dtype) -> None:
    for machine in (tomita(3), random_dfa(12, 3, missing=0.15, seed=1), MOORE, binary_addition()):
        net = compile(machine, dtype=dtype, **options)
        assert net.report.exact_until is None
        assert net.report.steps_per_symbol == 1
        word = random_word(machine.alphabet, 60, 2)
        lockstep(net, word, machine.trace(word))
        if isinstance(machine, DFA):
            assert net.run(word).accepted == machine.accepts(word)
        else:
            assert net.run(word).outputs == machine.outputs_of(word)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_random_catalogue_is_proved_equal(dtype: torch.dtype) -> None:
    for seed in range(15):
        machine = random_dfa(2 + 4 * seed, 1 + seed % 6, missing=0.2 * (seed % 2), seed=seed)
        options = CARRIERS[seed % 6]
        found = extract(compile(machine, dtype=dtype, **options))
        assert found.status == "proved"
        assert equivalent(found.machine, machine), (seed, options)


def test_the_proof_sees_one_wrong_weight() -> None:
    """The agreement test must reject a network with a single transition moved."""
    machine = tomita(7)
    net = compile(machine, activation="heaviside")
    cell: Any = net.cell
    live = range(cell.hidden_size - 1)  # the last unit is `alive`
    rejected = 0
    for row, column in itertools.product(live, repeat=2):
        with torch.no_grad():
            kept = cell.weight_hh[row, column].item()
            cell.weight_hh[row, column] = 1 - kept
            found = extract(net, method="reach")
            cell.weight_hh[row, column] = kept
        rejected += found.status != "proved" or not equivalent(found.machine, machine)
    assert rejected >= 60, "faults within the dead state change nothing, most others must show"
    assert equivalent(extract(net).machine, machine)


@pytest.mark.parametrize("options", CARRIERS, ids=str)
def test_states_that_are_no_code_decode_to_none(options: dict[str, Any]) -> None:
    net = compile(tomita(4), **options)
    for _, _, state in net.steps("0100"):
        bad = ns.states.tree_map(lambda x: x + 0.25, state)
        assert net.decode(bad) is None
    two = ns.states.tree_map(lambda x: torch.ones_like(x), state)
    assert net.decode(two) is None


def test_smallest_gain_by_bisection() -> None:
    def certified(gain: float, r: float) -> bool:
        return any(
            math.tanh(gain / 2 * (1 - r * e / 20000)) >= 1 - e / 20000 for e in range(1, int(20000 / r))
        )

    for r in (2, 3, 5, 10, 30):
        assert certified(smallest_gain(r) * 1.001, r)
        assert not certified(smallest_gain(r) * 0.999, r)


@pytest.mark.parametrize("cell", ["elman", "gru", "lstm"])
def test_a_certified_gain_keeps_its_bound(cell: str) -> None:
    machine = random_dfa(20, 3, seed=4)
    least = smallest_gain(max(list(machine.transitions.values()).count(q) for q in machine.states))
    net = compile(machine, cell=cell, activation="tanh" if cell == "elman" else None, gain=1.05 * least)
    assert net.report.slack is not None
    word = random_word(machine.alphabet, 1500, 5)
    worst = 0.0
    for (_, _, state), expected in zip(net.steps(word), machine.trace(word)[1:], strict=True):
        code = ns.states.leaves(state)[-1]
        worst = max(worst, float((code.sign() - code).abs().max()))
        assert net.decode(state) == expected
    assert 0 < worst <= net.report.slack
    with pytest.raises(InputError, match="cannot be proved"):
        compile(machine, cell=cell, activation="tanh" if cell == "elman" else None, gain=0.9 * least)


def test_a_gain_far_below_does_go_wrong() -> None:
    """The refusal is not idle: with 0.4 of the certified gain the network leaves its codes at once."""
    machine = random_dfa(20, 3, seed=4)
    least = smallest_gain(max(list(machine.transitions.values()).count(q) for q in machine.states))
    net = compile(machine, activation="tanh", gain=1.05 * least)
    cell: Any = net.cell
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.mul_(0.4)
    assert any(net.decode(state) is None for _, _, state in net.steps(random_word(machine.alphabet, 20, 5)))


def test_mealy_networks_as_moore_machines() -> None:
    """A proof for a machine with outputs on letters: the network shows each output in the state after it."""
    machine = binary_addition()
    table: dict[Any, Any] = {}
    seen: dict[Any, None] = {(machine.start, None): None}
    for state in iter_growing(seen):
        for letter in machine.alphabet:
            table[state, letter] = machine.transitions[state[0], letter]
            seen.setdefault(table[state, letter])
    shown = Moore(machine.alphabet, tuple(seen), (machine.start, None), {q: q[1] for q in seen}, table)
    found = extract(compile(machine, cell="lstm"))
    assert found.status == "proved"
    assert distinguishing_word(found.machine, shown) is None


def iter_growing(items: dict[Any, None]) -> Any:
    done: set[Any] = set()
    while todo := [item for item in items if item not in done]:
        done.update(todo)
        yield from todo
