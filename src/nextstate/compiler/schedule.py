"""Order the nodes of a step into blocks: a block computes all features of a width, panel by panel.

A product needs its whole left row, and a reduction is complete only when its block is: what uses them
comes in a later block. The number of the block a node waits for is its stage.
"""

from __future__ import annotations

from dataclasses import dataclass

from nextstate.compiler.ir import LEAVES, Builder

READABLE = frozenset({"state", "next", "seq", "row", "dout"})
"""Leaves whose rows lie in memory, so that a product can read them."""

OUTSIDE = LEAVES | {"pre", "dout", "dstate", "saved", "kept"}
"""Everything without arguments: `kept` is a sum over the sequence that a step adds to."""


@dataclass(frozen=True, slots=True)
class Store:
    """Write a node to a buffer. `delay` holds it back until every read of that buffer is done."""

    node: int
    buffer: int
    access: str = ""
    column: int = 0
    delay: bool = False


@dataclass(frozen=True, slots=True)
class Schedule:
    """Per node: the stage at which it is computed, and from which its value can be used."""

    computed: tuple[int, ...]
    scalar: tuple[bool, ...]
    """Broadcastable width-1 values: reductions, flags, numbers, and what is made of them alone."""


def schedule(build: Builder, scalar_saved: frozenset[int] = frozenset()) -> Schedule:
    """`scalar_saved`: nodes of op `saved` that hold one number a row."""
    scalar = scalars(build, scalar_saved)
    computed: list[int] = []
    available: list[int] = []
    for node in build.nodes:
        start = max((available[a] for a in node.args), default=0)
        if node.op == "matmul":
            x = build[node.args[0]]
            start = 0 if x.op in READABLE else available[node.args[0]] + 1
        computed.append(start)
        available.append(start + 1 if node.op in ("rowsum", "rowmax") else start)
    # A product waits for its first reader: then it ends in that reader's registers.
    for index, node in enumerate(build.nodes):
        if node.op == "matmul":
            readers = [computed[r] for r, other in enumerate(build.nodes) if index in other.args]
            if readers:
                computed[index] = max(computed[index], min(readers))
    return Schedule(tuple(computed), tuple(scalar))


def scalars(build: Builder, extra: frozenset[int] = frozenset()) -> list[bool]:
    """Which values are one number a row that can be broadcast over lanes."""
    found: list[bool] = []
    for index, node in enumerate(build.nodes):
        if node.op in ("imm", "flag", "rowsum", "rowmax") or index in extra:
            found.append(True)
        elif node.op in OUTSIDE or node.op == "matmul":
            found.append(False)
        else:
            found.append(node.width == 1 and all(found[a] for a in node.args))
    return found
