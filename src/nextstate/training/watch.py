"""How far back gradients reach, recorded while a model is trained."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from torch import nn

from nextstate.checks import refuse
from nextstate.dynamics.gradients import moving, quiet, reach_of
from nextstate.dynamics.observe import first_rows, names, observed
from nextstate.training.step import Carry, Loss, LossFunction

GROWN = 1000.0
"""A gradient that grows this much on its way back is worth the warning too."""


class GradientWarning(UserWarning):
    """Gradients of a model in training vanish or explode before they reach half of its sequences.

    >>> issubclass(GradientWarning, UserWarning)
    True
    """


class Measurement(NamedTuple):
    """One loop at one call of the loss: gradients reach `reach` of `longest` steps back (to 1 %) and grow up
    to `growth` times on the way."""

    call: int
    name: str
    reach: int
    longest: int
    growth: float


class GradientWatch:
    """A loss function that also records, now and then, how far back gradients reach.

    GradientWatch : LossFunction -> LossFunction

    At the first call and every `every` calls after it the loops that ran inside the model are measured by
    `nextstate.dynamics.reach`, on 8 rows of the batch. The smallest reach and the largest growth of all loops
    go into the metrics of every step, `gradient_reach` and `gradient_growth`, hence into the records;
    `history` has all measurements. The first time a gradient reaches less than half of the longest row, or
    grows more than 1000 times, a `GradientWarning` says so with the numbers, once.

    The training is not disturbed: same loss, same bits, no random generator moved.

    Raises InputError for every < 1.

    >>> from nextstate import Elman, SequenceClassifier
    >>> model = SequenceClassifier(Elman(3, 8), inputs=3, classes=2)
    >>> watch = GradientWatch(lambda model, x, carry: Loss(model(x).square().mean()), every=100)
    >>> with warnings.catch_warnings(record=True) as said:
    ...     warnings.simplefilter("always")
    ...     metrics = watch(model, torch.randn(4, 60, 3), None).metrics
    >>> str(said[0].message)  # doctest: +ELLIPSIS
    'gradients of layers.0 reach ... steps back (to 1 %); the sequences are 60 long; ...'
    """

    def __init__(self, loss: LossFunction, *, every: int = 200) -> None:
        if every < 1:
            refuse("GradientWatch", f"every is {every}; it must be at least 1")
        self.loss, self.every = loss, every
        self.history: list[Measurement] = []
        self._calls, self._warned = 0, False

    def __call__(self, model: nn.Module, batch: Any, carry: Carry) -> Loss:
        if self._calls % self.every:
            result = self.loss(model, batch, carry)
        else:
            with observed() as sequences:
                result = self.loss(model, batch, carry)
            with quiet(), torch.random.fork_rng(devices=[]):
                for name, sequence in zip(names(model, sequences), sequences, strict=True):
                    request = first_rows(sequence.request, 8)
                    if request is not None and moving(request.cell, request.us, request.s0):
                        found = reach_of(request)
                        measured = Measurement(self._calls, name, found.steps(), found.longest, found.most)
                        self.history.append(measured)
                        self._warn(measured)
        self._calls += 1
        return result._replace(metrics={**result.metrics, **self._metrics()})

    def _metrics(self) -> dict[str, float]:
        last = [m for m in self.history if m.call == self.history[-1].call]
        if not last:
            return {}
        return {
            "gradient_reach": float(min(m.reach for m in last)),
            "gradient_growth": max(m.growth for m in last),
        }

    def _warn(self, found: Measurement) -> None:
        vanishes, explodes = 2 * found.reach < found.longest, found.growth > GROWN
        if self._warned or not (vanishes or explodes):
            return
        self._warned = True
        grown = f" and grow {found.growth:.3g} times on the way" if explodes else ""
        warnings.warn(
            f"gradients of {found.name} reach {found.reach} steps back (to 1 %){grown}; the sequences are "
            f"{found.longest} long; nextstate.inspect(model, batch) says why and what may help",
            GradientWarning,
            stacklevel=3,
        )
