"""Counter machines as one layer: in step, long, and refused where a float would lose count."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from in_step import lockstep, random_word

import nextstate as ns
from nextstate.machines import (
    CounterMachine,
    ExactnessLost,
    compile,
)
from nextstate.machines.compiling.blueprint import Form
from nextstate.machines.library import (
    counting_sort,
    equal_blocks,
)


def every_word(alphabet: str, longest: int) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    words = ["".join(w) for n in range(longest + 1) for w in itertools.product(alphabet, repeat=n)]
    ids = torch.zeros(longest, len(words), dtype=torch.int64)
    for row, word in enumerate(words):
        ids[: len(word), row] = torch.tensor([alphabet.index(a) for a in word], dtype=torch.int64)
    return words, torch.eye(len(alphabet))[ids], torch.tensor([len(word) for word in words])


def test_counter_machine_on_every_short_word_through_the_public_loop() -> None:
    machine = equal_blocks()
    words, us, lengths = every_word("abc", 8)
    net = compile(machine)
    _, states = ns.scan(net.cell, us, lengths=lengths)
    assert [shown.accepted for shown in net.read(states)] == [machine.accepts(word) for word in words]
    assert net.report.steps_per_symbol == 1


def test_long_blocks_and_their_corruptions() -> None:
    net, n = compile(equal_blocks()), 1500
    for a, b, c in ((n, n, n), (n, n, n - 1), (n, n - 1, n), (n - 1, n, n), (n, n, n + 1)):
        assert net.run("a" * a + "b" * b + "c" * c).accepted == (a == b == c)


def test_counters_in_step() -> None:
    machine = counting_sort(4)
    net = compile(machine)
    word = [*random_word("0123", 40, 0), *"_" * 40]
    lockstep(net, word, machine.trace(word))
    outcome = net.run(word)
    assert outcome.outputs == machine.outputs_of(word)
    assert outcome.outputs[40:] == sorted(word[:40])
    assert outcome.accepted


def test_counts_past_the_limit_are_refused_at_the_step() -> None:
    machine = CounterMachine("ab", (0,), 0, {0: "0"}, {(0, "a", "*"): (0, (1,)), (0, "b", "+"): (0, (-1,))})
    for dtype in (torch.float16, torch.float32):
        limit = 1000 if dtype == torch.float16 else 70
        net = compile(machine, dtype=dtype, depth=limit)
        assert net.run("a" * limit + "b" * limit).accepted
        with pytest.raises(ExactnessLost) as lost:
            net.run("a" * (limit + 1) + "b" * (limit + 1))
        # the count is in the state one step later than the letter, the alarm with it
        assert lost.value.step == limit + 2
        # a state met long after still tells
        us = net.encode("a" * (limit + 2) + "b" * (limit + 2))
        with pytest.raises(ExactnessLost):
            net.decode(ns.scan(net.cell, us)[1])
        vs, _ = ns.scan(net.cell, us)
        with pytest.raises(ExactnessLost):
            net.read(vs[-1])
        assert not net.read(vs[limit - 1])[0].accepted


def test_without_the_alarm_a_counter_does_drift() -> None:
    """The limit is not idle: float16 holds whole numbers to 2048 and loses count beyond."""
    machine = CounterMachine("ab", (0,), 0, {0: "0"}, {(0, "a", "*"): (0, (1,)), (0, "b", "+"): (0, (-1,))})
    net = compile(machine, dtype=torch.float16)
    blind = replace(net, blueprint=replace(net.blueprint, watch=Form()))
    assert not blind.run("a" * 2100 + "b" * 2100).accepted
    with pytest.raises(ExactnessLost):
        net.run("a" * 2100 + "b" * 2100)
