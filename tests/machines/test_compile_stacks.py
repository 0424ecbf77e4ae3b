"""Pushdown automata and Turing machines in every memory: in step, to the bit, refused past their depth."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from in_step import FLOATS, lockstep, random_word

from nextstate import InputError, scan
from nextstate.machines import (
    Compiled,
    ExactnessLost,
    TuringMachine,
    compile,
)
from nextstate.machines.compiling.blueprint import Form
from nextstate.machines.compiling.bodies import RationalBody
from nextstate.machines.library import (
    busy_beaver,
    marked_palindromes,
    palindromes,
)

STACKS = ("grow", "digital", "cantor", "limbs", "fraction")


@pytest.mark.parametrize("memory", STACKS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_pushdown_automata(memory: str, dtype: torch.dtype) -> None:
    machine = marked_palindromes()
    depth = {"digital": 12, "limbs": 12}.get(memory)
    net = compile(machine, memory=memory, dtype=dtype, depth=depth)
    half = min(net.report.exact_until or 12, 12)
    for seed in range(3):
        left = "".join(random_word("ab", half, seed))
        wrong = left[:-1] + ("a" if left[-1] == "b" else "b")
        for word in (left + "#" + left[::-1], left + "#" + wrong[::-1], "#", "", "a##"):
            lockstep(net, word, machine.trace(word))
            assert net.run(word).accepted == machine.accepts(word)


@pytest.mark.parametrize("memory", STACKS)
def test_turing_machines_in_step(memory: str) -> None:
    machine = palindromes()
    net = compile(
        machine, memory=memory, dtype=torch.float64, depth=32 if memory in ("digital", "limbs") else None
    )
    for word in ("", "a", "abba", "abab", "abaaba", "abaabb"):
        lockstep_from(net, machine, word)
        assert net.run(word).accepted == machine.accepts(word)


def lockstep_from(net: Compiled, machine: TuringMachine, word: str) -> None:
    expected = list(machine.configurations(word))
    assert net.decode(net.start(expected[0])) == expected[0]
    assert [net.decode(s) for n, _, s in net.steps(word) if n % net.blueprint.period == 0] == expected[1:]


@pytest.mark.parametrize(
    "options",
    [
        {"memory": "grow", "dtype": torch.float16},
        {"memory": "digital", "depth": 16, "dtype": torch.float16},
        {"memory": "digital", "depth": 16, "cell": "gru"},
        {"memory": "digital", "depth": 16, "cell": "lstm"},
        {"memory": "cantor", "dtype": torch.float64},
        {"memory": "cantor", "dtype": torch.float64, "activation": "relu"},
        {"memory": "limbs", "depth": 20, "dtype": torch.float32},
        {"memory": "limbs", "depth": 20, "dtype": torch.float32, "activation": "relu"},
        {"memory": "fraction"},
    ],
    ids=str,
)
def test_the_busy_beaver_of_four_states(options: dict[str, Any]) -> None:
    machine = busy_beaver(4)
    net = compile(machine, **options)
    lockstep_from(net, machine, "")
    outcome = net.run()
    assert outcome.steps == 107 * net.blueprint.period
    assert (outcome.configuration.left + outcome.configuration.right).count("1") == 13


@pytest.mark.parametrize(
    ("dtype", "activation", "proved"),
    [
        (torch.float16, "saturated", 4),
        (torch.float32, "saturated", 11),
        (torch.float32, "relu", 10),
        (torch.float64, "saturated", 25),
        (torch.float64, "relu", 25),
    ],
    ids=str,
)
@pytest.mark.parametrize("text", ["1RA---", "1LA---", "1RB1LC_1RC1RB_1RD0LE_1LA1LD_1RZ0LA"])
def test_cantor_stacks_are_right_until_they_refuse(
    dtype: torch.dtype, activation: str, proved: int, text: str
) -> None:
    """Runners to both sides and BB(5): every configuration is right, and none deeper than proved is shown."""
    machine = TuringMachine.standard(text)
    net = compile(machine, memory="cantor", dtype=dtype, activation=activation)
    assert net.report.exact_until in (proved, proved + 1), "the proof is of these very weights"
    proved = net.report.exact_until or 0
    reached = [net.decode(net.start())]
    with pytest.raises(ExactnessLost) as lost:
        reached.extend(net.decode(state) for number, _, state in net.steps() if number % 2 == 0)
    expected = list(itertools.islice(machine.configurations(), len(reached) + 1))
    assert reached == expected[:-1]
    assert max(max(len(c.left), len(c.right)) for c in reached) <= proved
    assert lost.value.step == 2 * len(reached)
    if text.endswith("---"):
        assert max(len(expected[-1].left), len(expected[-1].right)) == proved + 1, "refused too early"


@pytest.mark.parametrize("memory", ["cantor", "limbs"])
@pytest.mark.parametrize("activation", ["saturated", "relu"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_number_is_the_exact_rational(memory: str, activation: str, dtype: torch.dtype) -> None:
    """Stronger than agreeing configurations: no unit of the float network is off by a single bit."""
    depth = {"limbs": 12}.get(memory)
    for machine in (busy_beaver(5), palindromes()):
        word = "" if machine.symbols[0] == "0" else "ab"
        net = compile(machine, memory=memory, activation=activation, dtype=dtype, depth=depth)
        exact = RationalBody(net.blueprint)
        assert net.blueprint.encode is not None
        state = exact.start(net.blueprint.encode(machine.initial(word)))
        compared = 0
        try:
            for _, letter, reached in net.steps(word):
                state = exact.step(state, letter)
                assert net.body.values(reached) == exact.values(state)
                compared += 1
        except ExactnessLost:
            pass
        assert compared >= 4


def test_without_the_alarm_a_cantor_stack_does_drift() -> None:
    machine = busy_beaver(4)
    net = compile(machine, memory="cantor", dtype=torch.float32)
    blind = replace(net, blueprint=replace(net.blueprint, watch=Form()))
    states = (state for number, _, state in blind.steps() if number % 2 == 0)
    expected = list(machine.configurations())[1:]
    reached = [blind.decode(state) for state in itertools.islice(states, len(expected))]
    assert reached != expected, "BB(4) needs 12 digits, one more than float32 holds"


def test_deep_stacks_in_digital_and_limbs_are_refused() -> None:
    runner = TuringMachine("01", ("go",), "go", (), {("go", "0"): ("go", "1", "R")})
    for memory in ("digital", "limbs"):
        net = compile(runner, memory=memory, depth=10)
        deep = net.report.exact_until or 0
        assert deep >= 10
        with pytest.raises(ExactnessLost) as lost:
            net.run()
        assert deep < lost.value.step / 2 <= deep + 2


@pytest.mark.parametrize("memory", ["digital", "limbs", "cantor"])
def test_a_stack_of_one_symbol_refuses_the_second(memory: str) -> None:
    """A move that pushes two symbols at once must not lose the lower one in silence."""
    net = compile(busy_beaver(2), memory=memory, depth=1)
    with pytest.raises(ExactnessLost):
        net.run(limit=50)


def test_grow_and_digital_hold_the_same_numbers() -> None:
    machine = busy_beaver(3)
    grown, fixed = compile(machine, memory="grow"), compile(machine, memory="digital", depth=16)
    for (_, _, a), (_, _, b) in zip(grown.steps(), fixed.steps(), strict=True):
        left, right = grown.body.values(a), fixed.body.values(b)
        assert left is not None
        assert right is not None
        control = {k: v for k, v in right.items() if isinstance(k, tuple) and k[0] in ("rule", "state")}
        assert control == {k: left[k] for k in control}


def test_cells_too_few_for_a_scan_are_told_and_lengthened_in_a_run() -> None:
    """Within one scan the depth stays what it is: the public loop must not end in a wrong configuration."""
    machine = marked_palindromes()
    net = compile(machine)
    assert net.cell is not None
    for half in (1, 3, 4, 5, 8, 40):
        word = "a" * half + "#" + "a" * half
        assert net.run(word).accepted
        _, last = scan(net.cell, net.encode(word), engine="reference")
        if half <= 4:
            assert net.decode(last) == machine.trace(word)[-1]
        else:
            with pytest.raises(ExactnessLost, match="only run lengthens"):
                net.decode(last)


@pytest.mark.parametrize("memory", ["grow", "fraction"])
def test_outputs_that_do_not_hold_the_stacks_are_not_read(memory: str) -> None:
    with pytest.raises(InputError, match="decode"):
        compile(marked_palindromes(), memory=memory).read(torch.zeros(1, 10))


@pytest.mark.parametrize("options", [{}, {"activation": "relu"}], ids=str)
def test_numbers_no_unit_can_have_are_no_configuration(options: dict[str, Any]) -> None:
    net = compile(marked_palindromes(), memory="cantor", **options)
    for _, _, state in net.steps("ab#"):
        for unit in range(state.shape[1]):
            for value in (-0.5, 0.3, 2.0, 1e30, float("inf"), float("nan")):
                bad = state.clone()
                bad[0, unit] = value
                try:
                    shown = net.decode(bad)
                except ExactnessLost:
                    continue
                assert shown is None or 0 <= value <= 1, (unit, value, shown)
