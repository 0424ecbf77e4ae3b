"""Which network a file holds: one reader for every kind of model that this library writes."""

from __future__ import annotations

import json
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from nextstate.checks import refuse

READERS = {
    "nextstate-sorter-1": ("nextstate.recipes.sorter", "load_sorter"),
    "nextstate-text-1": ("nextstate.recipes.text_model", "load_text_model"),
    "nextstate-buzz-1": ("nextstate.buzzometer", "Buzzometer.load"),
    "compiled machine": ("nextstate.machines.models", "load_model"),
}
"""The kind of a file, with the version of its layout, and the function that reads it."""


def load_network(path: Path) -> nn.Module:
    """The network in a model's file, whatever kind of model it is.

    Raises InputError if there is no such file, if it is damaged or cut short, and if it is of a kind or a
    layout version that this version of the library does not read; the message says what was found.
    """
    return network_of(load_model(path))


def network_of(model: Any) -> nn.Module:
    """The module that has the parameters of a model read by `load_model`."""
    found: nn.Module = model.network if hasattr(model, "network") else model.cell
    return found


def load_model(path: Path) -> Any:
    """The model in a file: its network and what it uses beside it. Raises as `load_network`."""
    kind = kind_of(path)
    if kind not in READERS:
        refuse("load", f"{path} holds {kind!r}; this version reads {', '.join(READERS)}")
    module, reader = READERS[kind]
    return attrgetter(reader)(import_module(module))(path)


def kind_of(path: Path) -> str:
    """What a file says it is: the key of its metadata that names kind and layout."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        refuse("load", f"there is no file {path}")
    except (OSError, SafetensorError) as error:
        refuse("load", f"{path} is no safetensors file, or not all of one: {looks(path) or error}")
    keys = [key for key in metadata if key.startswith("nextstate-")]
    if keys:
        return keys[0]
    try:
        return str(json.loads(metadata["about"])["nextstate"])
    except (KeyError, ValueError, TypeError):
        said = ", ".join(metadata) or "nothing"
        refuse("load", f"{path} is safetensors but no model of this library: its metadata holds {said}")


def looks(path: Path) -> str:
    """What a file that is no safetensors file seems to be instead; "" if that cannot be told.

    >>> looks(Path(__file__).parent), looks(Path("/dev/null"))
    ('it is a folder', 'it is empty')
    """
    if path.is_dir():
        return "it is a folder"
    try:
        with path.open("rb") as file:
            begin = file.read(32)
        if not begin:
            return "it is empty"
        text = begin.decode().splitlines()[0]
    except (OSError, ValueError, IndexError):
        return ""
    return f"it is text that begins with {text!r}" if text.isprintable() else ""
