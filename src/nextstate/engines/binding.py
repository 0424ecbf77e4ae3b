"""Memory for the buffers of a program: readable inputs, saved values, gradients."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from nextstate import _engine
from nextstate.compiler.program import Key, Program, padded
from nextstate.engines.layout import Layout
from nextstate.engines.threads import threads

SLACK = 16
"""Floats after the last row of a buffer that a panel at an odd column may read."""


SMALL = 4e6
"""Floating-point operations below which waking a second thread costs more than it gives."""


Seen = tuple[weakref.ref[Tensor], int, int]
"""A weight as it was packed: itself, its version, its address."""

LOOKS = 16
"""Values of each weight that a call looks at for every row it computes, to see whether they have changed."""

_steps = itertools.count(1)
_last_step = 0


def _note_step(*_: Any) -> None:
    global _last_step
    _last_step = next(_steps)


register_optimizer_step_post_hook(_note_step)


def optimiser_steps() -> int:
    """How many steps optimisers have made. Fused ones change parameters without changing their version."""
    return _last_step


def looked_at(weights: Sequence[Tensor], rows: int) -> int:
    """A number made of values of the weights: a write through `.data` leaves no other trace."""
    most = LOOKS * max(1, rows)
    return int(_engine.fingerprint([w.data_ptr() for w in weights], [w.numel() for w in weights], most))


def _same(seen: list[Seen], weights: Sequence[Tensor]) -> bool:
    """Whether these weights are those seen: a new tensor may stand at the address of an old one."""
    return all(
        ref() is w and not w.is_inference() and w._version == version and w.data_ptr() == address
        for (ref, version, address), w in zip(seen, weights, strict=True)
    )


@dataclass(slots=True)
class Bound:
    """A program made ready to run: the engine's object, and what each of its buffers is bound to.

    `inputs` are (buffer, slot, must be copied to be read); the others are (buffer, place). `work` counts
    the floating-point operations of one row.
    """

    program: Program
    native: Any
    inputs: list[tuple[int, int, bool]]
    states: list[tuple[int, int]]
    gathers: list[tuple[int, int]]
    saved: list[tuple[int, int, int, bool]]
    work: float
    packed: tuple[tuple[int, int], list[Seen], Any] | None = None

    @staticmethod
    def of(program: Program, slots: list[Key], tables: list[int], precision: str) -> Bound:
        """`slots`: the inputs in order; `tables[k]`: which ids choose the rows of table k."""
        spec = program.spec()
        copied = _copied(program, spec)
        inputs, states, gathers, saved = [], [], [], []
        for index, (key, buffer) in enumerate(zip(program.keys, program.buffers, strict=True)):
            if key is None or buffer["kind"] == "chunk":
                continue
            if key[0] == "state":
                states.append((index, key[1]))
            elif key[0] == "saved":
                saved.append((index, key[1], buffer["ld"], buffer["kind"] == "tiled"))
            elif key in slots:
                inputs.append((index, slots.index(key), index in copied))
            if key[0] == "table":
                gathers.append((index, slots.index(("ids", tables[key[1]]))))
        return Bound(
            program, _engine.Program(spec, precision=precision), inputs, states, gathers, saved, _work(spec)
        )

    def copies(self, index: int) -> bool:
        """Whether a buffer that is no input needs room for the pads that panels read."""
        return bool(self.program.buffers[index]["width"] % 16)

    def run(
        self, packed: Any, pointers: list[int], tensors: Sequence[Tensor], starts: list[Tensor],
        layout: Layout, ring: bool, row_block: int,
    ) -> None:  # fmt: skip
        count = threads() if self.work * layout.rows > SMALL else 1
        ids = [plain(tensors[slot]) for _, slot in self.gathers]
        self.native.run(
            packed, pointers, [s.data_ptr() for s in starts], [s.shape[1] for s in starts],
            [x.data_ptr() for x in ids], layout.steps, layout.batch,
            0 if layout.offsets is None else layout.offsets.data_ptr(), ring, count, row_block,
        )  # fmt: skip

    def pack(self, weights: Sequence[Tensor], cache: bool, rows: int = 0) -> Any:
        """Weights in the engine's order; kept between calls without gradients while no weight has changed."""
        ready = [plain(w) for w in weights]
        now = (optimiser_steps(), looked_at(ready, rows)) if cache else (0, 0)
        if cache and self.packed is not None:
            then, seen, packed = self.packed
            if then == now and _same(seen, weights):
                return packed
        if not cache:  # in training: what a hand-written step through `.data` changes may be little
            _note_step()
        packed = self.native.pack([w.data_ptr() for w in ready])
        if cache and not any(w.is_inference() for w in weights):
            seen = [(weakref.ref(w), w._version, w.data_ptr()) for w in weights]
            self.packed = now, seen, packed
        return packed

    def saved_offsets(self, rows: int) -> list[int]:
        """Where each saved value begins in the block that a forward run writes, in floats; then the end."""
        offsets = [0]
        for _, _, ld, tiled in sorted(self.saved, key=lambda value: value[1]):
            offsets.append(offsets[-1] + padded(rows * (ld if tiled else 1)))
        return offsets

    def bind_saved(self, pointers: list[int], block: Tensor, offsets: list[int]) -> None:
        """Point the buffers of saved values into their block."""
        for index, place, _, _ in self.saved:
            pointers[index] = block.data_ptr() + 4 * offsets[place]


def _copied(program: Program, spec: dict[str, Any]) -> set[int]:
    """Buffers whose rows are not padded as the engine reads them."""
    reach: dict[int, int] = {}
    for block in (*spec["pre"], *spec["step"], *spec["post"]):
        for part in block["code"]:
            for operand in part[1:]:
                if operand is not None and operand[0] == "buf":
                    reach[operand[1]] = max(reach.get(operand[1], 0), operand[3] + padded(block["width"]))
    return {
        i
        for i, buffer in enumerate(program.buffers)
        if buffer["kind"] not in ("seqscalar", "grad")
        and (reach.get(i, 0) > buffer["ld"] or buffer["width"] % 16)
    }


def _work(spec: dict[str, Any]) -> float:
    total = 0.0
    for block in (*spec["pre"], *spec["step"], *spec["post"]):
        total += 10 * block["width"] * len(block["code"])
        for gemm in block["gemms"]:
            total += sum(2 * s["k"] * block["width"] * len(gemm["dst"]) for s in gemm["segments"])
    return total + sum(2 * t["n"] * t.get("k", 1) for t in spec["tn"])


def plain(value: Tensor) -> Tensor:
    """A tensor whose memory holds its values in order: a view may stand for the negative of its memory."""
    return value.contiguous().resolve_neg()


def readable(value: Tensor, buffer: dict[str, Any], copied: bool) -> Tensor:
    """A tensor as the engine may read it: rows of `ld` floats, with slack behind if panels reach there."""
    if not copied:
        return plain(value)
    flat = value.reshape(1, -1) if value.dim() == 1 else value
    rows, ld = flat.shape[0], buffer["ld"]
    out = _engine.empty(1, rows * ld + SLACK)
    out[0, : rows * ld].view(rows, ld)[:, : flat.shape[1]] = flat
    return out


POOLED = 1 << 14
"""Floats from which memory comes from the pool: fresh pages cost more than the work done in them."""


@lru_cache(64)
@torch.inference_mode(False)
def _like(rows: int, cols: int) -> Tensor:
    """What new memory is like, whatever torch makes by default: twice as fast as to name type and device."""
    return torch.empty(rows, cols, dtype=torch.float32, device="cpu")


def memory(rows: int, cols: int, zero: bool = False) -> Tensor:
    """Memory for something handed to the user; it goes back to the pool when the tensor is gone."""
    if rows * cols < POOLED:
        return (torch.zeros_like if zero else torch.empty_like)(_like(rows, cols))
    value = _engine.empty(rows, cols)
    return value.zero_() if zero else value


def trimmed(value: Tensor, width: int) -> Tensor:
    """Without the pad columns."""
    return value if value.shape[1] == width else value[:, :width].contiguous()


def incoming(gradient: Tensor | None, rows: int, buffer: dict[str, Any], own: bool) -> Tensor:
    """A gradient from above, zeros for none; a copy if the program writes to it (`own`)."""
    if gradient is None:
        return memory(1, rows * buffer["ld"] + SLACK, zero=True)
    if not own:
        return plain(gradient)
    return readable(gradient, buffer, True)
