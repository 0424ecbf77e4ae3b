"""Parallel in time against one step after another, on a CPU.

    python benchmarks/parallel.py [--threads 2] [--passes 5] [--only scan stack newton] [--clock wall]

scan: a MinGRU by the chunked scan, the CPU engine (float32 only) and the plain loop; forward and training.
stack: the same of several MinGRUs, one reading the other, in float32. The loop multiplies the weights of
every layer but the first with the rows of one step at a time, the scan with all steps at once: few rows and
wide layers are where it has most to gain.
newton: cells of random weights by both Newton engines, the CPU engine and the plain loop; forward.

Contenders alternate within a pass; medians in milliseconds, and the first contender's error. Nothing is timed
whose outputs or gradients are off by more than the gate, against the plain loop in float64. An engine that
refuses has a dash, one that does not converge says so. The plain loop is left out where its gradient takes
minutes, since every step adds to the gradient of the whole input; the scan in float64 is the measure there.
--clock cpu takes the time of the processor: for one thread on a machine that does other things as well.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

import nextstate as ns

GATE = 1e-4
"""Largest relative L2 error against float64, outputs and gradients."""

SCAN = (
    (1, 32, 32, 64), (1, 100, 32, 64), (1, 1000, 32, 64), (1, 10000, 32, 64), (1, 10000, 4, 4),
    (1, 1000, 64, 512), (8, 32, 32, 64), (8, 1000, 32, 64), (16, 100, 32, 64), (16, 1000, 32, 64),
    (32, 400, 64, 128),
)  # fmt: skip
"""B, T, I, H."""

STACK = (
    (2, 1, 1000, 64, 64), (3, 1, 1000, 256, 256), (3, 1, 32, 512, 512), (3, 1, 100, 512, 512),
    (3, 1, 1000, 512, 512), (3, 1, 32, 1024, 1024), (3, 1, 100, 1024, 1024), (3, 1, 1000, 1024, 1024),
    (3, 2, 1000, 1024, 1024), (3, 8, 400, 512, 512),
)  # fmt: skip
"""Layers, B, T, I, H."""

NEWTON = (
    (1, 100, 8, 8),
    (1, 1000, 8, 8),
    (1, 10000, 8, 8),
    (1, 1000, 8, 32),
    (1, 10000, 8, 32),
    (1, 1000, 32, 64),
)

Run = Callable[[], dict[str, Tensor]]


def forward(cell: ns.Cell, us: Tensor, engine: str) -> Run:
    def run() -> dict[str, Tensor]:
        with torch.no_grad():
            return {"outputs": ns.scan(cell, us, engine=engine)[0]}

    return run


def train(cell: ns.Cell, us: Tensor, engine: str) -> Run:
    given = us.clone().requires_grad_()

    def run() -> dict[str, Tensor]:
        vs, _ = ns.scan(cell, given, engine=engine)
        named = dict(cell.named_parameters())
        grads = torch.autograd.grad(vs.square().sum(), [given, *named.values()])
        return {"outputs": vs.detach(), **dict(zip(("input", *named), grads, strict=True))}

    return run


def gate(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    return max(float((x.double() - exact[k]).norm() / exact[k].norm()) for k, x in found.items())


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Clock = Callable[[], float]


def medians(runs: dict[str, Run], passes: int, clock: Clock) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(passes):
        for name, run in runs.items():
            start = clock()
            run()
            times[name].append((clock() - start) * 1e3)
    return {name: statistics.median(found) for name, found in times.items()}


Make = Callable[[ns.Cell, Tensor, str], Run]


def row(cell: ns.Cell, us: Tensor, make: Make, names: list[str], passes: int, clock: Clock) -> str:
    """The medians of every engine and the error of the first, or what else there is to say of one."""
    loop = make(copy.deepcopy(cell).double(), us.double(), "reference" if "reference" in names else "scan")
    exact, runs, said, error = loop(), {}, {}, ""
    for name in names:
        run = make(cell, us, name)
        try:
            off = gate(run(), exact)
        except ns.EngineError as refused:
            said[name] = "fails" if "did not converge" in str(refused) else "-"
            continue
        if off <= GATE:
            runs[name] = run
        else:
            said[name] = f"off {off:.0e}"
        error = error or f"{off:.1e}"
    found = medians(runs, passes, clock)
    return "".join(f"{f'{found[n]:.2f}' if n in found else said[n]:>14}" for n in names) + f"  {error}"


def mingru(layers: int, inputs: int, hidden: int) -> ns.Cell:
    """A MinGRU, or several on top of each other."""
    cells = [ns.MinGRU(inputs if layer == 0 else hidden, hidden) for layer in range(layers)]
    return cells[0] if layers == 1 else ns.Stacked(*cells)


def scan_table(passes: int, clock: Clock) -> None:
    sizes = [(1, *size) for size in SCAN]
    _linear_table("MinGRU: layers, B, T, I, H", sizes, (torch.float32, torch.float64), passes, clock)


def stack_table(passes: int, clock: Clock) -> None:
    _linear_table("stack: layers, B, T, I, H", STACK, (torch.float32,), passes, clock)


def _linear_table(
    title: str,
    sizes: Iterable[tuple[int, int, int, int, int]],
    dtypes: tuple[torch.dtype, ...],
    passes: int,
    clock: Clock,
) -> None:
    names = ["scan", "cpu", "reference"]
    print(f"{title:27}{'dtype':9}{'pass':9}" + "".join(f"{name:>14}" for name in names), " error")
    for layers, batch, steps, inputs, hidden in sizes:
        for dtype in dtypes:
            cell = mingru(layers, inputs, hidden).to(dtype)
            us = torch.randn(steps, batch, inputs, dtype=dtype)
            for kind, make in (("forward", forward), ("training", train)):
                those = names if kind == "forward" or steps <= 1000 else names[:2]
                shown = f"{f'{layers}, {batch}, {steps}, {inputs}, {hidden}':27}{str(dtype)[6:]:9}{kind:9}"
                print(shown + row(cell, us, make, those, passes, clock), flush=True)


def newton_table(passes: int, clock: Clock) -> None:
    names = ["newton", "quasi-newton", "cpu", "reference"]
    print(f"{'forward, B, T, I, H':22}{'cell':9}" + "".join(f"{name:>14}" for name in names), " error")
    for batch, steps, inputs, hidden in NEWTON:
        for kind in (ns.GRU, ns.LSTM, ns.Elman):
            cell, us = kind(inputs, hidden), torch.randn(steps, batch, inputs)
            shown = f"{f'{batch}, {steps}, {inputs}, {hidden}':22}{kind.__name__:9}"
            print(shown + row(cell, us, forward, names, passes, clock), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--passes", type=int, default=5)
    tables = {"scan": scan_table, "stack": stack_table, "newton": newton_table}
    parser.add_argument("--only", nargs="*", choices=tables, default=tables)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    for name, table in tables.items():
        if name in args.only:
            table(args.passes, CLOCKS[args.clock])


if __name__ == "__main__":
    main()
