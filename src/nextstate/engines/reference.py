"""The reference engine: the plain loop of `nextstate.loops`, for any cell, dtype, device and transform."""

from __future__ import annotations

from torch import Tensor

from nextstate import loops
from nextstate.cell import Cell
from nextstate.engines.base import Refusal, Request
from nextstate.states import Tree


class ReferenceEngine:
    name = "reference"

    def refusal(self, request: Request) -> Refusal | None:
        return None

    def quick(self, cell: Cell, us: Tree, s0: Tree, lengths: Tensor | None) -> tuple[Tree, Tree] | None:
        return None

    def scan(self, request: Request) -> tuple[Tree, Tree]:
        return loops.scan(request.cell, request.us, request.s0, request.lengths)

    def fold(self, request: Request) -> tuple[Tree, Tree]:
        return loops.fold(request.cell, request.us, request.s0, request.lengths)
