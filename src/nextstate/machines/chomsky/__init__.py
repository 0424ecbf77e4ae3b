"""The fifteen tasks of the Chomsky hierarchy benchmark, each with a machine that is right at every length.

A word is the input, for some tasks a "." that ends it, and one "_" for every symbol of the answer: the
machine writes the answer on these.

Source of the tasks: Delétang et al., Neural Networks and the Chomsky Hierarchy, 2023 (arXiv 2207.02098).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from nextstate.machines.automata import Mealy
from nextstate.machines.chomsky.examples import (
    Draw,
    Example,
    arithmetic_example,
    brackets_example,
    cycle_example,
    equation_example,
    missing_example,
    on_bits,
    sort_example,
    sqrt_example,
    stack_example,
    two_numbers,
)
from nextstate.machines.chomsky.machines import (
    binary_addition,
    binary_multiplication,
    brackets,
    compute_sqrt,
    cycle,
    duplicate_string,
    even_pairs,
    missing_duplicate,
    modular_arithmetic,
    odds_first,
    parity,
    reverse_string,
    stack_manipulation,
)
from nextstate.machines.counters import CounterMachine
from nextstate.machines.library import counting_sort
from nextstate.machines.pushdown import PDA


@dataclass(frozen=True)
class Task:
    """A task: its level, its machine, and a source of examples of a given length.

    >>> import random
    >>> example, answer = TASKS["reverse string"].example(4, random.Random(0))
    >>> machine = TASKS["reverse string"].machine()
    >>> "".join(machine.outputs_of(example + "_" * len(answer))[-len(answer):]) == answer
    True
    """

    level: str
    machine: Callable[[], Mealy | PDA | CounterMachine]
    example: Callable[[int, Draw], Example]


TASKS: dict[str, Task] = {
    "even pairs": Task("regular", even_pairs, on_bits(lambda w: str(int(w[0] != w[-1])))),
    "modular arithmetic (simple)": Task("regular", modular_arithmetic, arithmetic_example),
    "parity check": Task("regular", parity, on_bits(lambda w: str(w.count("1") % 2))),
    "cycle navigation": Task("regular", cycle, cycle_example),
    "stack manipulation": Task("context-free", stack_manipulation, stack_example),
    "reverse string": Task("context-free", reverse_string, on_bits(lambda w: w[::-1])),
    "modular arithmetic": Task("context-free", cache(lambda: brackets(False)), brackets_example),
    "solve equation": Task("context-free", cache(lambda: brackets(True)), equation_example),
    "duplicate string": Task("context-sensitive", duplicate_string, on_bits(lambda w: w + w, ".")),
    "missing duplicate": Task("context-sensitive", missing_duplicate, missing_example),
    "odds first": Task("context-sensitive", odds_first, on_bits(lambda w: w[::2] + w[1::2], ".")),
    "binary addition": Task("context-sensitive", binary_addition, two_numbers("+", lambda n, m: n + m)),
    "binary multiplication": Task(
        "context-sensitive", binary_multiplication, two_numbers("*", lambda n, m: n * m)
    ),
    "compute sqrt": Task("context-sensitive", compute_sqrt, sqrt_example),
    "bucket sort": Task("context-sensitive", lambda: counting_sort(5), sort_example),
}
"""The tasks by name, in the order of the published table."""
