"""What each process of a torchrun does: train once undisturbed, once killed on the way and started again.

    torchrun --nproc-per-node 2 --max-restarts 1 two_processes.py FOLDER

FOLDER then holds `quiet.pt` and `disturbed.pt` (the parameters at the end, rank 0) and, for every process
that began to train, `began-<run>-<rank>-<restart>` with the step it began at; `wrote-<run>-<rank>` for the
process that writes.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nextstate as ns
from nextstate.training import Checkpoints, Indexed, Loss, Steps, TrainState, fit, here, of_first

STEPS, KILLED_AT, EVERY, ROWS = 12, 8, 3, 6


class Network(nn.Module):
    """A GRU that carries its state from one batch to the next, and a read-out that the loss calls itself."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = ns.GRU(3, 5)
        self.readout = nn.Linear(5, 2)

    def read(self, us: Tensor, s0: Tensor) -> tuple[Tensor, Tensor]:
        return ns.scan(self.cell, us, s0)


def batch(number: int) -> Tensor:
    return torch.randn(4, ROWS, 3, generator=torch.Generator().manual_seed(number))


def loss(model: nn.Module, us: Tensor, carry: object) -> Loss:
    start = torch.full((us.shape[1], 5), 0.1) if carry is None else carry[0]
    vs, sT = model.read(us, start)
    return Loss(F.mse_loss(model.readout(vs), us[..., :2].cumsum(0)), carry=sT)


def start(draw=batch) -> TrainState:
    torch.manual_seed(0)
    model = Network()
    return TrainState(model, torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9), Indexed(draw))


def joined(number: int) -> Tensor:
    """What two processes draw at a step, as one batch."""
    return torch.cat([batch(2 * number), batch(2 * number + 1)], 1)


def train(folder: Path, name: str) -> None:
    fabric, state = here(), start()
    restart = os.environ["TORCHELASTIC_RESTART_COUNT"]
    marks, first = folder / f"began-{name}-{fabric.global_rank}-{restart}", True
    for record in fit(
        state, loss, Steps(STEPS), report_every=1, clip=None, checkpoints=Checkpoints(folder / name, EVERY)
    ):
        if first:
            marks.write_text(str(record.step - 1))
            first = False
        if name == "disturbed" and restart == "0" and record.step == KILLED_AT and fabric.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    of_first(fabric, lambda: (folder / f"wrote-{name}-{fabric.global_rank}").touch())
    of_first(fabric, lambda: torch.save(state.model.state_dict(), folder / f"{name}.pt"))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    assert here().world_size == 2
    if not (folder / "quiet.pt").exists():
        train(folder, "quiet")
    train(folder, "disturbed")
    torch.distributed.destroy_process_group()
