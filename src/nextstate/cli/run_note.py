"""run.json: what a training notes in its folder about itself, so that the same command finds it again."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from nextstate.checks import refuse
from nextstate.writing import write_text

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
