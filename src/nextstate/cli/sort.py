"""`nextstate sort`: numbers in, the same in order out, written by a trained network."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from nextstate.checks import InputError, refuse
from nextstate.recipes.sorter import SHIPPED, TrainedSorter, load_sorter

MOST_AT_ONCE = 1 << 16
"""Bytes of input taken at a time: lines that have arrived together are sorted together."""


def sort(
    numbers: Annotated[
        list[str] | None, typer.Argument(help="One list; without it, a list a line on stdin.", metavar="N...")
    ] = None,
    model: Annotated[Path, typer.Option(help="A sorter's safetensors file.")] = SHIPPED,
    json_output: Annotated[bool, typer.Option("--json", help="Write every list as a JSON array.")] = False,
) -> None:
    """Sort a list of whole numbers, or with none given every line of stdin, in order.

    Lines may separate numbers by spaces or commas, or be JSON arrays.
    """
    sorter = load_sorter(model)
    if numbers:
        for answer in sorter.sort([_parse(" ".join(numbers))]):
            print(_written(answer, json_output))
        return
    done = 0
    for lines in _arriving(sys.stdin.buffer):
        for text in _answers(sorter, lines, done, json_output):
            print(text)
        sys.stdout.flush()
        done += len(lines)


def _answers(sorter: TrainedSorter, lines: list[str], before: int, json_output: bool) -> Iterator[str]:
    """Answers to all lines before the first bad one; then its complaint, with its number, is raised."""
    lists, complaint = [], None
    for number, line in enumerate(lines, before + 1):
        try:
            lists.append(_parse(line))
            sorter.range.check(lists[-1])
        except InputError as error:
            del lists[number - before - 1 :]
            complaint = InputError(f"line {number}: {error}")
            break
    for answer in sorter.sort(lists):
        yield _written(answer, json_output)
    if complaint is not None:
        sys.stdout.flush()
        raise complaint


def _arriving(stream: BinaryIO) -> Iterator[list[str]]:
    """The lines of a stream, as many at a time as have arrived."""
    rest = b""
    while part := stream.read1(MOST_AT_ONCE):  # type: ignore[attr-defined]
        *lines, rest = (rest + part).split(b"\n")
        if lines:
            yield [line.decode(errors="replace") for line in lines]
    if rest:
        yield [rest.decode(errors="replace")]


def _parse(text: str) -> list[int]:
    inner = text.strip().removeprefix("[").removesuffix("]")
    numbers = []
    for place, word in enumerate(inner.replace(",", " ").split(), 1):
        try:
            numbers.append(int(word.replace("_", "no digit")))  # Python reads 1_0 as 10
        except ValueError:
            refuse("sort", f"number {place} is {word!r}; expected a whole number")
    return numbers


def _written(answer: list[int], json_output: bool) -> str:
    return json.dumps(answer) if json_output else " ".join(map(str, answer))
