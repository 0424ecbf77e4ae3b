"""The fifteen tasks: machines and compiled networks give the answers, and a wrong machine is seen."""

from __future__ import annotations

import random
from typing import Any

import pytest

from nextstate.machines import PDA, Mealy, compile
from nextstate.machines.chomsky import TASKS


def answered(outputs: list[Any], answer: str) -> bool:
    return outputs[len(outputs) - len(answer) :] == list(answer)


def test_there_are_fifteen() -> None:
    assert len(TASKS) == 15


@pytest.mark.parametrize("name", TASKS)
def test_machines_at_every_short_length_and_a_long_one(name: str) -> None:
    machine = TASKS[name].machine()
    draw = random.Random(name)
    for length in [*range(1, 30), *range(1, 30), 101]:
        word, answer = TASKS[name].example(length, draw)
        assert answered(machine.outputs_of(word + "_" * len(answer)), answer), word


@pytest.mark.parametrize("name", TASKS)
def test_constructed_networks(name: str) -> None:
    machine = TASKS[name].machine()
    draw = random.Random(name)
    net = compile(machine, memory="fraction" if isinstance(machine, PDA) else None)
    for length in (3, 8, 17):
        word, answer = TASKS[name].example(length, draw)
        assert answered(net.run(word + "_" * len(answer)).outputs, answer), word


@pytest.mark.parametrize("name", ["reverse string", "binary addition", "parity check"])
def test_a_wrong_machine_is_seen(name: str) -> None:
    """One output exchanged in a machine must show on some example."""
    machine: Any = TASKS[name].machine()
    key, *_ = (k for k, v in machine.transitions.items() if v[-1] == "1")
    swapped = {**machine.transitions, key: (*machine.transitions[key][:-1], "0")}
    if isinstance(machine, Mealy):
        wrong: Any = Mealy(machine.alphabet, machine.states, machine.start, swapped)
    else:
        wrong = PDA(
            machine.alphabet, machine.symbols, machine.states, machine.start, (), swapped, machine.stacks
        )
    draw = random.Random(0)
    examples = [TASKS[name].example(9, draw) for _ in range(20)]
    assert not all(answered(wrong.outputs_of(word + "_" * len(answer)), answer) for word, answer in examples)
