"""What a training tells of itself: its records while it runs, its curve, and the command for its card."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextstate.writing import write_text

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


class Curve:
    """The records of a run in a file, one JSON object a line; every step once, however often it was killed.

    What an earlier part of the run left is read: of a step that was made anew the last record counts, a line
    cut short by a kill is left out. The file is written whole before lines are added to it, and at the end.
    """

    def __init__(self, path: Path) -> None:
        from nextstate.training import Record

        self.path = path
        self.records: list[Record] = []
        for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
            try:
                self._add(Record(**json.loads(line)))
            except (ValueError, TypeError):
                continue

    def follow(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records of the part that runs now, each noted as it passes."""
        self._write()
        with self.path.open("a") as file:
            for record in records:
                self._add(record)
                file.write(_line(record))
                file.flush()
                yield record
        self._write()

    def _add(self, record: Record) -> None:
        """Records of steps that a run which was taken up again has made anew give way."""
        while self.records and self.records[-1].step >= record.step:
            self.records.pop()
        self.records.append(record)

    def _write(self) -> None:
        write_text(self.path, "".join(map(_line, self.records)))


def _line(record: Record) -> str:
    return json.dumps(asdict(record)) + "\n"


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
