"""The short cut for calls without gradients: everything that does not change is prepared once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nextstate import _engine
from nextstate.cell import Cell
from nextstate.engines.binding import SMALL, Bound, looked_at, memory, optimiser_steps
from nextstate.engines.kernel import Kernel
from nextstate.engines.layout import Layout
from nextstate.engines.threads import threads
from nextstate.states import Tree, leaves, rebuild


@dataclass(frozen=True, slots=True)
class Workspace:
    """State buffers and the list of pointers, for one call at a time."""

    states: list[Tensor]
    pointers: list[int]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What stays right as long as the weights do: their versions, them packed, workspaces to take from."""

    versions: tuple[int, ...]
    packed: Any
    free: list[Workspace]


@dataclass(slots=True)
class Quick:
    """Runs one kernel for one shape of input, where torch has nothing to do before or after the loop."""

    kernel: Kernel
    bound: Bound
    layout: Layout
    shape: tuple[int, ...]
    output_width: int
    weights: list[Tensor]
    fixed: list[Tensor]
    input_at: int
    output_at: int
    state_at: list[int]
    lds: list[int]
    like: Tree
    prepared: Prepared | None = None

    @staticmethod
    def make(kernel: Kernel, cell: Cell, us: Tensor, s0: Tree) -> Quick | None:
        """The short cut, or None where there is none."""
        step = kernel.step
        split, trace = step.split, step.trace
        torch_has_work = split.parameters or split.constants or split.before or split.after
        plain = trace.outputs == split.crossing and len(split.crossing) == 1 and not step.classes.constant
        input_only = len(step.leaves.seqs) == 1 and step.leaves.seqs[0] is trace.inputs[0]
        bound = kernel.variant(0).forward
        ragged = any(w % 16 for w in (*step.shapes.states, *step.shapes.outputs))
        copied = ragged or any(must for _, _, must in bound.inputs)
        if torch_has_work or not plain or not input_only or copied or us.dim() != 3:
            return None
        if any(len(s) != us.shape[1] for s in leaves(s0)):
            return None
        if len(split.crossing[0].meta["val"].shape) != 2 or not us.shape[0] * us.shape[1]:
            return None
        named = dict(zip(trace.weights, trace.parameters, strict=True))
        held = {**dict(cell.named_parameters(remove_duplicate=False)), **dict(cell.named_buffers())}
        program = bound.program
        fixed: list[Tensor] = []
        for key in program.keys:
            if key is not None and key[0] == "vec":
                kind, place, _ = step.externals.vecs[key[1]]
                node = step.leaves.vecs[place] if kind == "leaf" else None
                if node not in named:
                    return None
                fixed.append(held[named[node]])
            elif key is not None and key[0] not in ("seq", "out", "state", "pre"):
                return None
        weights = [held[named[node]] for node in step.leaves.weights if node in named]
        lasting = all(
            x.is_contiguous() and not x.is_neg() and not x.is_inference() for x in (*weights, *fixed)
        )
        if len(weights) != len(step.leaves.weights) or not lasting:
            return None
        count = len(step.shapes.states)
        states = [program.found["state", k] for k in range(count)]
        ordered = [i for i, b in enumerate(program.buffers) if b["kind"] == "state"]
        if ordered != states or ("seq", 0) not in program.found:
            return None
        return Quick(
            kernel, bound, Layout.of(us.shape[0], us.shape[1], None), tuple(us.shape), step.shapes.outputs[0],
            weights, fixed, program.found["seq", 0], program.found["out", 0], states,
            list(step.shapes.states), s0,
        )  # fmt: skip

    def __call__(self, us: Tensor, s0: Tree) -> tuple[Tree, Tree] | None:
        starts = leaves(s0)
        if not us.is_contiguous() or not us.is_cpu or us.is_neg():
            return None
        for s in starts:
            if s.dtype is not torch.float32 or not s.is_contiguous() or not s.is_cpu or s.is_neg():
                return None
        held = (*self.weights, *self.fixed)
        rows = self.shape[0] * self.shape[1]
        versions = (
            optimiser_steps(), looked_at(self.weights, rows),
            *[w._version for w in held], *[w.data_ptr() for w in held],
        )  # fmt: skip
        ready = self.prepared  # read once: another thread may put a new one in its place
        if ready is None or ready.versions != versions:
            if not all(w.is_contiguous() and not w.is_neg() for w in held):
                return None
            packed = self.bound.native.pack([w.data_ptr() for w in self.weights])
            ready = self.prepared = Prepared(versions, packed, [])
        try:
            work = ready.free.pop()
        except IndexError:
            work = self._workspace()
        steps, batch, _ = self.shape
        vs = memory(steps * batch, self.output_width).view(steps, batch, self.output_width)
        pointers = work.pointers
        pointers[self.input_at], pointers[self.output_at] = us.data_ptr(), vs.data_ptr()
        count = threads() if self.bound.work * steps * batch > SMALL else 1
        self.bound.native.run(
            ready.packed, pointers, [s.data_ptr() for s in starts], self.lds, [], steps, batch, 0, True,
            count, _engine.row_block(batch, count),
        )  # fmt: skip
        first = (steps % 2) * batch
        finals = [state[first : first + batch].clone() for state in work.states]
        ready.free.append(work)
        return vs, finals[0] if isinstance(s0, Tensor) else rebuild(s0, finals)

    def _workspace(self) -> Workspace:
        program = self.bound.program
        states = [_engine.empty(2 * self.layout.batch + 1, ld) for ld in self.lds]
        pointers = [0] * len(program.keys)
        fixed = iter(self.fixed)
        for index, key in enumerate(program.keys):
            if key is not None and key[0] == "vec":
                pointers[index] = next(fixed).data_ptr()
        for index, state in zip(self.state_at, states, strict=True):
            pointers[index] = state.data_ptr()
        return Workspace(states, pointers)
