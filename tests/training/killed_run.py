"""Train a small network in child processes that are killed (SIGKILL) again and again; print what came out.

    python killed_run.py FOLDER MOMENTS   -> JSON {"undisturbed": digest, "killed": digest, "kills": n, ...}

One process that forks: PyTorch is imported once, and no thread has been started when a child is made.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nextstate.training import Average, Checkpoints, Indexed, Loss, Steps, TrainState, fit

STEPS = 120


def batch(number: int) -> torch.Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(number))


def loss(model: nn.Module, inputs: torch.Tensor, carry: object) -> Loss:
    """Draws from every global generator, so that a state not restored shows."""
    noise = 0.1 * torch.randn(inputs.shape) + 0.1 * random.random() + 0.1 * np.random.rand()
    before = torch.zeros(8, 1) if carry is None else carry[0]
    out = model(inputs + noise) + 0.5 * before
    return Loss((out - inputs.sum(1, keepdim=True)).square().mean(), carry=out)


def train(folder: Path, pause: float) -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    state = TrainState(model, optimiser, Indexed(batch), average=Average(model, 0.9))
    for _ in fit(
        state, loss, Steps(STEPS), report_every=1, checkpoints=Checkpoints(folder / "ckpt", every=2)
    ):
        time.sleep(pause)
    tensors = [*model.state_dict().values(), *state.average.tensors.values()]
    digest = hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors)).hexdigest()
    (folder / "digest").write_text(digest)


def child(folder: Path, pause: float) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            train(folder, pause)
        finally:
            os._exit(0)
    return pid


def main(folder: Path, moments: list[float]) -> None:
    quiet, disturbed = folder / "quiet", folder / "disturbed"
    quiet.mkdir()
    disturbed.mkdir()
    os.waitpid(child(quiet, 0.0), 0)
    kills = 0
    for moment in moments:
        pid = child(disturbed, 0.01)
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        kills += os.WIFSIGNALED(status)
    os.waitpid(child(disturbed, 0.0), 0)
    print(
        json.dumps(
            {
                "undisturbed": (quiet / "digest").read_text(),
                "killed": (disturbed / "digest").read_text(),
                "kills": kills,
                "left": sorted(path.name for path in (disturbed / "ckpt").iterdir()),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), [float(moment) for moment in sys.argv[2].split(",")])
