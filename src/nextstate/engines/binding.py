"""Memory for the buffers of a program: readable inputs, saved values, gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nextstate import _engine
from nextstate.compiler.program import Key, Program, padded

SLACK = 16
"""Floats after the last row of a buffer that a panel at an odd column may read."""


@dataclass(slots=True)
class Bound:
    """A program made ready to run: the engine's object, and which external buffers must be copied to be read."""

    program: Program
    native: Any
    copied: frozenset[int]
    packed: tuple[tuple[Any, ...], Any] | None = None

    @staticmethod
    def of(program: Program) -> Bound:
        spec = program.spec()
        reach: dict[int, int] = {}
        for block in (*spec["pre"], *spec["step"], *spec["post"]):
            operands = [o for part in block["code"] for o in part[1:]]
            for operand in operands:
                if operand is not None and operand[0] == "buf":
                    end = operand[3] + padded(block["width"])
                    reach[operand[1]] = max(reach.get(operand[1], 0), end)
        copied = frozenset(
            i
            for i, buffer in enumerate(program.buffers)
            if buffer["kind"] not in ("seqscalar", "grad")
            and (reach.get(i, 0) > buffer["ld"] or buffer["width"] % 16)
        )
        return Bound(program, _engine.Program(spec), copied)


@dataclass(frozen=True, slots=True)
class Saved:
    """The values a forward run saves, in one block from the pool."""

    block: Tensor
    offsets: dict[Key, int]

    @staticmethod
    def of(program: Program, rows: int, block: Tensor | None = None) -> Saved:
        offsets, total = Saved._layout(program, rows)
        return Saved(_engine.empty(1, total) if block is None else block, offsets)

    @staticmethod
    def size(program: Program, rows: int) -> int:
        return Saved._layout(program, rows)[1]

    @staticmethod
    def _layout(program: Program, rows: int) -> tuple[dict[Key, int], int]:
        offsets, total = {}, 0
        for key, index in program.found.items():
            if key[0] == "saved":
                buffer = program.buffers[index]
                offsets[key] = total
                total += padded(rows * (buffer["ld"] if buffer["kind"] == "tiled" else 1))
        return offsets, total + SLACK

    def pointer(self, key: Key) -> int:
        return self.block.data_ptr() + 4 * self.offsets[key]


def readable(value: Tensor, buffer: dict[str, Any], copied: bool) -> Tensor:
    """A tensor as the engine may read it: rows of `ld` floats, with slack behind if panels reach there."""
    if not copied:
        return value.contiguous()
    flat = value.reshape(1, -1) if value.dim() == 1 else value
    rows, ld = flat.shape[0], buffer["ld"]
    out = _engine.empty(1, rows * ld + SLACK)
    out[0, : rows * ld].view(rows, ld)[:, : flat.shape[1]] = flat
    return out


def writable(rows: int, buffer: dict[str, Any], zero: bool) -> Tensor:
    """Fresh rows that become a tensor of the user's: exactly as wide as they are if that is a multiple of 16."""
    if zero:
        return torch.zeros(rows, buffer["ld"])
    if buffer["width"] % 16:
        return _engine.empty(rows, buffer["ld"])
    return torch.empty(rows, buffer["ld"])


def trimmed(value: Tensor, width: int) -> Tensor:
    """Without the pad columns."""
    return value if value.shape[1] == width else value[:, :width].contiguous()


def incoming(gradient: Tensor | None, rows: int, buffer: dict[str, Any], own: bool) -> Tensor:
    """A gradient from above, zeros for none; a copy if the program writes to it (`own`)."""
    if gradient is None:
        return torch.zeros(1, rows * buffer["ld"] + SLACK)
    if not own:
        return gradient.contiguous()
    return readable(gradient, buffer, True)
