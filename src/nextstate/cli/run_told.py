"""What a training tells of itself: its records while it runs, and the command for its card."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported when training starts: the other commands must answer at once
    from nextstate.training import Record


def command(name: str, files: Sequence[Path], options: Mapping[str, Any]) -> str:
    """The command that makes a run, as a shell reads it, without its --out.

    Files are given by their names alone, and four of them at most; an option that is None is left out, one
    that is True has no value.

    >>> command("train text", [Path("a/my book")], {"cell": "GRU", "rate": 1e-3, "tied": True, "steps": None})
    "nextstate train text 'my book' --cell GRU --rate 0.001 --tied"
    """
    words = ["nextstate", *name.split(), *(shlex.quote(path.name or str(path)) for path in files[:4])]
    if len(files) > 4:
        words.append("...")
    for option, value in options.items():
        if value is not None:
            words.append(f"--{option}")
            if value is not True:
                words.append(shlex.quote(f"{value:.12g}" if isinstance(value, float) else str(value)))
    return " ".join(words)


@contextmanager
def shown(summary: Callable[[Record], str], json_output: bool) -> Iterator[Callable[[Record], None]]:
    """Where records go: JSON lines, a live line on a terminal, or a line for every evaluation."""
    if json_output:
        yield lambda record: print(json.dumps(asdict(record)), flush=True)
    elif not sys.stderr.isatty():

        def line(record: Record) -> None:
            if record.evaluation is not None:
                print(summary(record), file=sys.stderr, flush=True)

        yield line
    else:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        columns = (BarColumn(20), TaskProgressColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("starting", total=1.0)

            def live(record: Record) -> None:
                text = summary(record)
                progress.update(task, completed=record.progress, description=text)
                if record.evaluation is not None:
                    progress.console.print(text)

            yield live
