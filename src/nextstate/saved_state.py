"""The state of a stream as bytes: safetensors, with what is needed to refuse the wrong ones."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from nextstate.cell import Cell
from nextstate.checks import describe, refuse
from nextstate.combine import Quantised
from nextstate.states import Tree, leaves, rebuild

FORMAT = "nextstate state"
VERSION = "1"


def to_bytes(cell: Cell, state: Tree) -> bytes:
    """The tensors of a state and, in the header, format, version, kind of cell, layout and digest."""
    tensors = _named([x.detach().cpu().contiguous() for x in leaves(state)])
    header = {
        "format": FORMAT,
        "version": VERSION,
        "cell": _kind(cell),
        "state": describe(state),
        "sha256": _digest(tensors),
    }
    return save(tensors, header)


def from_bytes(operation: str, data: bytes, cell: Cell, like: Tree, *, any_rows: bool = False) -> Tree:
    """The state that `to_bytes` wrote, with the structure, shapes and dtypes of `like`.

    With `any_rows` their number may differ from that of `like`.
    Raises InputError for anything else, saying what was found and what was expected.
    """
    header, tensors = _read(operation, data)
    if header.get("format") != FORMAT:
        refuse(
            operation,
            f"the bytes are safetensors but no saved state: their format is {header.get('format')!r}",
        )
    if header.get("version") != VERSION:
        refuse(
            operation, f"the state has layout version {header.get('version')!r}; this is version {VERSION!r}"
        )
    if header.get("cell") != _kind(cell):
        refuse(operation, f"the state is of a {header.get('cell')}, this is a {_kind(cell)}")
    wanted = leaves(like)
    parts = [tensors[str(k)] for k in range(len(tensors)) if str(k) in tensors]
    device = wanted[0].device if wanted else torch.device("cpu")
    same = len(tensors) == len(parts) == len(wanted) and all(
        a.shape[1:] == b.shape[1:] and a.dtype == b.dtype and (any_rows or len(a) == len(b))
        for a, b in zip(parts, wanted, strict=True)
    )
    if not same:
        refuse(operation, f"the state is {header.get('state')}; this cell has {describe(like)}")
    if header.get("sha256") != _digest(tensors):
        refuse(operation, "the tensors are not those that were saved: their digest differs")
    return rebuild(like, [x.to(device) for x in parts])


def _kind(cell: Cell) -> str:
    """The names of a cell and of the cells in it; with fewer bits in its weights it is the same cell."""
    first, *inner = (
        type(part).__name__
        for part in cell.modules()
        if isinstance(part, Cell) and not isinstance(part, Quantised)
    )
    return f"{first} of {', '.join(inner)}" if inner else first


def _named(parts: list[Tensor]) -> dict[str, Tensor]:
    return {str(k): x.clone() for k, x in enumerate(parts)}


def _read(operation: str, data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not isinstance(data, bytes | bytearray | memoryview):
        refuse(operation, f"expected bytes, got a {type(data).__name__}")
    data = bytes(data)
    try:
        tensors = load(data)
        (size,) = struct.unpack("<Q", data[:8])
        return json.loads(data[8 : 8 + size]).get("__metadata__", {}), tensors
    except (SafetensorError, struct.error, ValueError) as error:
        refuse(operation, f"{len(data)} bytes that are no saved state, or not all of it ({error})")


def _digest(tensors: dict[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors, key=lambda k: (len(k), k)):
        found.update(tensors[name].view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
