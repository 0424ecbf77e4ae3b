"""The training loop. It yields records; whoever iterates decides what to print, plot or write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from lightning_fabric import Fabric
from torch import nn

from nextstate.checks import refuse
from nextstate.training.checkpoint import Checkpoints
from nextstate.training.interrupt import Interrupted, hearing
from nextstate.training.processes import here, of_first
from nextstate.training.schedule import Plan, Schedule, warmup_cosine
from nextstate.training.step import LossFunction, StepResult, TrainState, set_up, stop, train_step

History = Sequence[Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Measure the model after every `every` steps and at the end.

    `measure(model)` returns figures by name; it runs in eval mode, without gradients, on the averaged
    parameters if there is an average. `enough(history)` ends the run: see `no_improvement`.
    """

    measure: Callable[[nn.Module], dict[str, float]]
    every: int
    enough: Callable[[History], bool] = lambda history: False

    def __post_init__(self) -> None:
        if self.every < 1:
            refuse("Evaluation", f"every is {self.every}; it must be at least 1")


@dataclass(frozen=True, slots=True)
class Record:
    """What happened since the record before: means of loss, gradient norm and metrics over those steps (of a
    metric that not every step gave, over those that did).

    `seconds` counts all runs of this training together; `rate` is in steps a second. `evaluation` holds the
    figures of an evaluation made at this very step, else None.
    """

    step: int
    progress: float
    seconds: float
    rate: float
    learning_rate: float
    loss: float
    norm: float
    skipped: int
    metrics: dict[str, float] = field(default_factory=dict)
    evaluation: dict[str, float] | None = None


def fit(
    state: TrainState,
    loss: LossFunction,
    plan: Plan,
    *,
    schedule: Schedule | None = None,
    clip: float | None = 1.0,
    on_non_finite: Callable[[int, float], None] = stop,
    fabric: Fabric | None = None,
    report_every: int = 50,
    evaluation: Evaluation | None = None,
    checkpoints: Checkpoints | None = None,
) -> Iterator[Record]:
    """Train until the plan is fulfilled or the evaluation has seen enough.

    fit : (state, loss, plan) -> Iterator[Record]

    `schedule` (default: `warmup_cosine()`) gives the learning rate as a share of the optimiser's own.
    `fabric` sets device, precision and processes (default: `here()`, the CPU in float32, as one of the
    processes that torchrun started if it did); the model is set up by it here. With several, loss and
    metrics of a record are those of this one's batches, and the first one evaluates. `checkpoints` saves as
    it says, and a run that finds one goes on from there: under a `Steps` plan it ends with the same bits as
    a run that nobody disturbed. Within `stoppable()` Ctrl-C is answered by a checkpoint and `Interrupted`.

    Records come every `report_every` steps, at evaluations and at the end.

    >>> from nextstate.training import Indexed, Loss, Steps
    >>> model = nn.Linear(1, 1)
    >>> optimiser = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.5)
    >>> state = TrainState(model, optimiser, Indexed(lambda n: torch.ones(4, 1)))
    >>> records = list(fit(state, lambda f, x, carry: Loss((f(x) - 3).square().mean()), Steps(100)))
    >>> [record.step for record in records], round(model(torch.ones(1, 1)).item(), 2)
    ([50, 100], 3.0)
    """
    if not isinstance(plan, Plan):
        refuse("fit", f"plan is {plan!r}; expected Steps or Seconds")
    if not callable(loss):
        refuse("fit", f"loss is {loss!r}; expected a function (model, batch, carry) -> Loss")
    if report_every < 1:
        refuse("fit", f"report_every is {report_every}; it must be at least 1")
    if clip is not None and not clip > 0:
        refuse("fit", f"clip is {clip}; it must be a norm above 0, or None")
    schedule = warmup_cosine() if schedule is None else schedule
    fabric = here() if fabric is None else fabric
    if fabric.strategy.precision.precision == "16-mixed":
        refuse(
            "fit", "precision '16-mixed' scales the loss by a state of its own; use 'bf16-mixed' or '32-true'"
        )
    running = set_up(state, fabric)
    if checkpoints is not None:
        checkpoints.restore(state, fabric)
    clock = _Clock(state.seconds)
    means = _Means()

    def enough() -> bool:
        return evaluation is not None and evaluation.enough(state.history)

    state.model.train()
    with hearing(checkpoints is not None) as asked:

        def now() -> tuple[float, bool]:
            found = plan.progress(state.step, clock.seconds()), asked()
            return of_first(fabric, lambda: found)

        (progress, stopped), done = now(), enough()
        while progress < 1 and not done and not stopped:
            batch = fabric.to_device(state.source.draw(fabric.global_rank, fabric.world_size))
            factor = schedule(progress)
            means.add(
                train_step(state, batch, loss, running, factor=factor, clip=clip, on_non_finite=on_non_finite)
            )
            progress, stopped = now()
            last = progress >= 1
            measured = None
            if evaluation is not None and (last or state.step % evaluation.every == 0):
                measured = of_first(fabric, partial(_measure, state, evaluation))
                state.history.append({"step": state.step, **measured})
                done = enough()
            state.seconds = clock.seconds()
            due = last or done or stopped or (checkpoints and state.step % checkpoints.every == 0)
            if checkpoints is not None and due:
                checkpoints.save(state, fabric)
            if measured is not None or last or state.step % report_every == 0:
                yield means.record(state, min(1.0, progress), measured)
    if stopped or asked():
        raise Interrupted(state.step)


def no_improvement(figure: str, patience: int) -> Callable[[History], bool]:
    """Early stop: true once `figure` has not grown for `patience` evaluations.

    Raises InputError for patience < 1, and from then on for a figure that no evaluation gives.

    >>> enough = no_improvement("accuracy", patience=2)
    >>> enough([{"accuracy": a} for a in (0.5, 0.7, 0.6)]), enough([{"accuracy": a} for a in (0.7, 0.6, 0.7)])
    (False, True)
    """
    if not isinstance(patience, int) or patience < 1:
        refuse("no_improvement", f"patience is {patience!r}; it must be at least 1")

    def enough(history: History) -> bool:
        for entry in history:
            if figure not in entry:
                refuse("no_improvement", f"{figure!r} is not among what was measured: {', '.join(entry)}")
        values = [entry[figure] for entry in history]
        return len(values) > patience and max(values[-patience:]) <= max(values[:-patience])

    return enough


@torch.no_grad()
def _measure(state: TrainState, evaluation: Evaluation) -> dict[str, float]:
    averaged = nullcontext() if state.average is None else state.average.applied(state.model)
    with averaged:
        state.model.eval()
        try:
            return evaluation.measure(state.model)
        finally:
            state.model.train()


class _Clock:
    def __init__(self, before: float) -> None:
        self.began = time.perf_counter() - before

    def seconds(self) -> float:
        return time.perf_counter() - self.began


class _Means:
    """Sums since the last record."""

    def __init__(self) -> None:
        self.results: list[StepResult] = []
        self.since = time.perf_counter()

    def add(self, result: StepResult) -> None:
        self.results.append(result)

    def record(self, state: TrainState, progress: float, evaluation: dict[str, float] | None) -> Record:
        count, now = len(self.results), time.perf_counter()
        given: dict[str, list[float]] = {}
        for result in self.results:
            for name, value in result.metrics.items():
                given.setdefault(name, []).append(value)
        record = Record(
            step=state.step,
            progress=progress,
            seconds=state.seconds,
            rate=count / max(now - self.since, 1e-9),
            learning_rate=state.optimiser.param_groups[0]["lr"],
            loss=sum(result.loss for result in self.results) / count,
            norm=sum(result.norm for result in self.results) / count,
            skipped=state.skipped,
            metrics={name: sum(values) / len(values) for name, values in given.items()},
            evaluation=evaluation,
        )
        self.results, self.since = [], now
        return record
