"""Figures of the machines: python benchmarks/machines.py PART [--count N]

Parts: catalogue, turing, counters, circle, dyck, tasks.

Each part prints one line a result and ends with exit code 1 if anything was not exact.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator

import torch

from nextstate.machines import PDA, ExactnessLost, compile, distinguishing_word, extract
from nextstate.machines.chomsky import TASKS
from nextstate.machines.circle import circle
from nextstate.machines.library import NAMED, busy_beaver, equal_blocks, random_dfa

DTYPES = (torch.float16, torch.float32, torch.float64)
CELLS = ("elman", "gru", "lstm")


def catalogue(count: int) -> Iterator[tuple[bool, str]]:
    """Random machines of 1 to 60 states and 1 to 6 letters, every second one partial, proved equal."""
    for dtype in DTYPES:
        began, proved, largest = time.perf_counter(), 0, 0
        for seed in range(count):
            machine = random_dfa(
                1 + seed * 59 // max(count - 1, 1), 1 + seed % 6, missing=0.3 * (seed % 2), seed=seed
            )
            # every tenth machine goes into a gated cell; the others into the plain one
            net = compile(machine, cell=CELLS[seed // 10 % 3] if seed % 10 == 0 else "elman", dtype=dtype)
            found = extract(net, method="reach")
            proved += found.status == "proved" and distinguishing_word(found.machine, machine) is None
            largest = max(largest, net.report.units)
        told = f"{proved} of {count} proved equal, up to {largest} units"
        yield proved == count, f"{dtype}: {told}, {time.perf_counter() - began:.0f} s"


def turing(count: int) -> Iterator[tuple[bool, str]]:
    """Busy beavers in step with their interpreter: 4 states to the end, 5 states for `count` moves."""
    for memory in ("grow", "digital", "limbs", "cantor", "fraction"):
        machine = busy_beaver(4)
        net = compile(machine, memory=memory, dtype=torch.float64)
        outcome = net.run()
        ones = (outcome.configuration.left + outcome.configuration.right).count("1")
        moves = outcome.steps // net.blueprint.period
        yield (moves, ones) == (107, 13), f"BB(4) {memory}: {moves} moves, {ones} ones; {net.report}"
    for memory in ("fraction", "grow", "cantor"):
        machine = busy_beaver(5)
        net = compile(machine, memory=memory, dtype=torch.float64)
        configurations = machine.configurations()
        next(configurations)
        began, moves, right, depth = time.perf_counter(), 0, True, 0
        try:
            for number, _, state in net.steps():
                if number % net.blueprint.period == 0:
                    moves, here = moves + 1, next(configurations)
                    right = right and net.decode(state) == here
                    depth = max(depth, len(here.left), len(here.right))
                if moves == count:
                    break
            told = f"{moves} moves in step, stacks to {depth}"
        except ExactnessLost as lost:
            right = right and depth <= (net.report.exact_until or 0)
            told = f"{moves} moves in step, then refused: {lost}"
        yield right, f"BB(5) {memory}: {told}, {time.perf_counter() - began:.1f} s"


def counters(count: int) -> Iterator[tuple[bool, str]]:
    """a^n b^n c^n for n to `count`, and each of its one-letter faults."""
    net = compile(equal_blocks())
    for n in (1, 10, 100, 1000, count):
        faults = [(n, n, n), (n + 1, n, n), (n, n + 1, n), (n, n, n + 1), (n, n, n - 1), (n, n - 1, n)]
        answers = [net.run("a" * a + "b" * b + "c" * c).accepted for a, b, c in faults]
        yield answers == [True, *[False] * 5], f"a^n b^n c^n, n = {n}: {answers}; {net.report}"


def circles(count: int) -> Iterator[tuple[bool, str]]:
    """Every named language through a trained GRU and back."""
    for name in NAMED:
        for seed in range(count):
            began, busy = time.perf_counter(), time.process_time()
            done = circle(NAMED[name](), seed=seed)
            told = (
                f"{done.found.status}, {len(done.found.machine.states)} states, {done.lessons[-1].step} steps"
            )
            took = (
                f"{time.perf_counter() - began:.1f} s, {time.process_time() - busy:.1f} s of processor time"
            )
            yield done.closed, f"{name} seed {seed}: {told}, {took}"


def dyck(count: int) -> Iterator[tuple[bool, str]]:
    """Brackets to depth 3, the hardest of the named languages to learn, from so many seeds."""
    closed = 0
    for seed in range(count):
        began = time.process_time()
        done = circle(NAMED["dyck3"](), seed=seed)
        closed += done.closed
        told = f"{done.found.status}, {len(done.found.machine.states)} states, {done.lessons[-1].step} steps"
        yield done.closed, f"seed {seed}: {told}, {time.process_time() - began:.1f} s of processor time"
    yield closed == count, f"{closed} of {count} circles closed"


def tasks(count: int) -> Iterator[tuple[bool, str]]:
    """The fifteen tasks of Delétang et al. 2023, constructed: share of answers right, lengths 41 to 500."""
    for name, task in TASKS.items():
        machine = task.machine()
        stacked = isinstance(machine, PDA)
        # the answers of these two take a number of moves that grows with the square of the length
        memory = ("fraction" if "multiplication" in name or "sqrt" in name else "grow") if stacked else None
        net = compile(machine, memory=memory)
        began, right, symbols, steps, draw = time.perf_counter(), 0, 0, 0, random.Random(name)
        for i in range(count):
            length = 500 - (500 - 41) * i // max(count - 1, 1)
            word, answer = task.example(length, draw)
            outcome = net.run(word + "_" * len(answer))
            steps += outcome.steps
            right += sum(a == b for a, b in zip(outcome.outputs[-len(answer) :], answer, strict=True))
            symbols += len(answer)
        told = f"{100 * right / symbols:.1f} % of {symbols} symbols, {count} words, {steps} steps"
        kind = f"{task.level}, {memory or net.report.memory}, {net.report.units} units"
        yield right == symbols, f"{name} ({kind}): {told}, {time.perf_counter() - began:.0f} s"


PARTS = {
    "tasks": (tasks, 10),
    "catalogue": (catalogue, 1000),
    "turing": (turing, 10_000),
    "counters": (counters, 30_000),
    "circle": (circles, 1),
    "dyck": (dyck, 20),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--count", type=int)
    given = parser.parse_args()
    part, usual = PARTS[given.part]
    torch.set_num_threads(1)
    wrong = 0
    for right, line in part(usual if given.count is None else given.count):
        print("ok   " if right else "WRONG", line, flush=True)
        wrong += not right
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
