"""How far a command is with the rows of a file, shown on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def counting(
    what: str, file: Path, format: str | None = None, shown: bool = True
) -> Iterator[Callable[[int], None]]:
    """Within the block, a function to call with how many rows are done; it shows rows, rate and time left.

    Nothing is shown, nor counted beforehand, where stderr is no terminal or not `shown`.
    """
    if not shown or not sys.stderr.isatty():
        yield lambda rows: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TimeRemainingColumn

    from nextstate.tasks.buzz.tables import count_rows

    class Pace(ProgressColumn):
        def render(self, task: Task) -> str:  # there is no speed before the first rows are done
            return f"{task.completed} rows" + (f", {task.speed:.0f} a second" if task.speed else "")

    total = count_rows(file, format)
    with Progress(BarColumn(30), Pace(), TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda rows: progress.advance(task, rows)
