"""What a training tells of itself: run.json in its folder, so that the same command finds it again, the
command for its card, and its records while it runs."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextstate.checks import refuse
from nextstate.writing import write_text

if TYPE_CHECKING:  # imported when training starts: the other commands must answer at once
    from nextstate.training import Record

NOTE, MODEL = "run.json", "model.safetensors"

Work = Mapping[str, Sequence[str]]
"""Folders in that of a run, removed when it begins and when it has ended, and what they hold."""

CHECKPOINTS = ("step-*", ".writing-*")


def found(operation: str, out: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The note of the run with these settings in `out`, `finished` or not; None where one may begin.

    Raises InputError for a run with other settings, and for a model that a new run would replace.
    """
    try:
        note = json.loads((out / NOTE).read_text())
        finished, same = bool(note["finished"]), note["settings"] == json.loads(json.dumps(settings))
    except FileNotFoundError:
        if (out / MODEL).exists():
            refuse(operation, f"{out} holds {MODEL}, which a new run would replace; name another --out")
        return None
    except (ValueError, KeyError, TypeError):
        finished = same = False
    if finished and not (out / MODEL).exists():  # somebody took it away
        return None
    if not same:
        kind = "a finished" if finished else "an unfinished"
        refuse(operation, f"{out} holds {kind} run with other settings or data; name another --out")
    return note


def write(out: Path, settings: Mapping[str, Any], *, finished: bool = False, **planned: Any) -> None:
    """Note a run: its settings, what was planned for it, whether it has ended."""
    note = {"finished": finished, "settings": settings, **planned}
    write_text(out / NOTE, json.dumps(note, indent=1))


def tell_finished(operation: str, out: Path) -> None:
    print(
        f"{operation}: {out} holds this very run, finished: {out / MODEL}; to train anew name another --out",
        file=sys.stderr,
    )


def check_work(operation: str, out: Path, work: Work) -> None:
    """Raises InputError if a folder that the run would fill and remove holds what is no run's."""
    for folder, names in work.items():
        for entry in (out / folder).iterdir() if (out / folder).is_dir() else ():
            if not any(fnmatch(entry.name, name) for name in names):
                refuse(
                    operation, f"a run removes {out / folder}, which holds {entry.name}; name another --out"
                )


def remove_work(out: Path, work: Work) -> None:
    for folder in work:
        shutil.rmtree(out / folder, ignore_errors=True)


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
