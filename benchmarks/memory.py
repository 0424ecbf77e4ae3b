"""Print the MiB by which training steps of one layer raise this process's largest resident memory.

python benchmarks/memory.py GRU nextstate 64 100 512 512        (cell, side, B, T, I, H)
"""

from __future__ import annotations

import sys
from pathlib import Path

import contenders as c
import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(field: str) -> float:
    """MiB: "VmRSS" now, "VmHWM" the most since the last reset."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def main() -> None:
    name, side, *sizes = sys.argv[1:]
    shape = tuple(map(int, sizes))
    ours, theirs, _ = c.PEERS[name]

    def contender(inputs: int, hidden: int) -> c.Contender:
        cell = ours(inputs, hidden)
        return c.ours(cell) if side == "nextstate" else c.torch_layer(cell, theirs(inputs, hidden))

    small = (2, 3, *shape[2:])
    tested = contender(*shape[2:])
    tested.train(*c.problem(small))  # code, weights and their gradients are not the activations
    us, cotangent = c.problem(shape)
    RESET.write_text("5")  # Linux: forget the largest memory so far
    before = resident("VmRSS")
    for _ in range(3):
        tested.train(us, cotangent)
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
