"""Paired timing behind a correctness gate: nothing is timed whose result is wrong."""

from __future__ import annotations

import gc
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

GATE = 2e-4
"""Largest relative L2 error against float64 that a contender may have and still be timed."""

Grads = dict[str, Tensor]


@dataclass
class Contender:
    """A way to run the task: `forward` gives the outputs [T, B, H]; `parameters` in the reference's order."""

    name: str
    forward: Callable[[Any], Tensor]
    parameters: list[nn.Parameter]

    def train(self, us: Any, cotangent: Tensor) -> Grads:
        """One training step of the layer: outputs, and the gradients of the input and every parameter."""
        for parameter in self.parameters:
            parameter.grad = None
        if us.is_floating_point():
            us.grad = None
        vs = self.forward(us)
        vs.backward(cotangent)
        found = {"outputs": vs.detach()}
        if us.is_floating_point():
            found["input gradient"] = us.grad
        return found | {f"gradient {k}": p.grad for k, p in enumerate(self.parameters)}

    def infer(self, us: Any) -> Tensor:
        with torch.no_grad():
            return self.forward(us)


@dataclass
class Measured:
    """Milliseconds of every pass by contender, the errors found by the gate, and who was turned away."""

    passes: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def median(self, name: str) -> float:
        return statistics.median(self.passes[name])


def relative(x: Tensor, exact: Tensor) -> float:
    """The L2 norm of the error over that of the exact value."""
    return float((x.double() - exact).norm() / exact.norm().clamp(min=1e-30))


def errors(found: Grads, exact: Grads) -> dict[str, float]:
    assert found.keys() == exact.keys(), found.keys() ^ exact.keys()
    return {name: relative(x, exact[name]) for name, x in found.items()}


def wrong(found: dict[str, float], gate: float = GATE) -> str | None:
    """Why a contender fails the gate, if it does. A NaN fails."""
    name, worst = max(found.items(), key=lambda item: float("inf") if item[1] != item[1] else item[1])
    return None if worst <= gate else f"{name} is off by {worst:.1e} (L2, relative to float64)"


def check_gate() -> None:
    """The gate must turn away results that are slightly wrong, or NaN."""
    exact = {"x": torch.randn(50).double()}
    assert wrong(errors({"x": exact["x"].float()}, exact)) is None
    for broken in (exact["x"] * 1.001, exact["x"] * float("nan"), exact["x"].roll(1)):
        assert wrong(errors({"x": broken.float()}, exact)) is not None


class TookTooLongError(Exception):
    pass


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Raise after that many seconds: compiling an unrolled loop may take an hour."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TookTooLongError(f"not ready after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def paired(
    calls: dict[str, Callable[[], Any]], passes: int, shortest: float = 0.01, warm: int = 1
) -> dict[str, list[float]]:
    """Milliseconds a call, every contender in turn in every pass, so that all meet the same machine."""
    repeats = {}
    for name, call in calls.items():
        for _ in range(warm):
            call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, int(shortest / (time.perf_counter() - start)))
    found: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    gc.disable()
    try:
        for number in range(passes):
            order = list(calls) if number % 2 == 0 else list(calls)[::-1]
            for name in order:
                start = time.perf_counter()
                for _ in range(repeats[name]):
                    calls[name]()
                found[name].append(1e3 * (time.perf_counter() - start) / repeats[name])
    finally:
        gc.enable()
    return found


def admitted(
    found: Measured, contenders: list[Contender], us: Any, cotangent: Tensor, exact: Grads, patience: int
) -> list[Contender]:
    """Those that pass the gate. One that raises or is wrong is refused in `found`, with its reason."""
    passed = []
    for contender in contenders:
        try:
            with limit(patience):
                errs = errors(contender.train(us, cotangent), exact)
                contender.train(us, cotangent)
        except Exception as error:  # a peer's failure is a result to report
            found.refused[contender.name] = (
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
            continue
        found.errors[contender.name] = errs
        reason = wrong(errs)
        if reason is not None:
            found.refused[contender.name] = reason
            continue
        passed.append(contender)
    return passed


def measure(
    contenders: list[Contender],
    us: Any,
    cotangent: Tensor,
    exact: Grads,
    passes: int,
    patience: int,
    training: bool = True,
) -> Measured:
    """Gate, then time those that pass, in turn."""
    found, calls = Measured(), {}
    for contender in admitted(found, contenders, us, cotangent, exact, patience):
        if training:
            calls[contender.name] = lambda c=contender: c.train(us, cotangent)
        else:
            calls[contender.name] = lambda c=contender: c.infer(us)
    found.passes = paired(calls, passes)
    return found
