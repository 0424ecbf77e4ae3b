"""A checkpoint holds everything: a run killed at any moment ends with the bits of an undisturbed one."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from nextstate import InputError
from nextstate.training import Average, Checkpoints, Indexed, Loss, Steps, TrainState, fit
from nextstate.training import checkpoint as checkpoint_module


def killed_run(folder: Path, moments: list[float]) -> dict:
    script = Path(__file__).with_name("killed_run.py")
    command = [sys.executable, str(script), str(folder), ",".join(map(str, moments))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_killed_at_many_moments_ends_with_the_same_bits(tmp_path):
    moments = [0.11, 0.23, 0.05, 0.17, 0.31, 0.08, 0.14, 0.2]
    result = killed_run(tmp_path, moments)
    assert result["kills"] == len(moments), "the run finished before it could be killed: make it longer"
    assert result["killed"] == result["undisturbed"]
    assert len(result["left"]) == 2


def small_state(seed: int = 0, average: bool = True) -> TrainState:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    source = Indexed(lambda n: torch.full((4, 2), float(n % 7)))
    return TrainState(model, optimiser, source, average=Average(model, 0.5) if average else None)


def loss(model: nn.Module, batch: torch.Tensor, carry: object) -> Loss:
    return Loss((model(batch) - 1).square().mean() + 0.01 * random.random() + 0.01 * np.random.rand())


def run(state: TrainState, steps: int, until: int, folder: Path) -> list[torch.Tensor]:
    """Train up to step `until` of a plan of `steps`, as if killed there."""
    for record in fit(state, loss, Steps(steps), report_every=1, checkpoints=Checkpoints(folder, every=5)):
        if record.step == until:
            break
    return [p.detach().clone() for p in state.model.parameters()]


def resumed(folder: Path) -> list[torch.Tensor]:
    """20 steps, abandoned after 10, the global generators disturbed, then resumed to the end."""
    run(small_state(), 20, 10, folder)
    torch.manual_seed(99)
    return run(small_state(7), 20, 20, folder)


def test_resume_repeats_the_bits(tmp_path):
    whole = run(small_state(), 20, 20, tmp_path / "whole")
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed(tmp_path / "resumed"), strict=True))


@pytest.mark.parametrize("broken", ["random", "source", "momentum"])
def test_the_comparison_rejects_a_checkpoint_that_forgets_something(tmp_path, monkeypatch, broken):
    whole = run(small_state(), 20, 20, tmp_path / "whole")
    if broken == "random":
        monkeypatch.setattr(checkpoint_module, "_set_random_state", lambda saved: None)
    elif broken == "source":
        monkeypatch.setattr(Indexed, "load_state_dict", lambda self, state: None)
    else:
        monkeypatch.setattr(torch.optim.SGD, "load_state_dict", lambda self, state: None)
    assert not all(torch.equal(a, b) for a, b in zip(whole, resumed(tmp_path / "resumed"), strict=True))


@pytest.mark.parametrize("damage", ["truncated tensors", "changed tensors", "no state", "half a state"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage):
    run(small_state(), 20, 10, tmp_path)
    newest = max(tmp_path.glob("step-*"))
    tensors, document = newest / "tensors.safetensors", newest / "state.json"
    data = bytearray(tensors.read_bytes())
    if damage == "truncated tensors":
        tensors.write_bytes(data[:-7])
    elif damage == "changed tensors":
        data[-3] ^= 1
        tensors.write_bytes(data)
    elif damage == "no state":
        document.unlink()
    else:
        document.write_text(document.read_text()[:100])
    state = small_state()
    assert Checkpoints(tmp_path).restore(state, Fabric(accelerator="cpu", devices=1))
    assert state.step == 5


def test_damaged_checkpoints_do_not_push_out_the_good_ones_of_a_run_begun_anew(tmp_path):
    run(small_state(), 20, 20, tmp_path)
    for document in tmp_path.glob("step-*/state.json"):
        document.write_text("{")
    run(small_state(), 20, 10, tmp_path)
    state = small_state()
    assert Checkpoints(tmp_path).restore(state, Fabric(accelerator="cpu", devices=1))
    assert state.step == 10


def test_nothing_to_restore_and_what_does_not_fit(tmp_path):
    fabric = Fabric(accelerator="cpu", devices=1)
    assert not Checkpoints(tmp_path / "none").restore(small_state(), fabric)
    run(small_state(), 20, 10, tmp_path)
    with pytest.raises(InputError, match="averaged"):
        Checkpoints(tmp_path).restore(small_state(average=False), fabric)
    with pytest.raises(InputError, match="every is 0"):
        Checkpoints(tmp_path, every=0)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        Checkpoints(tmp_path / "file")


def test_tied_weights_and_bfloat16_survive(tmp_path):
    model = nn.Linear(3, 3).bfloat16()
    tied = nn.Sequential(model, model)
    state = TrainState(tied, torch.optim.AdamW(tied.parameters()), Indexed(lambda n: n))
    fabric = Fabric(accelerator="cpu", devices=1)
    checkpoints = Checkpoints(tmp_path)
    before = model.weight.detach().clone()
    checkpoints.save(state, fabric)
    nn.init.zeros_(model.weight)
    assert checkpoints.restore(state, fabric)
    assert torch.equal(model.weight, before)


def test_another_layout_is_refused_and_not_trained_over(tmp_path):
    run(small_state(), 20, 10, tmp_path)
    newest = max(tmp_path.glob("step-*")) / "state.json"
    newest.write_text(newest.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(InputError, match="has layout 9; this version reads layout 1"):
        Checkpoints(tmp_path).restore(small_state(), Fabric(accelerator="cpu", devices=1))
