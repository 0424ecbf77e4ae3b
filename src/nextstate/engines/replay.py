"""The compiled loop once more, step by step in torch: differentiable any number of times.

Second derivatives take this road; and it checks the compiler without the kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nextstate.compiler.compiling import CompiledStep
from nextstate.compiler.evaluate import as_tensor, expressions
from nextstate.compiler.ir import Node
from nextstate.compiler.program import Key
from nextstate.engines.layout import Layout


def replay(step: CompiledStep, given: dict[Key, Tensor], layout: Layout) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs [N, w] and last states [B, w] of the loop, from its inputs by slot."""
    states = [given["state", k] for k in range(len(step.shapes.states))]
    outs: list[list[Tensor]] = [[] for _ in step.loop.outputs]
    for t in range(layout.steps):
        first, last = _rows(layout, t)
        live = last - first
        leaf = _StepLeaves(step, given, [s[:live] for s in states], first, last)
        values = iter(expressions(step.loop.build, step.loop.roots, leaf, leaf.weight))
        stepped = [[next(values) for _ in pieces] for pieces in (*step.loop.states, *step.loop.outputs)]
        joined = [torch.cat([_wide(p, live) for p in parts], -1) for parts in stepped]
        moved, handed = joined[: len(states)], joined[len(states) :]
        states = [torch.cat([new, old[live:]]) for new, old in zip(moved, states, strict=True)]
        for place, value in enumerate(handed):
            outs[place].append(value)
    return [torch.cat(o) for o in outs], states


def _wide(value: Any, rows: int) -> Tensor:
    """A piece as [rows, width], also where it is a plain number."""
    tensor = as_tensor(value)
    return tensor.expand(rows, tensor.shape[-1] if tensor.dim() else 1)


def _rows(layout: Layout, t: int) -> tuple[int, int]:
    if layout.offsets is None:
        return t * layout.batch, (t + 1) * layout.batch
    return int(layout.offsets[t]), int(layout.offsets[t + 1])


class _StepLeaves:
    """The leaves of the loop at one step."""

    def __init__(
        self, step: CompiledStep, given: dict[Key, Tensor], states: list[Tensor], first: int, last: int
    ) -> None:
        self.step, self.given, self.states, self.first, self.last = step, given, states, first, last

    def weight(self, place: int) -> Tensor:
        return self.given["weight", place]

    def __call__(self, node: Node) -> Tensor:
        place = int(node.attr[0])
        column = int(node.attr[1]) if len(node.attr) > 1 else 0
        if node.op == "pre":
            terms = self.step.outer.pres[place]
            return sum(expressions(self.step.outer.build, terms, self, self.weight))
        if node.op == "vec":
            place, column = self._shifted(self.step.externals.vec_at, place, column)
            source = self.given["vec", place].unsqueeze(0)
        elif node.op == "row":
            place, column = self._shifted(self.step.externals.row_at, place, column)
            source = self.given["row", place][: self.last - self.first]
        elif node.op == "state":
            source = self.states[place]
        elif node.op == "gather":
            ids = self.given["ids", self.step.outer.tables[place][1]][self.first : self.last]
            source = self.given["table", place][ids]
        else:
            source = self.given[node.op, place][self.first : self.last]
            source = source.unsqueeze(-1) if node.op == "flag" else source
        return source.narrow(-1, column, node.width)

    @staticmethod
    def _shifted(at: list[tuple[int, int]], place: int, column: int) -> tuple[int, int]:
        return at[place][0], at[place][1] + column
