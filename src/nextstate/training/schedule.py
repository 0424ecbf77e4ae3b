"""How far a run has come, and the learning rate there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from nextstate.checks import refuse

LONGEST = 4 * 7 * 24 * 60
"""Minutes that a run may be planned for at most: four weeks."""

Schedule = Callable[[float], float]
"""Progress in 0..1 -> the factor by which the peak learning rate is multiplied."""


@dataclass(frozen=True, slots=True)
class Steps:
    """A run of a fixed number of steps; the only plan under which a resumed run repeats the same bits.

    >>> Steps(200).progress(step=50, seconds=9.0)
    0.25
    """

    total: int

    def __post_init__(self) -> None:
        if not isinstance(self.total, int) or self.total < 1:
            refuse("Steps", f"total is {self.total!r}; a run needs at least one step")

    def progress(self, step: int, seconds: float) -> float:
        return step / self.total


@dataclass(frozen=True, slots=True)
class Seconds:
    """A run that lasts a wall-clock budget, evaluations and checkpoints included.

    >>> Seconds(120).progress(step=50, seconds=30.0)
    0.25
    """

    budget: float

    def __post_init__(self) -> None:
        if not isinstance(self.budget, int | float) or not 0 < self.budget < math.inf:
            refuse("Seconds", f"budget is {self.budget!r}; it must be a positive number of seconds")

    def progress(self, step: int, seconds: float) -> float:
        return seconds / self.budget


Plan = Steps | Seconds


def warmup_cosine(warmup: float = 0.1) -> Schedule:
    """A linear rise over the first part of a run, then half a cosine down to zero.

    warmup_cosine : warmup -> (progress p -> factor)

        factor = p / warmup                                       for p < warmup
               = (1 + cos(pi (p - warmup) / (1 - warmup))) / 2    from there on

    `warmup` is a share of the run, 0 <= warmup < 1. The factor is 0 at p = 0 and p = 1.
    Source: Loshchilov & Hutter 2017 (arXiv 1608.03983), one period; linear warm-up of Goyal et al. 2017.

    >>> factor = warmup_cosine(0.1)
    >>> [round(factor(p), 3) for p in (0.0, 0.05, 0.1, 0.55, 1.0)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if not isinstance(warmup, int | float) or not 0 <= warmup < 1:
        refuse("warmup_cosine", f"warmup is {warmup!r}; it is a share of the run, 0 <= warmup < 1")

    def factor(progress: float) -> float:
        if progress < warmup:
            return progress / warmup
        done = min(1.0, (progress - warmup) / (1 - warmup))
        return (1 + math.cos(math.pi * done)) / 2

    return factor


def constant(progress: float) -> float:
    """The peak learning rate throughout: a `Schedule`.

    >>> constant(0.0), constant(0.7)
    (1.0, 1.0)
    """
    return 1.0


def check_minutes(operation: str, minutes: float | None) -> None:
    """Raises InputError for minutes that no run can last; None leaves the plan to something else.

    >>> check_minutes("train", 1e300)
    Traceback (most recent call last):
    nextstate.checks.InputError: train: minutes is 1e+300; it must be positive and at most 40320 (four weeks)
    """
    if minutes is not None and not 0 < minutes <= LONGEST:
        refuse(operation, f"minutes is {minutes}; it must be positive and at most {LONGEST} (four weeks)")
