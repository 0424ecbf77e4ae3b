"""Streaming on a CPU: one step of a GRU against torch.nn.GRUCell, and thousands of live streams.

    python benchmarks/streaming.py [--threads 2] [--hidden 64,128,256,512] [--streams 10000] [--steps 200]
                                   [--turns 60]

First table: microseconds (median and 99th percentile) of one step for one stream, Python included, both
under inference_mode, state carried, the two timed in turns, each with one thread or `--threads`, whichever
it is faster with; `ratio` is the median of the ratios of neighbouring turns, `error` the largest
difference of outputs from torch's on the float32 weights over 1000 steps of N(0, 1) inputs. Second: all
streams stepped as one batch, milliseconds a step (median, 99th percentile) and stream-steps a second.
Outputs are checked before anything is timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch

import nextstate as ns
from nextstate.engines.cpu import HAS_BF16

TURN = 50
"""Steps of one side before it is the other's turn."""

LIMITS = {"float32": 1e-5, "bfloat16": 2e-2, "int8": 5e-2}


def timed(call: Callable[[], object], repeats: int) -> list[float]:
    for _ in range(repeats // 10 + 1):
        call()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found


def summary(times: list[float], scale: float) -> tuple[float, float]:
    return statistics.median(times) * scale, sorted(times)[int(0.99 * len(times))] * scale


def largest_error(cell: ns.GRU, session: ns.Session) -> float:
    """Against torch on the same float32 weights."""
    theirs = torch.nn.GRUCell(cell.input_size, cell.hidden_size)
    theirs.load_state_dict(cell.state_dict())
    h, worst = torch.zeros(1, cell.hidden_size), 0.0
    for u in torch.randn(1000, cell.input_size, generator=torch.Generator().manual_seed(1)):
        h = theirs(u[None], h)
        worst = max(worst, float((session.step(u) - h[0]).abs().max()))
    return worst


def speed(threads: int, call: Callable[[], object]) -> float:
    """Seconds of a call with so many threads."""
    torch.set_num_threads(threads)
    return statistics.median(timed(call, 10 * TURN))


def fastest_session(cell: ns.Cell, threads: int) -> ns.Session:
    """The faster of two sessions, of one thread and of `threads`: each keeps the number it began with."""
    u, sessions = torch.randn(cell.initial_state(1).shape[1]), []
    for count in (1, threads):
        ns.set_threads(count)
        session = ns.Session(cell)
        sessions.append((statistics.median(timed(lambda s=session: s.step(u), 10 * TURN)), session))
    ns.set_threads(None)
    fastest = min(sessions, key=lambda pair: pair[0])[1]
    fastest.reset()
    return fastest


def one_stream(hidden: int, weights: str, turns: int, threads: int) -> None:
    torch.manual_seed(0)
    cell = ns.GRU(hidden, hidden)
    theirs = torch.nn.GRUCell(hidden, hidden)
    theirs.load_state_dict(cell.state_dict())
    session = fastest_session(cell if weights == "float32" else ns.Quantised(cell, weights), threads)
    u, h = torch.randn(hidden), torch.zeros(1, hidden)

    def step() -> None:
        nonlocal h
        h = theirs(u[None], h)

    torchs: list[float] = []
    ours: list[float] = []
    with torch.inference_mode():
        error = largest_error(cell, session)
        assert error < LIMITS[weights], f"the two disagree by {error:.1e}"
        torch.set_num_threads(min((1, threads), key=lambda n: speed(n, step)))
        for _ in range(turns):
            torchs += timed(step, TURN)
            ours += timed(lambda: session.step(u), TURN)
    pairs = [
        statistics.median(torchs[k : k + TURN]) / statistics.median(ours[k : k + TURN])
        for k in range(0, len(ours), TURN)
    ]
    (a, a99), (b, b99) = summary(torchs, 1e6), summary(ours, 1e6)
    print(
        f"{hidden:6}  {weights:9}{a:10.1f}{a99:10.1f}{b:10.1f}{b99:10.1f}{statistics.median(pairs):9.1f}x"
        f"{error:10.1e}",
        flush=True,
    )


def many_streams(count: int, hidden: int, steps: int, products: str) -> None:
    streams = ns.Streams(ns.GRU(hidden, hidden))
    ids, us = streams.open(count), torch.randn(count, hidden)
    with torch.autocast("cpu", torch.bfloat16) if products == "bfloat16" else nullcontext():
        times = timed(lambda: streams.step(ids, us), steps)
    median, tail = summary(times, 1e3)
    print(
        f"{count:8}{hidden:6}  {products:9}{median:10.2f}{tail:10.2f}{count / median * 1e3:14,.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--hidden", default="64,128,256,512")
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    heads = [f"{name:>10}" for name in ("torch us", "p99", "ours us", "p99", "ratio", "error")]
    print(f"{'H':>6}  {'weights':9}" + "".join(heads))
    for hidden in map(int, args.hidden.split(",")):
        for weights in LIMITS:
            one_stream(hidden, weights, args.turns, args.threads)
    if not HAS_BF16:
        print("\n(no products in bfloat16 on this processor)")
    print(f"\n{'streams':>8}{'H':>6}  {'products':9}{'ms/step':>10}{'p99':>10}{'steps/s':>14}")
    torch.set_num_threads(args.threads)
    for products in ("float32", "bfloat16") if HAS_BF16 else ("float32",):
        many_streams(args.streams, 128, args.steps, products)


if __name__ == "__main__":
    main()
