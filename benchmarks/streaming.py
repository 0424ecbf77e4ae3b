"""Streaming on a CPU: one step of a GRU against torch.nn.GRUCell, and thousands of live streams.

    python benchmarks/streaming.py [--threads 2] [--hidden 64,128,256,512] [--streams 10000] [--steps 200]

First table: microseconds (median and 99th percentile) of one step for one stream, Python included, both under
inference_mode, state carried. Second: all streams stepped as one batch, milliseconds a step (median, 99th
percentile) and stream-steps a second. Outputs are checked against each other before anything is timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import nextstate as ns


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


def one_stream(hidden: int, repeats: int) -> None:
    theirs = torch.nn.GRUCell(hidden, hidden)
    cell = ns.GRU(hidden, hidden)
    cell.load_state_dict(theirs.state_dict())
    session, u = ns.Session(cell), torch.randn(hidden)
    h = torch.zeros(1, hidden)

    def step() -> None:
        nonlocal h
        h = theirs(u[None], h)

    with torch.inference_mode():
        for _ in range(20):
            step()
            v = session.step(u)
        assert (v - h[0]).abs().max() < 1e-5, "the two disagree"
        torchs, ours = timed(step, repeats), timed(lambda: session.step(u), repeats)
    (a, a99), (b, b99) = summary(torchs, 1e6), summary(ours, 1e6)
    print(f"{hidden:6}{a:10.1f}{a99:10.1f}{b:10.1f}{b99:10.1f}{a / b:8.1f}x", flush=True)


def many_streams(count: int, hidden: int, steps: int) -> None:
    streams = ns.Streams(ns.GRU(hidden, hidden))
    ids, us = streams.open(count), torch.randn(count, hidden)
    times = timed(lambda: streams.step(ids, us), steps)
    median, tail = summary(times, 1e3)
    print(f"{count:8}{hidden:6}{median:10.2f}{tail:10.2f}{count / median * 1e3:14,.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--hidden", default="64,128,256,512")
    parser.add_argument("--repeats", type=int, default=3000)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{'H':>6}{'torch us':>10}{'p99':>10}{'ours us':>10}{'p99':>10}{'ratio':>9}")
    for hidden in map(int, args.hidden.split(",")):
        one_stream(hidden, args.repeats)
    print(f"\n{'streams':>8}{'H':>6}{'ms/step':>10}{'p99':>10}{'steps/s':>14}")
    many_streams(args.streams, 128, args.steps)


if __name__ == "__main__":
    main()
