"""`nextstate inspect MODEL`: does its gradient vanish, how far back does it reach, what may help."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from nextstate.writing import folder_of, write_text


def inspect(
    model: Annotated[Path, typer.Argument(help="A safetensors file of this library: any kind of model.")],
    data: Annotated[
        Path | None,
        typer.Option(help="What it reads: lists, texts or words, one a line; unless said, a sample."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for pictures and report.json; none unless said.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample.")] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Look inside a trained model: reach of its gradients, Lyapunov exponents, gates, and advice."""
    from nextstate.dynamics import inspect
    from nextstate.recipes.samples import sample

    if out is not None:
        folder_of("inspect", out)
    read = sample(model, data, seed=seed)
    print(f"{model} reads {read.about}", file=sys.stderr)
    report = inspect(read.module, read.batch, loss=read.loss)
    found = {"model": str(model), "reads": read.about, **report.json()}
    print(json.dumps(found) if json_output else report)
    if out is not None:
        pictures = report.draw(out)
        write_text(out / "report.json", json.dumps(found, indent=1))
        print(f"wrote {', '.join(str(path) for path in [*pictures, out / 'report.json'])}", file=sys.stderr)
