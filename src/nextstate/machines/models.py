"""Networks of machines in files: safetensors, with the machine and how it was compiled beside the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nextstate.cells import GRU, LSTM, Elman
from nextstate.checks import InputError, refuse
from nextstate.machines.compiling.compiled import Compiled
from nextstate.machines.compiling.compiler import compile
from nextstate.machines.extraction.observed import Recogniser
from nextstate.machines.formats import from_json, to_json
from nextstate.writing import whole

_CELLS = {"GRU": GRU, "LSTM": LSTM, "Elman": Elman}


def save_model(network: Compiled | Recogniser, path: str | Path) -> None:
    """Write a compiled machine or a recogniser as safetensors; nothing half-written is left.

    >>> import tempfile
    >>> from nextstate.machines import DFA
    >>> net = compile(DFA.table("1", {0: [1], 1: [0]}, accepting=[1]), cell="gru")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(net, Path(folder) / "odd.safetensors")
    ...     print(load_model(Path(folder) / "odd.safetensors").run("111").accepted)
    True
    """
    if not isinstance(network, Compiled | Recogniser):
        refuse(
            "save_model",
            f"got a {type(network).__name__}; expected a compiled machine or a Recogniser "
            "(nextstate.machines.save writes a machine itself)",
        )
    if isinstance(network, Compiled):
        if network.cell is None:
            refuse("save_model", "exact rationals are no tensors; save the machine instead")
        report = network.report
        grown = report.memory == "grow"
        about: dict[str, Any] = {
            "nextstate": "compiled machine",
            "machine": to_json(network.machine),
            "cell": "elman" if grown else report.cell,
            "activation": report.activation if report.cell == "elman" else None,
            "memory": report.memory if report.memory not in ("states", "counts") else None,
            "dtype": report.dtype,
            "gain": report.gain,
            "depth": report.exact_until,
        }
        tensors = network.cell.state_dict()
    else:
        cell = next((name for name, kind in _CELLS.items() if type(network.cell) is kind), None)
        if cell is None:
            refuse("save_model", f"the cell is a {type(network.cell).__name__}; there are {list(_CELLS)}")
        about = {
            "nextstate": "recogniser",
            "cell": cell,
            "alphabet": list(network.alphabet),
        }
        tensors = network.state_dict()
    with whole("save_model", path) as aside:
        save_file(
            {k: v.contiguous().resolve_neg() for k, v in tensors.items()}, aside, {"about": json.dumps(about)}
        )


def load_model(path: str | Path) -> Compiled | Recogniser:
    """Read what `save_model` wrote: the network of the weights in the file.

    Raises InputError if the file is none, or if its weights do not fit what it says they are.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        refuse("load_model", f"{path} is no model: {error}")
    kind = about.get("nextstate") if isinstance(about, dict) else None
    if kind not in ("compiled machine", "recogniser"):
        refuse("load_model", f"{path} holds neither a compiled machine nor a recogniser")
    try:
        return _compiled(about, tensors) if kind == "compiled machine" else _recogniser(about, tensors)
    except InputError as error:
        refuse("load_model", f"{path} is no {kind}: {error}")
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        refuse("load_model", f"{path} is no {kind}: {type(error).__name__}: {error}")


def _recogniser(about: Mapping[str, Any], tensors: dict[str, Tensor]) -> Recogniser:
    width = tensors["readout.weight"].shape[-1]
    network = Recogniser(_CELLS[about["cell"]](len(about["alphabet"]), width), about["alphabet"])
    network.load_state_dict(tensors)
    return network


def _compiled(about: Mapping[str, Any], tensors: dict[str, Tensor]) -> Compiled:
    network = compile(
        from_json(about["machine"]),
        cell=about["cell"],
        activation=about["activation"],
        memory=about["memory"],
        dtype=getattr(torch, about["dtype"]),
        gain=about["gain"],
        depth=about["depth"],
    )
    if network.cell is None:
        refuse("compile", "exact rationals are no tensors")
    network.cell.load_state_dict(tensors)
    return network
