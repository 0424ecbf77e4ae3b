"""The benchmarks: each a generator of rows, from the settings of a run."""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contenders as c
import torch
from contenders import PEERS, USER_CELLS, Shape
from jax_peer import installed as jax_installed
from jax_peer import run as run_jax
from measure import Contender, Measured, admitted, errors, measure, paired, wrong
from torch import nn
from torch.nn import functional as F

import nextstate as ns

Row = dict[str, Any]
HERE = Path(__file__).parent
SHAPES: list[Shape] = [
    (32, 32, 64, 128), (32, 100, 128, 256), (32, 400, 128, 128), (64, 100, 256, 256), (64, 100, 512, 512),
    (1, 100, 256, 256), (1, 100, 64, 64),
]  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """`passes` alternating passes; `patience` seconds for a peer to compile; `quick` for a smoke run."""

    threads: tuple[int, ...]
    passes: int
    patience: int
    quick: bool

    def shapes(self, full: list[Shape] = SHAPES) -> list[Shape]:
        return [SHAPES[0], SHAPES[-1]] if self.quick else full


def rows_of(found: Measured, case: Row, baseline: str, flops: float | None = None) -> Iterator[Row]:
    """One row a contender: median, passes, speed against the baseline, errors; or why it was refused."""
    for name, passes in found.passes.items():
        row = {**case, "contender": name, "ms": found.median(name), "ms_passes": passes}
        if baseline in found.passes:
            row["times faster than " + baseline] = found.median(baseline) / found.median(name)
        if flops is not None:
            row["gflops"] = flops / found.median(name) / 1e6
        if name in found.errors:
            row["errors"] = found.errors[name]
        yield row
    for name, reason in found.refused.items():
        yield {**case, "contender": name, "refused": reason}


def attempted(makers: dict[str, Callable[[], Contender]]) -> tuple[list[Contender], dict[str, str]]:
    """The contenders that can be made here, and why the others cannot."""
    made, refused = [], {}
    for name, make in makers.items():
        try:
            made.append(make())
        except Exception as error:  # a peer's failure is a result to report
            refused[name] = f"{type(error).__name__}: {error}"
    return made, refused


def layers(settings: Settings) -> Iterator[Row]:
    """A training step and an inference call of GRU, LSTM and Elman against every peer."""
    for cell_name in ("GRU",) if settings.quick else PEERS:
        ours, theirs, gates = PEERS[cell_name]
        for shape in settings.shapes():
            batch, steps, inputs, hidden = shape
            us, cotangent = c.problem(shape)
            cell, layer = ours(inputs, hidden), theirs(inputs, hidden)
            truth = c.exact(cell, us, cotangent)
            makers: dict[str, Callable[[], Contender]] = {
                "nextstate": lambda cell=cell: c.ours(cell),
                "torch.nn": lambda cell=cell, n=layer: c.torch_layer(cell, n),
                "torch eager loop": lambda cell=cell: c.loop(cell),
                "torch.compile step": lambda cell=cell: c.compiled_loop(cell),
                "torch scan": lambda cell=cell: c.torch_scan(cell),
            }
            forward_flops = 2 * batch * steps * gates * hidden * (inputs + hidden)
            for threads in settings.threads:
                torch.set_num_threads(threads)
                made, refused = attempted(makers)
                case = {"cell": cell_name, "shape": shape, "threads": threads}
                for mode, times in (("train", 3), ("infer", 1)):
                    some = made if mode == "train" else made[:2]
                    found = measure(
                        some, us, cotangent, truth, settings.passes, settings.patience, mode == "train"
                    )
                    found.refused |= refused if mode == "train" else {}
                    yield from rows_of(found, {**case, "mode": mode}, "torch.nn", times * forward_flops)
                yield from _jax(cell_name, cell, shape, threads, settings)


def _jax(cell_name: str, cell: ns.Cell, shape: Shape, threads: int, settings: Settings) -> Iterator[Row]:
    """JAX's scan in a process of its own: not paired, but behind the same gate."""
    case = {
        "cell": cell_name,
        "shape": shape,
        "threads": threads,
        "mode": "train",
        "contender": "jax lax.scan",
    }
    if not jax_installed():
        yield {**case, "refused": "jax is not installed"}
    elif cell_name == "GRU":
        us, cotangent = c.problem(shape)
        ms, found = run_jax(cell, us, cotangent, threads, settings.passes)
        error = errors(found, c.exact(cell, us, cotangent))
        reason = wrong(error)
        yield {**case, "errors": error, **({"ms": ms} if reason is None else {"refused": reason})}


def user_cells(settings: Settings) -> Iterator[Row]:
    """Cells as users write them, against their own loop in torch, eager and compiled."""
    for name, make in USER_CELLS.items():
        for shape in [SHAPES[0]] if settings.quick else [SHAPES[0], SHAPES[1], SHAPES[3]]:
            us, cotangent = c.problem(shape)
            cell = make(shape[2], shape[3])
            truth = c.exact(cell, us, cotangent)
            makers: dict[str, Callable[[], Contender]] = {
                "nextstate": lambda cell=cell: c.ours(cell),
                "torch eager loop": lambda cell=cell: c.loop(cell),
                "torch.compile step": lambda cell=cell: c.compiled_loop(cell),
            }
            if settings.quick:
                del makers["torch.compile step"]
            for threads in settings.threads:
                torch.set_num_threads(threads)
                made, refused = attempted(makers)
                found = measure(made, us, cotangent, truth, settings.passes, settings.patience)
                found.refused |= refused
                case = {"cell": name, "shape": shape, "threads": threads, "mode": "train"}
                yield from rows_of(found, case, "torch eager loop")


def ragged(settings: Settings) -> Iterator[Row]:
    """Lengths uniform in 1..T: ours, ours on the padded batch, torch's packed and padded."""
    shape = (16, 60, 32, 64) if settings.quick else (64, 400, 128, 256)
    batch, steps, inputs, hidden = shape
    us, cotangent = c.problem(shape)
    lengths = torch.randint(1, steps + 1, (batch,))
    cotangent = cotangent * (torch.arange(steps)[:, None] < lengths)[..., None]
    for name in ("GRU", "LSTM"):
        ours, theirs, _ = PEERS[name]
        cell = ours(inputs, hidden)
        cut, padded = c.exact(cell, us, cotangent, lengths), c.exact(cell, us, cotangent)
        for threads in settings.threads:
            torch.set_num_threads(threads)
            one = [c.ours(cell, lengths=lengths), c.torch_layer(cell, theirs(inputs, hidden), lengths)]
            two = [c.ours(cell, "nextstate padded"), c.torch_layer(cell, theirs(inputs, hidden))]
            found = Measured()
            passed = admitted(found, one, us, cotangent, cut, settings.patience)
            passed += admitted(found, two, us, cotangent, padded, settings.patience)
            found.passes = paired(
                {x.name: lambda x=x: x.train(us, cotangent) for x in passed}, settings.passes
            )
            case = {"cell": name, "shape": shape, "threads": threads, "mode": "train, ragged"}
            yield from rows_of(found, case, "torch.nn packed")


def tokens(settings: Settings) -> Iterator[Row]:
    """Ids of a vocabulary of 256: looked up, embedded and multiplied, and torch's Embedding and GRU."""
    shape = (16, 60, 32, 64) if settings.quick else (64, 100, 256, 256)
    batch, steps, inputs, hidden = shape
    _, cotangent = c.problem(shape)
    ids = torch.randint(0, 256, (steps, batch))
    cell = ns.Embedded(ns.GRU(inputs, hidden), 256, inputs)
    truth = c.exact(cell, ids, cotangent)
    table, layer = nn.Embedding(256, inputs), nn.GRU(inputs, hidden)
    c.torch_layer(cell.cell, layer)
    table.weight.data.copy_(cell.table.data)
    dense = copy.deepcopy(cell)
    makers = {
        "nextstate": lambda: c.ours(cell),
        "nextstate, no look-up": lambda: Contender(
            "nextstate, no look-up",
            lambda ids: ns.scan(dense.cell, F.embedding(ids, dense.table), engine="cpu")[0],
            list(dense.parameters()),
        ),
        "torch.nn": lambda: Contender(
            "torch.nn", lambda ids: layer(table(ids))[0], [table.weight, *layer.parameters()]
        ),
    }
    for threads in settings.threads:
        torch.set_num_threads(threads)
        made, refused = attempted(makers)
        found = measure(made, ids, cotangent, truth, settings.passes, settings.patience)
        found.refused |= refused
        case = {"cell": "Embedding GRU", "shape": shape, "threads": threads, "mode": "train, ids"}
        yield from rows_of(found, case, "torch.nn")


def fixed_cost(settings: Settings) -> Iterator[Row]:
    """One step of one row without gradients: what a call costs before it computes anything."""
    us = torch.randn(1, 1, 64)
    for threads in settings.threads:
        torch.set_num_threads(threads)
        for name, (ours, theirs, _) in PEERS.items():
            cell = ours(64, 64)
            layer = theirs(64, 64)
            one, other = c.ours(cell), c.torch_layer(cell, layer)
            torch.testing.assert_close(one.infer(us), other.infer(us))
            found = Measured(
                paired({x.name: lambda x=x: x.infer(us) for x in (one, other)}, settings.passes, warm=20)
            )
            case = {"cell": name, "shape": (1, 1, 64, 64), "threads": threads, "mode": "infer, fixed cost"}
            yield from rows_of(found, case, "torch.nn")


def accuracy(settings: Settings) -> Iterator[Row]:
    """Errors against float64, ours and torch's, from the same float32 weights and input."""
    torch.set_num_threads(max(settings.threads))
    for name, (ours, theirs, _) in PEERS.items():
        for shape in settings.shapes([SHAPES[2], SHAPES[3]])[:2]:
            us, cotangent = c.problem(shape)
            cell = ours(shape[2], shape[3])
            truth = c.exact(cell, us, cotangent)
            for contender in (c.ours(cell), c.torch_layer(cell, theirs(shape[2], shape[3]))):
                error = errors(contender.train(us, cotangent), truth)
                case = {"cell": name, "shape": shape, "contender": contender.name}
                outputs = error.pop("outputs")
                yield {**case, "mode": "error of outputs", "worst": outputs}
                yield {**case, "mode": "error of gradients", "errors": error, "worst": max(error.values())}


def memory(settings: Settings) -> Iterator[Row]:
    """Resident memory that training steps add to a process; each contender in a process of its own."""
    shape = SHAPES[1] if settings.quick else (64, 100, 512, 512)
    for name in PEERS:
        for side in ("nextstate", "torch.nn"):
            command = [sys.executable, str(HERE / "memory.py"), name, side, *map(str, shape)]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            yield {
                "cell": name,
                "shape": shape,
                "mode": "memory",
                "contender": side,
                "MiB": float(said.split()[-1]),
            }


def peak(settings: Settings) -> Iterator[Row]:
    """Fused multiply-adds in registers: what the machine could do at most."""
    with tempfile.TemporaryDirectory() as folder:
        binary = f"{folder}/peak"
        flags = ["-O3", "-march=native", "-std=c++17", "-ffp-contract=fast", "-pthread"]
        try:
            subprocess.run(["c++", *flags, str(HERE / "peak.cpp"), "-o", binary], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            yield {"mode": "peak", "contender": "fma", "refused": f"no C++ compiler: {error}"}
            return
        for threads in settings.threads:
            said = subprocess.run([binary, str(threads)], capture_output=True, text=True, check=True).stdout
            yield {"mode": "peak", "contender": "fma", "threads": threads, "gflops": float(said)}


TASKS: dict[str, Callable[[Settings], Iterator[Row]]] = {
    "peak": peak, "accuracy": accuracy, "fixed_cost": fixed_cost, "layers": layers, "user_cells": user_cells,
    "ragged": ragged, "tokens": tokens, "memory": memory,
}  # fmt: skip
