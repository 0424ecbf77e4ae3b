"""`nextstate buzz report`: how feelings changed, a topic and day."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nextstate.cli.visible import visible
from nextstate.writing import folder_of

if TYPE_CHECKING:
    from nextstate.tasks.tracking import Report


def report(
    db: Annotated[Path, typer.Option(help="The file that nextstate buzz track keeps.")],
    topic: Annotated[list[str] | None, typer.Option(help="Only this topic; may be given again.")] = None,
    out: Annotated[Path | None, typer.Option(help="A PNG to draw it to.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """The index of every topic and day: mean score, 95 % interval, and the days that changed.

    A day has changed if its mean is further from that of the posts since the last change than chance
    explains; over the whole report a mark by chance alone is expected once in twenty reports.
    """
    from nextstate.tasks.tracking import read_report

    found = read_report(db, topic or ())
    if out is not None:
        from nextstate.tasks.tracking.draw import draw_report

        folder_of("buzz report", out.parent)
        draw_report(found, out)
        print(f"wrote {out}", file=sys.stderr)
    if json_output:
        print(json.dumps(found.to_json()))
    else:
        _print(found)


def _print(found: Report) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for topic, entries in found.topics.items():
        table = Table("day", "posts", "mean score", "95 % interval", "changed by", title=Text(visible(topic)))
        for entry in entries:
            interval = "" if entry.low is None else f"{entry.low:+.2f} to {entry.high:+.2f}"
            change = Text("")
            if entry.change is not None:
                change = Text(f"{entry.change:+.2f}", style="green" if entry.change > 0 else "red")
            table.add_row(str(entry.day), str(entry.posts), f"{entry.mean:+.3f}", interval, change)
        console.print(table)
    if not found.topics:
        console.print("no posts yet")
