"""Checkpoints that survive a kill at any moment: safetensors and JSON, written aside and renamed."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nextstate.checks import refuse
from nextstate.training.step import TrainState

FORMAT = 1


class Checkpoints:
    """The checkpoints of one run: folders `step-000000123` with `tensors.safetensors` and `state.json`.

    A checkpoint is written to a hidden folder, flushed to the disk and renamed, so under its own name it is
    always whole; the last `keep` of them stay. It holds the parameters and buffers, their average, the
    optimiser, the carried state, the place of the data source, the history, the skipped steps and the random
    generators (PyTorch's on every device, NumPy's, Python's) of every process. Nothing is pickled.

    Restoring takes the newest one that can be read and whose digest is right.
    """

    def __init__(self, folder: Path | str, every: int = 1000, keep: int = 2) -> None:
        if every < 1 or keep < 1:
            refuse("Checkpoints", f"every is {every} and keep is {keep}; both must be at least 1")
        self.folder, self.every, self.keep = Path(folder), every, keep
        if self.folder.exists() and not self.folder.is_dir():
            refuse("Checkpoints", f"{folder} is a file; name a folder to write into")

    def save(self, state: TrainState, fabric: Fabric) -> None:
        """Write a checkpoint of `state`; with several processes all must call, the first one writes."""
        own = (_random_state(), tuple(leaf.cpu() for leaf in state.carry or ()))
        found: list[Any] = [own] * fabric.world_size
        if fabric.world_size > 1:
            torch.distributed.all_gather_object(found, own)
        if fabric.is_global_zero:
            self._write(state, [of_random for of_random, _ in found], [carry for _, carry in found])
        fabric.barrier()

    def restore(self, state: TrainState, fabric: Fabric) -> bool:
        """Bring `state` and the random generators to the newest good checkpoint; False if there is none."""
        for folder in sorted(self.folder.glob("step-*"), reverse=True):
            read = _read(folder)
            if read is not None:
                _load(state, *read, fabric)
                return True
        return False

    def _write(self, state: TrainState, random_states: list[Any], carries: list[tuple[Tensor, ...]]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(".writing-*"):
            shutil.rmtree(left)
        name = f"step-{state.step:09d}"
        aside = self.folder / f".writing-{name}"
        aside.mkdir()
        optimiser = state.optimiser.state_dict()
        tensors, slots = _tensors(state, optimiser, carries)
        save_file(tensors, aside / "tensors.safetensors")
        document = {
            "format": FORMAT,
            "step": state.step,
            "seconds": state.seconds,
            "skipped": state.skipped,
            "history": state.history,
            "source": state.source.state_dict(),
            "average_updates": None if state.average is None else state.average.updates,
            "carried": None if state.carry is None else len(state.carry),
            "optimiser": {"groups": optimiser["param_groups"], "slots": slots},
            "random": random_states,
            "sha256": _digest(aside / "tensors.safetensors"),
        }
        (aside / "state.json").write_text(json.dumps(document, indent=1))
        for path in (aside / "tensors.safetensors", aside / "state.json", aside):
            _flush(path)
        if (self.folder / name).exists():  # only a damaged one: a good one would have been resumed from
            shutil.rmtree(self.folder / name)
        aside.rename(self.folder / name)
        _flush(self.folder)
        # Counted back from this one: later ones are damaged, or the run would have gone on from there.
        until = [old for old in sorted(self.folder.glob("step-*")) if old.name <= name]
        for old in until[: -self.keep]:
            shutil.rmtree(old)


def _tensors(
    state: TrainState, optimiser: dict[str, Any], carries: list[tuple[Tensor, ...]]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Every tensor by a name, and the optimiser's values that are none: {parameter: {slot: value}}."""
    found = {f"model/{name}": tensor for name, tensor in state.model.state_dict().items()}
    if state.average is not None:
        found |= {f"average/{name}": tensor for name, tensor in state.average.tensors.items()}
    for rank, carry in enumerate(carries):
        found |= {f"{_carry(rank)}{i}": tensor for i, tensor in enumerate(carry)}
    slots: dict[str, Any] = {}
    for index, entries in optimiser["state"].items():
        for slot, value in entries.items():
            if isinstance(value, Tensor):
                found[f"optimiser/{index}/{slot}"] = value
            else:
                slots.setdefault(str(index), {})[slot] = value
    # clones: safetensors refuses tensors that share memory, such as tied weights
    return {
        name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in found.items()
    }, slots


def _carry(rank: int) -> str:
    """How the names of the carried state of a process begin."""
    return f"carry-{rank}/" if rank else "carry/"


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """What a checkpoint holds; None if it is damaged. Raises InputError if it is of another layout."""
    try:
        document = json.loads((folder / "state.json").read_text())
        layout = document["format"]
        whole = document["sha256"] == _digest(folder / "tensors.safetensors")
        tensors = load_file(folder / "tensors.safetensors") if whole and layout == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None
    if layout != FORMAT:
        refuse("Checkpoints", f"{folder} has layout {layout!r}; this version reads layout {FORMAT!r}")
    return None if tensors is None else (document, tensors)


def _load(state: TrainState, document: dict[str, Any], tensors: dict[str, Tensor], fabric: Fabric) -> None:
    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    if len(document["random"]) != fabric.world_size:
        refuse(
            "Checkpoints",
            f"the run had {len(document['random'])} processes and is resumed with {fabric.world_size}",
        )
    state.model.load_state_dict(part("model/"))
    if (state.average is None) != (document["average_updates"] is None):
        refuse("Checkpoints", "the run and its checkpoint disagree on whether the weights are averaged")
    if state.average is not None:
        for name, tensor in part("average/").items():
            state.average.tensors[name].copy_(tensor)
        state.average.updates = document["average_updates"]
    entries: dict[int, dict[str, Any]] = {int(i): dict(v) for i, v in document["optimiser"]["slots"].items()}
    for key, tensor in part("optimiser/").items():
        index, slot = key.split("/", 1)
        entries.setdefault(int(index), {})[slot] = tensor
    state.optimiser.load_state_dict({"state": entries, "param_groups": document["optimiser"]["groups"]})
    device = next(state.model.parameters()).device
    carry = part(_carry(fabric.global_rank))
    state.carry = tuple(carry[str(i)].to(device) for i in range(len(carry))) or None
    state.source.load_state_dict(document["source"])
    state.step, state.seconds, state.skipped = document["step"], document["seconds"], document["skipped"]
    state.history[:] = document["history"]
    _set_random_state(document["random"][fabric.global_rank])


def _random_state() -> dict[str, Any]:
    """The state of every global random generator, as JSON."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    python_version, python_words, python_gauss = random.getstate()
    return {
        "torch": _text(torch.get_rng_state()),
        "cuda": [_text(state) for state in torch.cuda.get_rng_state_all()]
        if torch.cuda.is_available()
        else [],
        "numpy": [kind, [int(key) for key in keys], *rest],
        "python": [python_version, list(python_words), python_gauss],
    }


def _set_random_state(saved: dict[str, Any]) -> None:
    torch.set_rng_state(_bytes(saved["torch"]))
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all([_bytes(state) for state in saved["cuda"]])
    kind, keys, *rest = saved["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    version, words, gauss = saved["python"]
    random.setstate((version, tuple(words), gauss))


def _text(state: Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
