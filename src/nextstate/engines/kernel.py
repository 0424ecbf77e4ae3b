"""Bind tensors to the programs of one compiled step, run them, and hand back tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nextstate import _engine
from nextstate.compiler.compiling import CompiledStep
from nextstate.compiler.differentiate import Resolved, Wanted
from nextstate.compiler.program import Key
from nextstate.engines.binding import Bound, Saved, incoming, readable, trimmed, writable
from nextstate.engines.layout import Layout
from nextstate.engines.replay import replay


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
    slots: list[Key] = field(default_factory=list)
    variants: dict[int, Variant] = field(default_factory=dict)

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

    def variant(self, wanted: int) -> Variant:
        """The programs that compute the gradients of the slots whose bit is set in `wanted`."""
        if wanted not in self.variants:
            self.variants[wanted] = self._variant(wanted)
        return self.variants[wanted]

    def _variant(self, mask: int) -> Variant:
        if not mask:
            return Variant(Bound.of(self.step.forward()), None, None)
        wanted = self._wanted({slot for bit, slot in enumerate(self.slots) if mask >> bit & 1})
        resolved = self.step.resolved(wanted)
        forward = Bound.of(self.step.forward(resolved.saved))
        return Variant(forward, Bound.of(self.step.backward(resolved, wanted)), resolved)

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

    def forward(self, tensors: list[Tensor], layout: Layout, mask: int) -> list[Tensor]:
        """Outputs [N, w], last states [B, w]; then, if gradients are wanted, what the backward run reads."""
        bound = self.variant(mask).forward
        given = dict(zip(self.slots, tensors, strict=True))
        ring = not mask
        state_rows = 2 * layout.batch if ring else layout.batch + layout.rows
        saved = Saved.of(bound.program, layout.rows) if mask else None
        made: dict[Key, Tensor] = {}
        pointers = []
        for index, (key, buffer) in enumerate(zip(bound.program.keys, bound.program.buffers, strict=True)):
            if key is None or buffer["kind"] == "chunk":
                pointers.append(0)
                continue
            if key[0] == "saved" and saved is not None:
                pointers.append(saved.pointer(key))
                continue
            if key[0] == "state":
                made[key] = _engine.empty(state_rows + 1, buffer["ld"])
            elif key[0] == "out":
                made[key] = writable(layout.rows, buffer, zero=False)
            else:
                made[key] = readable(given[key], buffer, index in bound.copied)
            pointers.append(made[key].data_ptr())
        row_block = _engine.row_block(layout.batch, torch.get_num_threads())
        self._run(bound, self._pack(bound, given, ring), pointers, given, layout, ring, row_block)
        shapes = self.step.shapes
        outs = [trimmed(made["out", j], shapes.outputs[j]) for j in range(len(self.step.loop.outputs))]
        states = [made["state", k] for k in range(len(shapes.states))]
        finals = [_last(s, layout, w, ring) for s, w in zip(states, shapes.states, strict=True)]
        if saved is None:
            return [*outs, *finals]
        return [*outs, *finals, *states, saved.block, torch.tensor(row_block)]

    def backward(
        self, grads: list[Tensor | None], tensors: list[Tensor], kept: list[Tensor], layout: Layout, mask: int
    ) -> list[Tensor | None]:
        """The gradients of the slots wanted, from those of the outputs and last states."""
        variant = self.variant(mask)
        bound = variant.backward
        assert bound is not None
        program = bound.program
        outputs = len(self.step.loop.outputs)
        given = dict(zip(self.slots, tensors, strict=True))
        *states, block, row_block = kept
        saved = Saved.of(variant.forward.program, layout.rows, block)
        made: dict[Key, Tensor] = {}
        pointers = []
        for index, (key, buffer) in enumerate(zip(program.keys, program.buffers, strict=True)):
            if key is None or buffer["kind"] == "chunk":
                pointers.append(0)
                continue
            kind, place = key
            if kind == "saved":
                pointers.append(saved.pointer(key))
                continue
            if kind == "state":
                made[key] = states[place]
            elif kind == "carry":
                made[key] = incoming(grads[outputs + place], layout.batch, buffer, own=True)
            elif kind == "dout":
                made[key] = incoming(grads[place], layout.rows, buffer, own=index in bound.copied)
            elif buffer["kind"] == "grad":
                rows = len(given["table", place]) if kind.startswith("dtable") else buffer["rows"]
                zero = kind.startswith("dtable") or key not in program.covered
                made[key] = (torch.zeros if zero else torch.empty)(rows, buffer["ld"])
            elif kind in ("dseq", "dflag"):
                made[key] = writable(layout.rows, buffer, zero=key not in program.covered)
            elif kind == "drow":
                made[key] = writable(layout.batch, buffer, zero=True)
            else:
                made[key] = readable(given[key], buffer, index in bound.copied)
            pointers.append(made[key].data_ptr())
        self._run(bound, self._pack(bound, given, False), pointers, given, layout, False, int(row_block))
        return [
            self._collected(slot, made, given, layout) if mask >> bit & 1 else None
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
        return Saved.size(self.variant(mask).forward.program, rows)

    @property
    def first_sequence(self) -> int | None:
        """A slot with one row a step, if there is one."""
        return next((i for i, (kind, _) in enumerate(self.slots) if kind in ("seq", "flag", "ids")), None)

    def _run(
        self, bound: Bound, packed: Any, pointers: list[int], given: dict[Key, Tensor], layout: Layout,
        ring: bool, row_block: int,
    ) -> None:  # fmt: skip
        inits, init_lds, ids = [], [], []
        starts = []
        for key, buffer in zip(bound.program.keys, bound.program.buffers, strict=True):
            if buffer["kind"] == "state" and key is not None:
                starts.append(given[key].contiguous())
                inits.append(starts[-1].data_ptr())
                init_lds.append(starts[-1].shape[1])
            elif buffer["kind"] == "gather" and key is not None:
                ids.append(given["ids", self.step.outer.tables[key[1]][1]].data_ptr())
        offsets = 0 if layout.offsets is None else layout.offsets.data_ptr()
        bound.native.run(
            packed, pointers, inits, init_lds, ids, layout.steps, layout.batch, offsets, ring,
            torch.get_num_threads(), row_block,
        )  # fmt: skip

    def _pack(self, bound: Bound, given: dict[Key, Tensor], cache: bool) -> Any:
        """Weights in the engine's order; kept between calls without gradients while no weight has changed."""
        weights = [given["weight", k] for k in range(len(self.step.shapes.weights))]
        state = tuple((w.data_ptr(), w._version) for w in weights) if cache else ()
        if cache and bound.packed is not None and bound.packed[0] == state:
            return bound.packed[1]
        ready = [w.contiguous() for w in weights]
        packed = bound.native.pack([w.data_ptr() for w in ready])
        if cache:
            bound.packed = (state, packed)
        return packed

    def _collected(
        self, slot: Key, made: dict[Key, Tensor], given: dict[Key, Tensor], layout: Layout
    ) -> Tensor | None:
        """The gradient of one slot from the buffers that hold it."""
        kind, place = slot
        like = given[slot]
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
