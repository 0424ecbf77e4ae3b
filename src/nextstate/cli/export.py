"""`nextstate export`: a trained model as an ONNX file, or as C99 for small devices."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextstate.checks import refuse
from nextstate.writing import folder_of, together

if TYPE_CHECKING:
    from torch import nn


class Target(StrEnum):
    """What a model can be written as."""

    onnx = "onnx"
    c = "c"


class Weights(StrEnum):
    """How many bytes a weight has."""

    float32 = "float32"
    int8 = "int8"


def export(
    model: Annotated[Path, typer.Argument(help="A model's safetensors file.")],
    to: Annotated[Target, typer.Option(help="onnx: one file; c: NAME.c and NAME.h.")],
    out: Annotated[
        Path, typer.Option(help="The file to write: NAME.onnx or NAME.c; its folder is made if missing.")
    ],
    weights: Annotated[
        Weights, typer.Option(help="With --to c: one byte a weight, or four.")
    ] = Weights.float32,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Write a trained model for other programs: ONNX with free batch and time, or C99 without dependencies.

    The ONNX file is run and compared with the model before it is kept. A network that reads a whole sequence
    and then writes one becomes two C files, NAME_encoder.c and NAME_decoder.c.
    """
    from nextstate.recipes.files import load_model, network_of

    found = load_model(model)
    network = network_of(found)
    if out.suffix != f".{to.value}":
        refuse("export", f"--out is {out}; expected a name that ends in .{to.value}")
    if to is Target.onnx and weights is not Weights.float32:
        refuse("export", f"--weights is {weights.value}, which only --to c can write")
    folder_of("export", out.parent)
    reports = [_onnx(network, out)] if to is Target.onnx else _c(network, out, weights.value)
    if getattr(found, "ngrams", None) is not None:
        print("export: the network alone; the model's n-grams are no part of the file", file=sys.stderr)
    if json_output:
        print(json.dumps(reports[0] if len(reports) == 1 else {"files": reports}))
        return
    for report in reports:
        for name, value in report.items():
            print(f"{name:12} {value if not isinstance(value, list) else ', '.join(value)}")


def _onnx(network: nn.Module, out: Path) -> dict[str, Any]:
    from nextstate.export import onnx

    found = onnx(network, out)
    return {
        "file": str(found.path),
        "inputs": list(found.inputs),
        "outputs": list(found.outputs),
        "operators": list(found.operators),
        "bytes": found.size,
        "difference": float(f"{found.difference:.2g}"),
    }


def _c(network: nn.Module, out: Path, weights: str) -> list[dict[str, Any]]:
    from nextstate.export import c
    from nextstate.networks import EncoderDecoder

    parts: dict[Path, nn.Module] = {out: network}
    if isinstance(network, EncoderDecoder):
        parts = {
            out.with_stem(f"{out.stem}_encoder"): network.encoder,
            out.with_stem(f"{out.stem}_decoder"): network.decoder,
        }
    places = [place for source in parts for place in (source, source.with_suffix(".h"))]
    for path in places:
        if path.is_dir():
            refuse("export", f"{path} cannot be written: a folder has that name")
    with together(*places):
        written = [c(module, path, weights=weights) for path, module in parts.items()]
    return [
        {
            "file": str(found.source),
            "header": str(found.header),
            "step": found.prototype,
            "constants": found.constants,
            "state": found.state,
            "scratch": found.scratch,
        }
        for found in written
    ]
