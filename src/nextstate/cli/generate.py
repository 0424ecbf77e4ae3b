"""`nextstate generate`: text as a model writes it, token by token."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from nextstate.checks import refuse
from nextstate.recipes.text_model import SHIPPED, load_text_model


def generate(
    prime: Annotated[str, typer.Option(help="What the text begins with.")] = "",
    prime_file: Annotated[
        Path | None, typer.Option(help="A file to begin with instead; - is stdin.", metavar="FILE")
    ] = None,
    length: Annotated[int, typer.Option(min=0, help="Tokens to write (characters, for most models).")] = 500,
    temperature: Annotated[float, typer.Option(help="Below 1 more likely text; 0 the most likely.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k most likely tokens only.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the most likely tokens that have p together.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same text.")] = 0,
    stop: Annotated[str | None, typer.Option(help="End after this text has been written.")] = None,
    model: Annotated[Path, typer.Option(help="A text model's safetensors file.")] = SHIPPED,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object at the end.")] = False,
) -> None:
    """Write text. It goes to stdout as it is drawn, after what it begins with.

    The model that comes with the package has read Shakespeare: --prime "ROMEO:".
    """
    if prime and prime_file is not None:
        refuse("generate", f"prime is {prime!r} and prime-file is {prime_file}; give one of them")
    begin = prime.encode("utf-8", "surrogateescape")
    if prime_file is not None:
        begin = _read(prime_file)
    parts = load_text_model(model).generate(
        begin, length=length, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=stop
    )
    if json_output:
        text = b"".join(parts)
        answer = {
            "prime": begin.decode(errors="replace"),
            "text": text.decode(errors="replace"),
            "seed": seed,
        }
        print(json.dumps(answer))
        return
    sys.stdout.flush()
    stream = sys.stdout.buffer
    stream.write(begin)
    for part in parts:
        stream.write(part)
        stream.flush()
    stream.write(b"\n")
    stream.flush()


def _read(path: Path) -> bytes:
    if path == Path("-"):
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        refuse("generate", f"cannot read {path}: {error.strerror}")
