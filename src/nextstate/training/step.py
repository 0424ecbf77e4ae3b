"""One training step: everything it reads and changes stands in its arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from nextstate.states import Tree, leaves, rebuild
from nextstate.training.average import Average
from nextstate.training.source import Source

Carry = tuple[Tensor, ...] | None
"""The tensors of the recurrent state handed from one chunk to the next; None before the first."""


class Loss(NamedTuple):
    """What a loss function returns: the value to minimise, the state to carry on, figures to report."""

    value: Tensor
    carry: Tree = ()
    metrics: Mapping[str, Tensor | float] = {}


LossFunction = Callable[[nn.Module, Any, Carry], Loss]


class NonFiniteGradient(ArithmeticError):
    """The norm of the gradient is infinite or not a number."""


def stop(step: int, norm: float) -> None:
    """Policy for a gradient that is not finite: end the run, at the step where it happened."""
    raise NonFiniteGradient(f"the gradient's norm is {norm} at step {step}; the parameters are untouched")


def skip(step: int, norm: float) -> None:
    """Policy for a gradient that is not finite: leave the parameters alone and count it as skipped."""


@dataclass
class TrainState:
    """Everything that training changes; a checkpoint is this and the state of the random generators."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    source: Source
    average: Average | None = None
    step: int = 0
    seconds: float = 0.0
    skipped: int = 0
    carry: Carry = None
    history: list[dict[str, float]] = field(default_factory=list)


class Losses(nn.Module):
    """A model whose forward is the loss of a batch: what joins processes has to stand around all of it, for
    a loss may call parts of the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, loss: LossFunction, batch: Any, carry: Carry) -> Loss:
        return loss(self.model, batch, carry)


class Running(NamedTuple):
    """Loss and optimiser of a state as Fabric runs them: on their device, in its precision, in step with
    other processes."""

    fabric: Fabric
    losses: nn.Module
    optimiser: Any


def set_up(state: TrainState, fabric: Fabric) -> Running:
    """Move model, optimiser and average to the device of `fabric` and wrap them for it."""
    losses, optimiser = fabric.setup(Losses(state.model), state.optimiser)
    if state.average is not None:
        state.average.match(state.model)
    return Running(fabric, losses, optimiser)


class StepResult(NamedTuple):
    loss: float
    norm: float
    metrics: dict[str, float]


def train_step(
    state: TrainState,
    batch: Any,
    loss: LossFunction,
    running: Running,
    *,
    factor: float = 1.0,
    clip: float | None = 1.0,
    on_non_finite: Callable[[int, float], None] = stop,
) -> StepResult:
    """Gradient of the loss, clipping by global norm, one move of the optimiser and of the average.

        g  = grad loss(model, batch);   g <- g min(1, clip / |g|),  |g| over all parameters together
        w <- optimiser(w, g, factor x peak learning rate)

    `clip` None leaves the gradient as it is. If |g| is not finite, `on_non_finite(step, |g|)` is called;
    unless it raises, parameters, optimiser and average stay as they were and the step counts as skipped.
    The same state and batch give the same bits.
    """
    running.optimiser.zero_grad(set_to_none=True)
    result: Loss = running.losses(loss, batch, state.carry)
    running.fabric.backward(result.value)
    most = math.inf if clip is None else clip
    clipped = running.fabric.clip_gradients(
        running.losses, running.optimiser, max_norm=most, error_if_nonfinite=False
    )
    norm = math.nan if clipped is None else float(clipped)
    if math.isfinite(norm):
        for group in running.optimiser.param_groups:
            group["lr"] = factor * group.setdefault("initial_lr", group["lr"])
        running.optimiser.step()
        if state.average is not None:
            state.average.update(state.model)
    else:
        on_non_finite(state.step, norm)
        state.skipped += 1
    state.carry = tuple(leaf.detach() for leaf in leaves(result.carry)) or None
    state.step += 1
    metrics = {name: float(value) for name, value in result.metrics.items()}
    return StepResult(float(result.value.detach()), norm, metrics)


def carried(start: Tree, carry: Carry) -> Tree:
    """The state a chunk begins with: what was carried, in the structure of `start`; `start` if nothing was.

    >>> carried(torch.zeros(2), None).tolist(), carried(torch.zeros(2), (torch.ones(2),)).tolist()
    ([0.0, 0.0], [1.0, 1.0])
    """
    return start if carry is None else rebuild(start, carry)
