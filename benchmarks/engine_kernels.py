"""Speed of the CPU engine alone: hand-written GRU and LSTM training programs, without torch autograd.

    python benchmarks/engine_kernels.py [--threads 2] [--repeats 7] [--cell gru] [--shape 64,100,256,256]
        [--isa avx2] [--precision bf16]

One line a shape: milliseconds (median) of forward + backward + weight gradients, GF/s counted as
2 B T G H (I + H) 3, and the milliseconds of each phase. Packing of the weights is included.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "engine"))
import programs
from harness import aligned

from nextstate import _engine

SHAPES = [
    (32, 32, 64, 128),
    (32, 100, 128, 256),
    (64, 100, 256, 256),
    (64, 100, 512, 512),
    (32, 400, 128, 128),
    (1, 100, 256, 256),
    (1, 100, 64, 64),
]
CELLS = {
    "gru": (programs.gru_forward, programs.gru_backward, 3),
    "lstm": (programs.lstm_forward, programs.lstm_backward, 4),
}


def allocate(spec, T, B, known, rng):
    """One array a buffer; buffers with the name of an earlier one are that one."""
    rows = {"seq": T * B, "state": B + T * B, "row": B, "vec": 1, "tiled": T * B}
    for b in spec["buffers"]:
        n = b["rows"] if b["kind"] == "grad" else rows.get(b["kind"])
        if n is None or b["name"] in known:
            continue
        known[b["name"]] = aligned((n, b["ld"]), 0.0)
        known[b["name"]][:, : b["width"]] = rng.normal(size=(n, b["width"])) * 0.1
    return [known[b["name"]].ctypes.data if b["name"] in known else 0 for b in spec["buffers"]]


def measure(cell, shape, threads, repeats, isa="", precision="fp32", **options):
    B, T, I, H = shape
    forward, backward, gates = CELLS[cell]
    fs, bs = forward(I, H), backward(I, H)
    rng = np.random.default_rng(0)
    known: dict[str, np.ndarray] = {}
    fb, bb = allocate(fs, T, B, known, rng), allocate(bs, T, B, known, rng)
    weights = [
        (rng.normal(size=(w["rows"], w["cols"])) / w["cols"] ** 0.5).astype(np.float32) for w in fs["weights"]
    ]
    pointers = [w.ctypes.data for w in weights]
    f, b = _engine.Program(fs, isa, precision), _engine.Program(bs, isa, precision)
    states = sum(x["kind"] == "state" for x in fs["buffers"])
    common = dict(T=T, B=B, threads=threads, row_block=_engine.row_block(B, threads), **options)
    total, phases = [], []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        pf, pb = f.pack(pointers), b.pack(pointers)
        packed = time.perf_counter()
        a = f.run(pf, fb, [0] * states, [H] * states, [], profile=True, **common)
        c = b.run(pb, bb, [0] * states, [H] * states, [], profile=True, **common)
        total.append(time.perf_counter() - start)
        phases.append((packed - start, a["pre"], a["step"], c["step"], c["post"], c["tn"]))
    total, phases = total[2:], phases[2:]
    flops = 2 * B * T * gates * H * (I + H) * 3
    return statistics.median(total), flops, [statistics.median(p) for p in zip(*phases, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--cell", choices=CELLS, action="append")
    parser.add_argument("--shape", type=lambda s: tuple(map(int, s.split(","))), action="append")
    parser.add_argument("--isa", default="")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    args = parser.parse_args()
    names = "".join(f"{name:>8}" for name in ("pack", "pre", "fwd", "bwd", "dx", "tn"))
    print(f"{'cell':5}{'B,T,I,H':>18}{'ms':>9}{'GF/s':>7} | ms:{names}")
    for cell in args.cell or CELLS:
        for shape in args.shape or SHAPES:
            time_, flops, phases = measure(cell, shape, args.threads, args.repeats, args.isa, args.precision)
            cells = "".join(f"{p * 1e3:8.3f}" for p in phases)
            name = ",".join(map(str, shape))
            print(f"{cell:5}{name:>18}{time_ * 1e3:9.3f}{flops / time_ / 1e9:7.0f} |    {cells}", flush=True)


if __name__ == "__main__":
    main()
