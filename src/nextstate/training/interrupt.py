"""Training that is asked to stop (Ctrl-C, SIGTERM) stops between two steps, behind a checkpoint."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A training was asked to stop and did, after `step` steps: its newest checkpoint is of that step.

    >>> str(Interrupted(3))
    'interrupted after 3 steps; the checkpoint goes on from there'
    """

    def __init__(self, step: int) -> None:
        steps = "1 step" if step == 1 else f"{step} steps"
        super().__init__(f"interrupted after {steps}; the checkpoint goes on from there")
        self.step, self.steps = step, steps


class _Request:
    """Whether somebody asked, and whether a training is there to hear it."""

    def __init__(self) -> None:
        self.heard = self.asked = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked or not self.heard:
            raise KeyboardInterrupt
        self.asked = True


_request: ContextVar[_Request | None] = ContextVar("nextstate_interrupt", default=None)


@contextmanager
def stoppable() -> Iterator[None]:
    """Within the block, SIGINT or SIGTERM ends a `fit` that has checkpoints between two steps.

    The checkpoint of that step is written, then `Interrupted` (a KeyboardInterrupt) is raised. A second
    signal, or one while no such `fit` runs, raises KeyboardInterrupt at once. For the main thread. One of
    several processes leaves SIGTERM alone: by it torchrun ends those whose partner is gone. A signal that
    was ignored before (by nohup, or in a job in the background of a script) stays so.

    >>> with stoppable():
    ...     try:
    ...         os.kill(os.getpid(), signal.SIGTERM)
    ...     except KeyboardInterrupt:
    ...         print("nothing was trained")
    nothing was trained
    """
    request = _Request()
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    numbers = [signal.SIGINT, signal.SIGTERM] if alone else [signal.SIGINT]
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, request.handle) for number in heard}
    token = _request.set(request)
    try:
        yield
    finally:
        _request.reset(token)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def hearing(can_keep: bool) -> Iterator[Callable[[], bool]]:
    """Within the block a request to stop waits until the function is asked, if `can_keep`."""
    request = _request.get() if can_keep else None
    request = _Request() if request is None else request
    request.heard = True
    try:
        yield lambda: request.asked
    finally:
        request.heard = False
