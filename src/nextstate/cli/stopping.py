"""How commands end before their time: Ctrl-C or SIGTERM during a training, a stdout that takes no more."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import typer


def trains(command: Callable[..., None]) -> Callable[..., None]:
    """A command that trains with checkpoints: interrupted, it says in one line what is kept; exit code 130.

    It stops between two steps, behind a checkpoint; a second signal ends it at once.
    """

    @wraps(command)
    def stoppable_command(**options: Any) -> None:
        try:
            from nextstate.training import Interrupted, stoppable  # not before a training starts

            try:
                with stoppable():
                    command(**options)
            except Interrupted as stop:
                _tell(f"interrupted after {stop.steps}; run the same command again to go on")
                raise typer.Exit(130) from None
        except KeyboardInterrupt:
            _tell(
                "interrupted; the same command goes on from the last checkpoint, or begins anew without one"
            )
            raise typer.Exit(130) from None

    return stoppable_command


def _tell(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # of several processes the first one tells
        print(f"nextstate: {text}", file=sys.stderr)


def end_tidily() -> None:
    """Let SIGTERM and SIGHUP end a command as an exception does (143, 129): what is half written goes.

    One of several processes leaves it alone, as `stoppable` does; one that was ignored before stays so.
    """
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    for asked in (signal.SIGTERM, signal.SIGHUP):
        if alone and signal.getsignal(asked) is signal.SIG_DFL:
            signal.signal(asked, lambda number, frame: sys.exit(128 + number))


def unwritten() -> OSError | None:
    """Why what was printed cannot be written to stdout; None if it is. What cannot is given up."""
    if sys.stdout is None:  # closed before the start: what is printed goes nowhere
        return None
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        return error
    return None
