"""The compiled extension: see csrc/README.md."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

class Packed: ...

class Program:
    def __init__(self, spec: dict[str, Any], isa: str = "", precision: str = "fp32") -> None: ...
    def pack(self, weights: Sequence[int]) -> Packed: ...
    def run(
        self,
        packed: Packed,
        buffers: list[int],
        inits: list[int],
        init_lds: list[int],
        ids: list[int],
        T: int,
        B: int,
        off: int = 0,
        ring: bool = False,
        threads: int = 1,
        row_block: int = 1,
        chunk_rows: int = 0,
        profile: bool = False,
    ) -> dict[str, float] | None: ...

class Step:
    def __init__(
        self,
        program: Program,
        packed: Packed,
        buffers: list[int],
        inits: list[int],
        init_lds: list[int],
        B: int,
        threads: int,
        row_block: int,
        input: int,
        output: int,
    ) -> None: ...
    def __call__(self, u: int, v: int) -> None: ...

FEW_ROWS: int

def row_block(B: int, threads: int) -> int: ...
def empty(rows: int, cols: int) -> Tensor: ...
def share_team(entries: Sequence[int]) -> None: ...
def fingerprint(addresses: list[int], counts: list[int], most: int) -> int: ...
def trim() -> None: ...
def info() -> dict[str, Any]: ...
