"""What `accelerate` gives on small public architectures: milliseconds of one training step, before and after.

    python benchmarks/accelerate.py [--threads 2] [--repeats 20] [--wider 8]

A training step is forward, backward and an SGD step on the models and inputs of tests/dropins/models.py,
`wider` times as wide, on inputs repeated to a batch of 32. Outputs are checked before anything is timed.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path

import torch

import nextstate as ns

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from dropins.models import MODELS


def wide(kind: type) -> tuple[torch.Tensor, ...]:
    """The example with its batch of 4 repeated eight times."""
    return tuple(x.repeat([8 if n == 4 and d == list(x.shape).index(4) else 1 for d, n in enumerate(x.shape)])
                 for x in kind.example())  # fmt: skip


def median_step(model: torch.nn.Module, example: tuple[torch.Tensor, ...], repeats: int) -> float:
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    times = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        optimiser.zero_grad()
        model(*example).sin().mean().backward()
        optimiser.step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:]) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--wider", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{'model':12}{'before ms':>10}{'after ms':>10}{'ratio':>8}")
    for kind in MODELS:
        model, example = kind(args.wider), wide(kind)
        twin = copy.deepcopy(model)
        ns.accelerate(twin)
        assert (twin.eval()(*example) - model.eval()(*example)).abs().max() < 1e-5, "the two disagree"
        before, after = (median_step(m.train(), example, args.repeats) for m in (model, twin))
        print(f"{kind.__name__:12}{before:10.2f}{after:10.2f}{before / after:7.1f}x", flush=True)


if __name__ == "__main__":
    main()
