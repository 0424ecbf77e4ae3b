"""One step of a compiled cell again and again: its state stays in the engine's buffers between calls."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from nextstate import _engine
from nextstate.compiler.evaluate import prepared
from nextstate.engines.base import Request
from nextstate.engines.binding import SLACK, SMALL, readable
from nextstate.engines.call import Call
from nextstate.engines.cpu import CpuEngine, barred
from nextstate.engines.kernel import Kernel
from nextstate.engines.layout import Layout
from nextstate.engines.operator import Registered
from nextstate.engines.threads import threads
from nextstate.states import Tree, leaves, rebuild, tree_map

PRECISIONS = {"float32": "fp32", "bfloat16": "weights16", "int8": "weights8"}
"""The engine's name for how weights are kept."""


class Stepper:
    """Steps a fixed number of rows of one cell whose parameters no longer change.

    Weights are packed, values of the parameters alone are computed and buffers are laid out once. A state
    buffer has two blocks of rows: the engine copies the current state from the second to the first, and
    writes the next one there.
    """

    def __init__(self, kernel: Kernel, call: Call, batched: bool) -> None:
        self.call, self.batched = call, batched
        step, bound, batch = kernel.step, kernel.variant(0).forward, call.layout.batch
        buffers = bound.program.buffers
        pointers = [0] * len(buffers)
        self.kept: list[Any] = [kernel]
        """What the pointers point to, and what the prepared call is made of."""
        self.fed: list[tuple[int, Tensor]] = []
        """Inputs of the loop that change: place among the leaves, memory [B, w]."""
        changing = 0
        for index, slot, copied in bound.inputs:
            kind, place = kernel.slots[slot]
            value = call._slot(kind, place)
            held = readable(value, buffers[index], copied or kind == "seq")
            pointers[index] = held.data_ptr()
            self.kept.append(held)
            if kind == "seq":
                changing, direct = index, not copied and step.leaves.seqs[place] is step.trace.inputs[0]
                rows = held[0, :-SLACK].view(batch, -1)
                self.fed.append((place, rows[:, : value.shape[1]]))
        starts: list[tuple[int, Tensor]] = []
        lds = []
        for index, place in bound.states:
            ld = buffers[index]["ld"]
            memory = _engine.empty(2 * batch + 1, ld)
            pointers[index] = memory.data_ptr()
            self.kept.append(memory)
            starts.append((place, memory[batch : 2 * batch, : step.shapes.states[place]]))
            lds.append(ld)
        self.current = [block for _, block in sorted(starts, key=lambda start: start[0])]
        self.outs: list[Tensor] = []
        for j in range(len(step.loop.outputs)):
            index = bound.program.found["out", j]
            memory = torch.empty(batch, buffers[index]["ld"], dtype=torch.float32, device="cpu")
            pointers[index] = memory.data_ptr()
            self.outs.append(memory[:, : step.shapes.outputs[j]])
        packed = bound.pack([call._slot("weight", k) for k in range(len(step.shapes.weights))], cache=False)
        # Of few rows threads may share the columns of the weights: the engine decides that by their size.
        count = threads() if batch <= _engine.FEW_ROWS or bound.work * batch > SMALL else 1
        outcome = bound.program.found["out", 0] if self.outs else changing
        self.run = _engine.Step(
            bound.native, packed, pointers, [block.data_ptr() for _, block in starts], lds, batch, count,
            _engine.row_block(batch, count), changing, outcome,
        )  # fmt: skip
        self.pointers = pointers[changing], pointers[outcome]
        self.out: Tensor | None = None
        """The shape of an output that the engine alone makes, None where torch has work beside the loop."""
        split, trace = step.split, step.trace
        self.before = prepared(split.before, call.env, step.trace.batch, batch)
        self.after = prepared(
            [node for node in split.after if node not in split.crossing], call.env, step.trace.batch, batch
        )
        made = {*split.crossing, *split.after}
        self.outputs = [(v, v in made and v not in trace.outputs[:k]) for k, v in enumerate(trace.outputs)]
        """Which value each output is, and whether it may be handed out as it is: no part of the input, of a
        parameter or of another output, since it is the caller's to change."""
        bare = not split.before and not split.after and trace.outputs == split.crossing
        if bare and len(self.outs) == len(self.fed) == 1 and direct and self.outs[0].is_contiguous():
            shape = split.crossing[0].meta["val"].shape
            if len(shape) == 2 and call.request.us.dim() == 3:
                sizes = (batch, shape[1]) if batched else (shape[1],)
                self.out = torch.empty(sizes, dtype=torch.float32, device="cpu")

    @staticmethod
    def make(engine: CpuEngine, request: Request, batched: bool, weights: str = "float32") -> Stepper | None:
        """A stepper for requests of one step [1, B, ...], or None where the engine cannot keep all it needs.

        Outputs are [B, ...], or [...] if not `batched`. `weights` is how they are kept: see `Quantised`.
        """
        if barred() or engine.refusal(request) is not None:
            return None
        with engine.lock:
            found = engine.compile(request, gather=False, keep_outputs=True)
            assert isinstance(found, Registered)
            step = found.kernel.step
            kinds = {kind for kind, _ in found.kernel.slots}
            if not step.loop.states or not kinds <= {"seq", "vec", "row", "weight", "state"}:
                return None
            if any(len(s) != request.batch for s in leaves(request.s0)) or len(step.trace.inputs) != 1:
                return None
            call = Call(found, request, Layout.of(1, request.batch, None))
        kernel = found.kernel if weights == "float32" else Kernel(step, PRECISIONS[weights])
        return Stepper(kernel, call, batched)

    def put(self, state: Tree) -> None:
        values = leaves(state)
        for block, k in zip(self.current, self.call.step.classes.moving, strict=True):
            block.copy_(values[k])

    def fits(self, state: Tree) -> bool:
        """Whether a state has the constants of the sequence that everything is prepared for."""
        values, rows = leaves(state), self.call.state_rows
        return all(torch.equal(values[k], rows[k]) for k in self.call.step.classes.constant)

    def state(self) -> Tree:
        values = [x.clone() for x in self.call.state_rows]
        for block, k in zip(self.current, self.call.step.classes.moving, strict=True):
            values[k] = block.clone(memory_format=torch.contiguous_format)
        return rebuild(self.call.request.s0, values)

    def __call__(self, u: Tensor) -> Tree:
        """The output of one step on u, contiguous [B, ...] or [...] as in the request."""
        if self.out is not None:
            v = torch.empty_like(self.out)
            self.run(u.data_ptr(), v.data_ptr())
            return v
        return self._beside(u)

    @torch.no_grad()
    def _beside(self, u: Tensor) -> Tree:
        """A step with torch's work before and after the loop, or rows that need padding."""
        env, step = self.call.env, self.call.step
        env[step.trace.inputs[0]] = u if self.batched else u.unsqueeze(0)
        self.before(env)
        for place, rows in self.fed:
            rows.copy_(env[step.leaves.seqs[place]].reshape(rows.shape))
        self.run(*self.pointers)
        for node, out in zip(step.split.crossing, self.outs, strict=True):
            env[node] = out.clone(memory_format=torch.contiguous_format).view(-1, *node.meta["val"].shape[1:])
        self.after(env)
        found = rebuild(step.trace.v_like, [self._output(*which) for which in self.outputs])
        return found if self.batched else tree_map(lambda x: x.squeeze(0), found)

    def _output(self, v: fx.Node, own: bool) -> Tensor:
        value: Tensor = self.call.env[v]
        if len(value) != self.call.layout.batch:  # the same for every row
            value = value.expand(self.call.layout.batch, *value.shape[1:])
        return value if own else value.clone(memory_format=torch.contiguous_format)


def scan_alike(engine: CpuEngine, request: Request) -> tuple[Tree, Tree]:
    """A scan in the way of the steps of a `Stepper`, without look-ups in place of products of ids."""
    lengths = None if request.lengths is None else request.lengths.cpu()
    layout = Layout.of(request.steps, request.batch, lengths)
    with engine.lock:
        found = engine.compile(request, gather=False, keep_outputs=True)
        assert isinstance(found, Registered)
        call = Call(found, request, layout)
    return call.outputs()
