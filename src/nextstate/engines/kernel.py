"""Bind tensors to the programs of one compiled step, run them, and hand back tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nextstate import _engine
from nextstate.checks import refuse
from nextstate.compiler.compiling import CompiledStep
from nextstate.compiler.differentiate import Resolved, Wanted
from nextstate.compiler.program import Key, Program
from nextstate.engines.binding import SLACK, Bound, incoming, memory, plain, readable, trimmed
from nextstate.engines.layout import Layout
from nextstate.engines.replay import replay
from nextstate.engines.threads import threads


@dataclass(frozen=True, slots=True)
class Variant:
    """The programs for one set of gradients wanted."""

    forward: Bound
    backward: Bound | None
    resolved: Resolved | None


@dataclass(slots=True)
class Kernel:
    """Runs a compiled step. Its inputs are one flat list of tensors, in the order of `slots`."""

    step: CompiledStep
    precision: str = "fp32"
    slots: list[Key] = field(default_factory=list)
    variants: dict[int, Variant] = field(default_factory=dict)
    weight_slot: int = 0
    state_slot: int = 0

    def __post_init__(self) -> None:
        step = self.step
        used: dict[Key, None] = {}
        for build in (step.loop.build, step.outer.build):
            for node in build.nodes:
                if node.op == "seq":
                    used[node.op, int(node.attr[0])] = None
        counts = [
            ("flag", len(step.outer.flags)),
            ("row", len(step.externals.rows)), ("vec", len(step.externals.vecs)),
            ("table", len(step.outer.tables)), ("weight", len(step.shapes.weights)),
            ("state", len(step.shapes.states)),
        ]  # fmt: skip
        self.slots = sorted(used) + [(kind, k) for kind, count in counts for k in range(count)]
        self.slots += [("ids", ids) for ids in sorted({ids for _, ids in step.outer.tables})]
        self.weight_slot = sum(kind not in ("weight", "state", "ids") for kind, _ in self.slots)
        self.state_slot = self.weight_slot + len(step.shapes.weights)

    def variant(self, wanted: int) -> Variant:
        """The programs that compute the gradients of the slots whose bit is set in `wanted`."""
        if wanted not in self.variants:
            self.variants[wanted] = self._variant(wanted)
        return self.variants[wanted]

    def build(self) -> None:
        """Make the programs without gradients and with all of them now, so that what cannot be run is known.

        Raises Unsupported or ValueError if one of them cannot be made.
        """
        if self.step.loop.states:
            self.variant(0)
            self.variant(sum(1 << bit for bit, (kind, _) in enumerate(self.slots) if kind != "ids"))

    def _variant(self, mask: int) -> Variant:
        if not mask:
            return Variant(self._bound(self.step.forward()), None, None)
        wanted = self._wanted({slot for bit, slot in enumerate(self.slots) if mask >> bit & 1})
        resolved = self.step.resolved(wanted)
        forward = self._bound(self.step.forward(resolved.saved))
        return Variant(forward, self._bound(self.step.backward(resolved, wanted)), resolved)

    def _bound(self, program: Program) -> Bound:
        return Bound.of(program, self.slots, [ids for _, ids in self.step.outer.tables], self.precision)

    def _wanted(self, slots: set[Key]) -> Wanted:
        step = self.step
        leaves = {slot for slot in slots if slot[0] in ("seq", "flag")}
        leaves |= {("gather", k) for kind, k in slots if kind == "table"}
        leaves |= {
            ("vec", k) for k, (place, _) in enumerate(step.externals.vec_at) if ("vec", place) in slots
        }
        leaves |= {
            ("row", k) for k, (place, _) in enumerate(step.externals.row_at) if ("row", place) in slots
        }
        weights = frozenset(k for kind, k in slots if kind == "weight")
        for k, terms in enumerate(step.outer.pres):
            for term in terms:
                node = step.outer.build[term]
                factor = step.outer.build[node.args[0]] if node.args else node
                asked = node.op == "matmul" and node.attr[0] in weights
                if asked or (factor.op, factor.attr[0]) in leaves:
                    leaves.add(("pre", k))
        return Wanted(frozenset(leaves), weights)

    def forward(self, tensors: Sequence[Tensor], layout: Layout, mask: int) -> list[Tensor]:
        """Outputs [N, w], last states [B, w]; then, if gradients are wanted, what the backward run reads."""
        bound = self.variant(mask).forward
        buffers = bound.program.buffers
        ring = not mask
        state_rows = 2 * layout.batch if ring else layout.batch + layout.rows
        pointers = [0] * len(buffers)
        self._check_ids(tensors)
        held = self._bind_inputs(bound, tensors, pointers)
        starts = []
        states = []
        for index, place in bound.states:
            starts.append(plain(tensors[self.state_slot + place]))
            states.append(_engine.empty(state_rows + 1, buffers[index]["ld"]))
            pointers[index] = states[-1].data_ptr()
        outs = []
        for j in range(len(self.step.loop.outputs)):
            index = bound.program.found["out", j]
            outs.append(memory(layout.rows, buffers[index]["ld"]))
            pointers[index] = outs[-1].data_ptr()
        block = None
        if mask:
            offsets = bound.saved_offsets(layout.rows)
            block = _engine.empty(1, offsets[-1] + SLACK)
            bound.bind_saved(pointers, block, offsets)
        row_block = _engine.row_block(layout.batch, threads())
        packed = bound.pack(tensors[self.weight_slot : self.state_slot], ring, layout.rows)
        bound.run(packed, pointers, tensors, starts, layout, ring, row_block)
        del held
        shapes = self.step.shapes
        outs = [trimmed(value, width) for value, width in zip(outs, shapes.outputs, strict=False)]
        finals = [_last(s, layout, w, ring) for s, w in zip(states, shapes.states, strict=True)]
        if block is None:
            return [*outs, *finals]
        return [*outs, *finals, *states, block, torch.tensor(row_block, device="cpu")]

    def _check_ids(self, tensors: Sequence[Tensor]) -> None:
        """Ids must name rows of their table: the engine reads without looking."""
        for table, (_, place) in enumerate(self.step.outer.tables):
            rows = len(tensors[self.slots.index(("table", table))])
            low, high = torch.aminmax(tensors[self.slots.index(("ids", place))])
            if low < 0 or high >= rows:
                refuse("scan", f"ids run from {int(low)} to {int(high)}; expected 0..{rows - 1}")

    def _bind_inputs(self, bound: Bound, tensors: Sequence[Tensor], pointers: list[int]) -> list[Tensor]:
        held = []
        for index, slot, copied in bound.inputs:
            value = readable(tensors[slot], bound.program.buffers[index], copied)
            pointers[index] = value.data_ptr()
            held.append(value)
        return held

    def backward(
        self, grads: Sequence[Tensor | None], tensors: Sequence[Tensor], kept: Sequence[Tensor],
        layout: Layout, mask: int,
    ) -> list[Tensor | None]:  # fmt: skip
        """The gradients of the slots wanted, from those of the outputs and last states."""
        variant = self.variant(mask)
        bound = variant.backward
        assert bound is not None
        program = bound.program
        outputs = len(self.step.loop.outputs)
        *states, block, row_block = kept
        pointers = [0] * len(program.buffers)
        held = self._bind_inputs(bound, tensors, pointers)
        bound.bind_saved(pointers, block, variant.forward.saved_offsets(layout.rows))
        starts = []
        for index, place in bound.states:
            starts.append(plain(tensors[self.state_slot + place]))
            pointers[index] = states[place].data_ptr()
        made: dict[Key, Tensor] = {}
        for key, index in program.found.items():
            kind, place = key
            if not kind.startswith(("carry", "d")):
                continue
            buffer = program.buffers[index]
            if kind == "carry":
                value = incoming(grads[outputs + place], layout.batch, buffer, own=True)
            elif kind == "dout":
                value = incoming(grads[place], layout.rows, buffer, own=bound.copies(index))
            elif buffer["kind"] == "grad":
                looked_up = kind.startswith("dtable")
                rows = len(tensors[self.slots.index(("table", place))]) if looked_up else buffer["rows"]
                zero = looked_up or key not in program.covered
                value = memory(rows, buffer["ld"], zero)
            else:
                rows = layout.batch if kind == "drow" else layout.rows
                value = memory(rows, buffer["ld"], kind == "drow" or key not in program.covered)
            made[key] = value
            pointers[index] = value.data_ptr()
        packed = bound.pack(tensors[self.weight_slot : self.state_slot], cache=False)
        bound.run(packed, pointers, tensors, starts, layout, False, int(row_block))
        del held
        by_index = {program.found[key]: value for key, value in made.items()} if program.copies else {}
        for target, at, source, start, width in program.copies:
            by_index[target].view(-1)[at : at + width] = by_index[source].view(-1)[start : start + width]
        return [
            self._collected(slot, made, tensors[bit], layout) if mask >> bit & 1 else None
            for bit, slot in enumerate(self.slots)
        ]

    def differentiable_backward(
        self, grads: list[Tensor | None], tensors: list[Tensor], layout: Layout, mask: int
    ) -> list[Tensor]:
        """The same gradients by torch, as a graph that can be differentiated again."""
        given = dict(zip(self.slots, tensors, strict=True))
        outs, finals = replay(self.step, given, layout)
        pairs = [(y, g) for y, g in zip((*outs, *finals), grads, strict=True) if g is not None]
        inputs = [t for bit, t in enumerate(tensors) if mask >> bit & 1]
        found = torch.autograd.grad(
            [y for y, _ in pairs], inputs, [g for _, g in pairs], create_graph=True, materialize_grads=True
        )
        return list(found)

    def saved_size(self, rows: int, mask: int) -> int:
        """Floats of the block of saved values."""
        return self.variant(mask).forward.saved_offsets(rows)[-1] + SLACK

    @property
    def results(self) -> int:
        """How many tensors of a forward run are results: outputs and last states; the rest is kept."""
        return len(self.step.loop.outputs) + len(self.step.shapes.states)

    @property
    def first_sequence(self) -> int | None:
        """A slot with one row a step, if there is one."""
        return next((i for i, (kind, _) in enumerate(self.slots) if kind in ("seq", "flag", "ids")), None)

    def _collected(self, slot: Key, made: dict[Key, Tensor], like: Tensor, layout: Layout) -> Tensor | None:
        """The gradient of one slot from the buffers that hold it."""
        kind, place = slot
        if kind == "ids":
            return None
        if kind == "state":
            carry = made["carry", place]
            width, ld = like.shape[1], -(-like.shape[1] // 16) * 16
            return carry.view(-1)[: layout.batch * ld].view(-1, ld)[:, :width].contiguous()
        if kind == "flag":
            found = made.get(("dflag", place))
            return torch.zeros_like(like) if found is None else found[:, 0].contiguous()
        if kind in ("seq", "row"):
            found = made.get((f"d{kind}", place))
            return (
                torch.zeros_like(like) if found is None else trimmed(found, like.shape[-1]).view(like.shape)
            )
        only = made.get((f"d{kind}#0", place))
        if only is not None and (f"d{kind}#1", place) not in made:
            return only.view(like.shape)
        copies = [value for (name, k), value in made.items() if name.startswith(f"d{kind}#") and k == place]
        if not copies:
            return torch.zeros_like(like)
        total = copies[0]
        for copy in copies[1:]:
            total = total + copy
        return total.view(like.shape)


def _last(state: Tensor, layout: Layout, width: int, ring: bool) -> Tensor:
    """The state after each row's last step, out of a state buffer."""
    index = layout.last_rows(ring)
    if index is None:
        first = (layout.steps % 2) * layout.batch if ring else layout.rows
        return state[first : first + layout.batch, :width].clone(memory_format=torch.contiguous_format)
    return state.index_select(0, index)[:, :width].contiguous()
