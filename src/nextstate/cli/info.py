"""`nextstate info`: what is installed and which engines can run."""

from __future__ import annotations

import json
import platform
from typing import Annotated

import torch
import typer


def info(json_output: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """Versions, engines, threads."""
    import nextstate
    from nextstate.engines.registry import usable
    from nextstate.run import ENGINES

    facts: dict[str, object] = {
        "nextstate": nextstate.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.is_available(),
        "engines": usable(ENGINES),
        "kernels": kernels(),
    }
    if json_output:
        print(json.dumps(facts))
        return
    for name, value in facts.items():
        print(f"{name:10} {', '.join(value) if isinstance(value, list) else value}")


def kernels() -> str:
    """The instruction set that the compiled engine chose on this machine, or that it is missing."""
    try:
        from nextstate import _engine
    except ImportError:
        return "not installed: every cell runs on the reference engine"
    found = _engine.info()
    products = "float32, bfloat16 under autocast" if found["bf16"] else "float32"
    return f"{found['isa']} of {', '.join(found['available'])}; products in {products}"
