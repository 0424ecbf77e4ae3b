"""One step of a compiled cell again and again: its state stays in the engine's buffers between calls."""

from __future__ import annotations

import torch
from torch import Tensor

from nextstate import _engine
from nextstate.engines.base import Request
from nextstate.engines.binding import SMALL
from nextstate.engines.cpu import CpuEngine
from nextstate.engines.kernel import Kernel
from nextstate.engines.quick import Quick
from nextstate.engines.threads import threads
from nextstate.states import Tree, leaves, rebuild

PRECISIONS = {"float32": "fp32", "bfloat16": "weights16", "int8": "weights8"}
"""The engine's name for how weights are kept."""


class Stepper:
    """Steps a fixed number of rows of one cell whose parameters no longer change.

    Everything but the pointers of the input and the output is prepared once. A state buffer has two blocks
    of rows: the engine copies the current state from the second to the first, and writes the next one there.
    """

    def __init__(self, quick: Quick, out_shape: tuple[int, ...]) -> None:
        batch = quick.shape[1]
        work = quick._workspace()
        native = quick.bound.native
        packed = native.pack([w.data_ptr() for w in quick.weights])
        self.out_shape, self.like = out_shape, quick.like
        self.current = [buffer[batch : 2 * batch] for buffer in work.states]
        self.kept = quick, work
        count = threads() if quick.bound.work * batch > SMALL else 1
        starts = [block.data_ptr() for block in self.current]
        self.run = _engine.Step(
            native, packed, work.pointers, starts, quick.lds, batch, count,
            _engine.row_block(batch, count), quick.input_at, quick.output_at,
        )  # fmt: skip

    @staticmethod
    def make(engine: CpuEngine, request: Request, batched: bool, weights: str = "float32") -> Stepper | None:
        """A stepper for requests of one step [1, B, I], or None where torch has work to do beside the loop.

        Outputs are [B, V], or [V] if not `batched`. `weights` is how they are kept: see `Quantised`.
        """
        if engine.refusal(request) is not None:
            return None
        engine.quick(request.cell, request.us, request.s0, None)
        key = request.us.shape, tuple(s.shape for s in leaves(request.s0))
        found = engine.record(request.cell).quick.get(key)
        if found is not None and weights != "float32":
            kernel = Kernel(found.kernel.step, PRECISIONS[weights])
            assert isinstance(request.us, Tensor)
            found = Quick.make(kernel, request.cell, request.us, request.s0)
        if found is None:
            return None
        shape = (request.batch, found.output_width) if batched else (found.output_width,)
        return Stepper(found, shape)

    def put(self, state: Tree) -> None:
        for block, value in zip(self.current, leaves(state), strict=True):
            block.copy_(value)

    def state(self) -> Tree:
        return rebuild(self.like, [block.clone() for block in self.current])

    def __call__(self, u: Tensor) -> Tensor:
        """The output of one step on u, contiguous float32 [B, I]."""
        v = torch.empty(self.out_shape)
        self.run(u.data_ptr(), v.data_ptr())
        return v
