"""Where text comes from: files, folders, standard input; read in pieces, so that size does not matter."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from nextstate.checks import InputError, refuse

PIECE = 1 << 20
"""Bytes read at a time."""

STDIN = Path("-")


def find_files(paths: Iterable[Path]) -> list[Path]:
    """The files behind names: a file or pipe is itself, a folder all files under it in order of their paths.

    Hidden files and folders are left out; `-` stands for standard input. Raises InputError for a name
    that does not exist, a folder without files, and standard input named twice.
    """
    found: list[Path] = []
    for path in paths:
        if path == STDIN:
            found.append(path)
        elif os.path.isdir(path):
            inside = [
                file
                for file in sorted(path.rglob("*"))
                if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
            ]
            if not inside:
                refuse("text", f"the folder {path} holds no file")
            found += inside
        elif os.path.exists(path):
            found.append(path)
        else:
            refuse("text", f"{path} is neither a file nor a folder; - is standard input")
    if found.count(STDIN) > 1:
        refuse("text", "standard input (-) is named twice; it can be read once")
    return found


def read_pieces(files: Iterable[Path]) -> Iterator[bytes]:
    """The bytes of all files one after the other, as `cat` would give them, a piece at a time."""
    for path in files:
        if path == STDIN:
            yield from iter(lambda: sys.stdin.buffer.read(PIECE), b"")
            continue
        try:
            with path.open("rb") as file:
                yield from iter(lambda: file.read(PIECE), b"")
        except OSError as error:
            raise InputError(f"text: cannot read {path}: {error.strerror}") from error


def at_line_ends(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes cut after line ends, so that no character and no word is divided.

    A line longer than `PIECE` is cut where a character begins.

    >>> list(at_line_ends([b"one\\ntw", b"o\\nthree"]))
    [b'one\\n', b'two\\n', b'three']
    """
    rest = b""
    for piece in pieces:
        rest += piece
        end = rest.rfind(b"\n") + 1
        if end == 0 and len(rest) >= PIECE:
            end = character_start(rest, len(rest) - 4)
        if end:
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def character_start(text: bytes, place: int) -> int:
    """The last place at or before `place` where a character can begin, at most three bytes back."""
    for back in range(4):
        if place - back > 0 and text[place - back] & 0xC0 != 0x80:
            return place - back
    return place
