"""`nextstate eval text`: how well a model predicts a text."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from nextstate.checks import refuse
from nextstate.recipes.text_model import SHIPPED, Scored, TextModel, load_text_model
from nextstate.writing import folder_of

SHOWN = 4000
"""Bytes of a text that a picture shows at most."""


def eval_text(
    files: Annotated[
        list[Path], typer.Argument(help="Text files, folders of them, or - for stdin.", metavar="FILE...")
    ],
    model: Annotated[Path, typer.Option(help="A text model's safetensors file.")] = SHIPPED,
    dynamic: Annotated[
        bool, typer.Option(help="Also with weights that follow the text; takes many times as long.")
    ] = True,
    last: Annotated[
        float | None, typer.Option(help="Only this last share of the text, as training puts it aside.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="PNG of the beginning, each character coloured by its surprise.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Nats and bits a character and perplexity of a text, read once from beginning to end.

    Under dynamic evaluation the model goes on learning from what it has just been scored on.
    """
    from nextstate.recipes.text_report import draw_surprise
    from nextstate.tasks.text import find_files, read_pieces
    from nextstate.tasks.text.corpus import spooled

    trained = load_text_model(model)
    if picture is not None:
        folder_of("eval text", picture.parent)
        if picture.is_dir():
            refuse("eval text", f"picture is {picture}, a folder; name a file")
    with spooled(read_pieces(find_files(files)), last) as read:
        found = {"static": _total(trained, read(), False)}
        if dynamic:
            found["dynamic"] = _total(trained, read(), True)
        if picture is not None:
            draw_surprise(*trained.score(next(read())[:SHOWN]), picture)
    whole = found["static"]
    report = {
        "model": str(model),
        "characters": whole.characters,
        "tokens": whole.tokens,
        **whole.figures(),
    }
    if dynamic:
        report["dynamic"] = found["dynamic"].figures()
    if json_output:
        print(json.dumps(report))
        return
    print(f"{whole.characters} characters, {whole.tokens} tokens")
    for name, scored in found.items():
        nats, bits, perplexity = scored.figures().values()
        print(f"{name:8} {nats:.4f} nats a character  {bits:.4f} bits  perplexity {perplexity:.3f}")


def _total(model: TextModel, pieces: Iterable[bytes], dynamic: bool) -> Scored:
    """The sums over the whole text; on a terminal what they are so far."""
    scored, shown = Scored(0.0, 0, 0), time.perf_counter()
    live = sys.stderr.isatty()
    for scored in model.evaluate(pieces, dynamic=dynamic):
        if live and time.perf_counter() - shown > 1:
            shown = time.perf_counter()
            nats = scored.figures()["nats_per_character"]
            kind = "dynamic" if dynamic else "static"
            print(f"\r{kind}: {scored.characters} characters, {nats:.4f} nats ", end="", file=sys.stderr)
    if live:
        print("\r" + 50 * " " + "\r", end="", file=sys.stderr)
    return scored
