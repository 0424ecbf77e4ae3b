"""The program of the CPU engine, as `csrc/README.md` describes it, while it is being written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Operand = tuple[Any, ...]
"""("plane", id), ("buf", index, access, column) or ("const", number)."""

Key = tuple[str, int]
"""What a buffer holds: ("state", leaf), ("seq", place), ("saved", k), ..."""


def padded(width: int) -> int:
    """Row length in floats of a buffer: a multiple of 16."""
    return -(-width // 16) * 16


@dataclass(slots=True)
class Block:
    """Products and pointwise code for one width; planes are numbered freely until `compact`."""

    width: int
    gemms: list[dict[str, Any]] = field(default_factory=list)
    code: list[tuple[str, Operand, Operand | None, Operand | None, Operand | None]] = field(
        default_factory=list
    )
    planes: int = 0

    def plane(self) -> Operand:
        self.planes += 1
        return ("plane", self.planes - 1)

    def emit(self, op: str, *operands: Operand, dst: Operand | None = None) -> Operand:
        dst = dst or self.plane()
        a, b, c = (*operands, None, None, None)[:3]
        self.code.append((op, dst, a, b, c))
        return dst

    def spec(self) -> dict[str, Any]:
        self._compact()
        return {"width": self.width, "gemms": self.gemms, "code": self.code}

    def _compact(self) -> None:
        """Give each plane the lowest number free over its life: the fewer planes, the more stay in L1."""
        last: dict[int, int] = {}
        for place, (_, dst, *sources) in enumerate(self.code):
            for operand in (dst, *sources):
                if operand is not None and operand[0] == "plane":
                    last[operand[1]] = place
        number: dict[int, int] = {}
        free = list(range(max(self.planes, 1)))[::-1]
        for gemm in self.gemms:
            for plane in gemm["dst"]:
                number[plane] = free.pop()
            gemm["dst"] = [number[plane] for plane in gemm["dst"]]

        def renamed(operand: Operand | None) -> Operand | None:
            return ("plane", number[operand[1]]) if operand is not None and operand[0] == "plane" else operand

        code = []
        for place, (op, dst, *sources) in enumerate(self.code):
            ready = [renamed(operand) for operand in sources]
            for operand in dict.fromkeys(sources):
                if operand is not None and operand[0] == "plane" and last[operand[1]] == place:
                    free.append(number[operand[1]])
            if dst[0] == "plane" and dst[1] not in number:
                number[dst[1]] = free.pop()
            code.append((op, renamed(dst), *ready))
        self.code = code  # type: ignore[assignment]


@dataclass(slots=True)
class Program:
    """Buffers, weights and blocks; `spec()` is what the engine takes, `keys` says what to bind."""

    keys: list[Key | None] = field(default_factory=list)
    buffers: list[dict[str, Any]] = field(default_factory=list)
    weights: list[dict[str, Any]] = field(default_factory=list)
    pre: list[Block] = field(default_factory=list)
    step: list[Block] = field(default_factory=list)
    post: list[Block] = field(default_factory=list)
    tn: list[dict[str, Any]] = field(default_factory=list)
    scatter: list[dict[str, Any]] = field(default_factory=list)
    copies: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    """After a run: (buffer, start) takes the numbers of (buffer, start), so many of them."""
    reverse: bool = False
    found: dict[Key, int] = field(default_factory=dict)
    covered: set[Key] = field(default_factory=set)
    """Gradients of which every element is written: their memory need not start as zeros."""

    def buffer(self, kind: str, width: int, key: Key | None = None, **more: Any) -> int:
        """The buffer of that key, or a new one of the engine's own memory."""
        if key is not None and key in self.found:
            return self.found[key]
        ld = more.pop("ld", width if kind in ("seqscalar", "rowscalar") else padded(width))
        self.buffers.append({"kind": kind, "width": width, "ld": ld, **more})
        self.keys.append(key)
        if key is not None:
            self.found[key] = len(self.buffers) - 1
        return len(self.buffers) - 1

    def spec(self) -> dict[str, Any]:
        return {
            "buffers": self.buffers,
            "weights": self.weights,
            "pre": [block.spec() for block in self.pre],
            "step": [block.spec() for block in self.step],
            "post": [block.spec() for block in self.post],
            "tn": self.tn,
            "scatter": self.scatter,
            "reverse": self.reverse,
        }
