"""`nextstate eval sort`: how right a sorter is, by law and by length."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from nextstate.checks import refuse
from nextstate.recipes.sorter import SHIPPED, load_sorter


def eval_sort(
    model: Annotated[Path, typer.Option(help="A sorter's safetensors file.")] = SHIPPED,
    lists: Annotated[
        int,
        typer.Option(min=1, help="Lists of every law, as many of every length: rounded up to a multiple."),
    ] = 10000,
    lengths: Annotated[
        str, typer.Option(help="Lengths, such as 32 or 1-40 or 1,2,8; default: all trained.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the lists; training uses others.")] = 1,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Greedy answers to random lists of every law at every trained length, and of uniform ones beyond."""
    from nextstate.recipes.report import by_law, by_length
    from nextstate.tasks.sort import LAWS, evaluate

    sorter = load_sorter(model)
    trained = range(sorter.range.shortest, sorter.range.longest + 1)
    asked = _lengths(lengths) or list(trained)
    beyond = [sorter.range.longest * factor // 5 for factor in (6, 8, 12, 16)]
    each = -(-lists // len(asked))
    if each * len(asked) != lists:
        told = f"{each * len(asked)} lists of every law, {each} of every one of {len(asked)} lengths"
        print(f"eval sort: {told}, instead of {lists}", file=sys.stderr)
    entries = list(evaluate(sorter, largest=sorter.range.largest, lengths=asked, lists=each, seed=seed))
    uniform = {"uniform": LAWS["uniform"]}
    further = evaluate(
        sorter, largest=sorter.range.largest, lengths=beyond, lists=each, laws=uniform, seed=seed
    )
    laws = {law: score.shares() | {"lists": score.lists} for law, score in by_law(entries).items()}
    report = {
        "model": str(model),
        "largest": sorter.range.largest,
        "trained_lengths": [sorter.range.shortest, sorter.range.longest],
        "seed": seed,
        "lists_of_a_length": each,
        "laws": laws,
        "lengths": {n: score.shares() | {"lists": score.lists} for n, score in by_length(entries).items()},
        "lists_right": {
            law: {e.length: e.score.shares()["lists_right"] for e in entries if e.law == law} for law in laws
        },
        "beyond": {e.length: e.score.shares() | {"lists": e.score.lists} for e in further},
    }
    if json_output:
        print(json.dumps(report))
    else:
        _print_tables(report)


def _lengths(text: str) -> list[int]:
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        try:
            low, high = int(first), int(last if dash else first)
        except ValueError:
            refuse("eval sort", f"lengths is {text!r}; expected numbers and ranges such as 1-40,48")
        if low < 1:
            refuse("eval sort", f"lengths is {text!r}; every length must be at least 1")
        if high < low:
            refuse("eval sort", f"lengths is {text!r}; {part} ends before it begins: expected {high}-{low}")
        found += range(low, high + 1)
    if text and not found:
        refuse("eval sort", f"lengths is {text!r}; expected numbers and ranges such as 1-40,48")
    return sorted(set(found))


def _print_tables(report: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for title, part in (
        ("by law", report["laws"]),
        ("by length, all laws", report["lengths"]),
        ("beyond the trained lengths, uniform", report["beyond"]),
    ):
        table = Table(
            "", "lists", "numbers right %", "whole lists right %", "never decreasing %", title=title
        )
        for name, row in part.items():
            shares = [row["elements_right"], row["lists_right"], row["never_decreasing"]]
            table.add_row(str(name), str(row["lists"]), *[f"{100 * share:.2f}" for share in shares])
        console.print(table)
