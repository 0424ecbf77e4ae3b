"""The command line: one verb a file. Results on stdout, messages on stderr; exit code 2 for bad input."""

from __future__ import annotations

import sys
from errno import EDQUOT, EFBIG, EIO, ENOSPC, EPIPE
from io import TextIOWrapper
from typing import Any

import typer

from nextstate.checks import InputError
from nextstate.cli.buzz import buzz
from nextstate.cli.eval_buzz import eval_buzz
from nextstate.cli.eval_sort import eval_sort
from nextstate.cli.eval_text import eval_text
from nextstate.cli.experiment import experiment
from nextstate.cli.export import export
from nextstate.cli.generate import generate
from nextstate.cli.info import info
from nextstate.cli.inspect import inspect
from nextstate.cli.machine import machine
from nextstate.cli.serve import serve
from nextstate.cli.sort import sort
from nextstate.cli.stopping import end_tidily, trains, unwritten
from nextstate.cli.train_buzz import train_buzz
from nextstate.cli.train_sort import train_sort
from nextstate.cli.train_text import train_text

FULL = (ENOSPC, EDQUOT, EFBIG, EIO)
"""Why a place that could be opened takes no more."""

app = typer.Typer(
    help="Recurrent networks from one step: train, evaluate and use them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train = typer.Typer(help="Train a network for a task.", no_args_is_help=True)
evaluate = typer.Typer(help="Measure a trained network.", no_args_is_help=True)

app.command("info")(info)
app.command("export")(export)
app.command("inspect")(inspect)
app.command("experiment")(trains(experiment))
app.command("sort", context_settings={"ignore_unknown_options": True})(sort)
app.command("generate")(generate)
app.command("serve")(serve)
app.add_typer(buzz, name="buzz")
app.add_typer(train, name="train")
app.add_typer(evaluate, name="eval")
app.add_typer(machine, name="machine")
train.command("buzz")(trains(train_buzz))
train.command("sort")(trains(train_sort))
train.command("text")(trains(train_text))
evaluate.command("buzz")(eval_buzz)
evaluate.command("sort")(eval_sort)
evaluate.command("text")(eval_text)


@app.callback()
def about() -> None:
    """Recurrent networks from one step: train, evaluate and use them."""


def main() -> None:
    """Run the command line. Bad input ends it with one line on stderr and exit code 2, output that cannot be
    written with one line and 1; a reader that has gone away (`| head -1`) with 1 and no word."""
    code: Any = 0
    fault = None
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that cannot show a character gets its number
            stream.reconfigure(errors="backslashreplace")
    end_tidily()
    try:
        app()
    except InputError as error:
        print(f"nextstate: {error}", file=sys.stderr)
        code = 2
    except SystemExit as stop:
        code = stop.code
    except OSError as error:
        if error.errno not in FULL:
            raise
        fault = error
    fault = unwritten() or fault
    if fault is not None:
        code = 1
        if fault.errno != EPIPE:
            print(f"nextstate: the output cannot be written: {fault.strerror}", file=sys.stderr)
    sys.exit(code)
