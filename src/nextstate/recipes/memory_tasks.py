"""Experiments on memory: where a plain recurrent network must fail, and which remedy makes it learn."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.cell import Cell
from nextstate.cells import GRU, LSTM, Elman
from nextstate.checks import refuse
from nextstate.dynamics import flossing_loss, reach
from nextstate.dynamics.plots import save_png
from nextstate.init import chrono_, identity_, orthogonal_recurrent_
from nextstate.run import fold, scan
from nextstate.tasks.memory import SYMBOLS, Batch, Digits, adding, copy_baseline, copy_memory, delayed_xor
from nextstate.training import (
    Checkpoints,
    Evaluation,
    Indexed,
    Loss,
    Record,
    Steps,
    TrainState,
    fit,
    warmup_cosine,
)
from nextstate.writing import write_text

TEST_SEED = 1_000_003
"""Of the sequences on which figures are measured; training uses seeds below."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A network of an experiment: its cell with its start, its peak learning rate, and what is claimed of it.

    `solves`: True if it gets to the goal, False if it stays at the baseline, None if neither is claimed.
    `flossing`: steps of gradient flossing before the training.
    """

    cell: Callable[[int], Cell]
    rate: float
    solves: bool | None
    flossing: int = 0


@dataclass(frozen=True, slots=True)
class Experiment:
    """A task, what counts as solved, and the networks that are tried.

    The figure is the loss on unseen sequences (nats, or a mean squared error), or the share of them that is
    wrong where `errors`. `goal` is below `baseline`, what the best answer without memory has (digits:
    chance).
    """

    title: str
    unit: str
    train: Callable[[int], Callable[[int], Batch]]
    test: Callable[[], Batch]
    inputs: int
    outputs: int
    every_step: bool
    errors: bool
    baseline: float
    goal: float
    hidden: int
    steps: int
    variants: dict[str, Variant]


class Reader(nn.Module):
    """A cell and a linear read-out, of every step [T, B, O] or of the last one [B, O]."""

    def __init__(self, cell: Cell, hidden: int, outputs: int, every_step: bool) -> None:
        super().__init__()
        self.cell, self.readout, self.every_step = cell, nn.Linear(hidden, outputs), every_step

    def forward(self, us: Tensor) -> Tensor:
        vs, _ = (scan if self.every_step else fold)(self.cell, us)
        return self.readout(vs)


class Outcome(NamedTuple):
    """What became of one network."""

    variant: str
    figure: float
    solved: bool
    claimed: bool | None
    as_claimed: bool
    steps: int
    seconds: float
    reach_before: int
    reach_after: int
    curve: list[tuple[int, float]]
    """(step, figure on unseen sequences)"""
    gradient_by_lag: list[float]
    """at the start of training"""


def _elman(hidden: int) -> Callable[[int], Cell]:
    return lambda inputs: Elman(inputs, hidden)


def _orthogonal(hidden: int) -> Callable[[int], Cell]:
    return lambda inputs: orthogonal_recurrent_(Elman(inputs, hidden))


def _rotation(hidden: int) -> Callable[[int], Cell]:
    """A rotation of the state, held as it is drawn; at first a blank writes nothing to it.

    Trained freely it would leave the orthogonal matrices within a few hundred steps, and the gradient with
    it.
    """

    def make(inputs: int) -> Cell:
        cell = orthogonal_recurrent_(Elman(inputs, hidden, activation=nn.Identity()))
        nn.init.zeros_(cell.bias_ih)
        nn.init.zeros_(cell.bias_hh)
        nn.init.zeros_(cell.weight_ih.detach()[:, SYMBOLS])
        cell.weight_hh.requires_grad_(False)
        return cell

    return make


def _irnn(hidden: int) -> Callable[[int], Cell]:
    def make(inputs: int) -> Cell:
        cell = identity_(Elman(inputs, hidden, activation=nn.ReLU()))
        nn.init.normal_(cell.weight_ih, std=0.001)
        return cell

    return make


def _chrono(hidden: int, longest: int) -> Callable[[int], Cell]:
    return lambda inputs: chrono_(GRU(inputs, hidden), longest)


def _copying(delay: int, steps: int) -> Experiment:
    hidden = 128
    return Experiment(
        title=f"copy memory, T = {delay}",
        unit="cross-entropy, nats a step",
        train=lambda seed: copy_memory(delay, seed=seed),
        test=lambda: copy_memory(delay, rows=100, seed=TEST_SEED)(0),
        inputs=10,
        outputs=9,
        every_step=True,
        errors=False,
        baseline=copy_baseline(delay),
        goal=copy_baseline(delay) / 5,
        hidden=hidden,
        steps=steps,
        variants={
            "Elman": Variant(_elman(hidden), 3e-3, False),
            "LSTM": Variant(lambda inputs: LSTM(inputs, hidden), 1e-2, None),
            "Elman, linear, rotation held": Variant(_rotation(hidden), 1e-2, True),
        },
    )


def _digits(permuted: bool) -> Experiment:
    hidden = 64
    return Experiment(
        title="permuted digits, 64 steps" if permuted else "digits pixel by pixel, 64 steps",
        unit="unseen images wrong",
        train=lambda seed: Digits(permuted=permuted, seed=seed).train,
        test=lambda: Digits(permuted=permuted).held_out,
        inputs=1,
        outputs=10,
        every_step=False,
        errors=True,
        baseline=0.9,
        goal=0.1,
        hidden=hidden,
        steps=3000,
        variants={
            "Elman": Variant(_elman(hidden), 1e-3, None),
            "Elman, orthogonal start": Variant(_orthogonal(hidden), 1e-3, True),
            "GRU, chrono start": Variant(_chrono(hidden, 64), 3e-3, None),
        },
    )


EXPERIMENTS: dict[str, Experiment] = {
    "copy-100": _copying(100, 600),
    "copy-500": _copying(500, 500),
    "copy-1000": _copying(1000, 500),
    "adding": Experiment(
        title="adding problem, T = 200",
        unit="mean squared error",
        train=lambda seed: adding(200, seed=seed),
        test=lambda: adding(200, rows=2000, seed=TEST_SEED)(0),
        inputs=2,
        outputs=1,
        every_step=False,
        errors=False,
        baseline=1 / 6,
        goal=0.01,
        hidden=64,
        steps=2000,
        variants={
            "Elman": Variant(_elman(64), 1e-3, False),
            "GRU": Variant(lambda inputs: GRU(inputs, 64), 5e-3, None),
            "GRU, chrono start": Variant(_chrono(64, 200), 5e-3, True),
        },
    ),
    "xor": Experiment(
        title="delayed XOR, 50 steps",
        unit="cross-entropy, nats",
        train=lambda seed: delayed_xor(50, rows=64, seed=seed),
        test=lambda: delayed_xor(50, rows=500, seed=TEST_SEED)(0),
        inputs=2,
        outputs=2,
        every_step=False,
        errors=False,
        baseline=math.log(2),
        goal=0.1,
        hidden=64,
        steps=2000,
        variants={
            "Elman": Variant(_elman(64), 1e-3, False),
            "Elman, orthogonal start": Variant(_orthogonal(64), 1e-3, True),
            "Elman, ReLU, identity start": Variant(_irnn(64), 1e-3, True),
            "Elman, flossed": Variant(_elman(64), 1e-3, True, flossing=50),
            "GRU, chrono start": Variant(_chrono(64, 50), 3e-3, True),
        },
    ),
    "digits": _digits(permuted=False),
    "permuted-digits": _digits(permuted=True),
}
"""By name; each is a few minutes of two cores."""


def floss_(
    cell: Cell, inputs: int, *, steps: int, length: int = 20, count: int = 16, rate: float = 3e-3
) -> None:
    """Descend on `flossing_loss` towards exponents of 0, with Adam, on inputs N(0, 0.1^2); in place."""
    optimiser = torch.optim.Adam(cell.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(0)
    for number in range(steps):
        us = 0.1 * torch.randn(length, 4, inputs, generator=generator)
        optimiser.zero_grad()
        flossing_loss(cell, us, count=count, seed=number).backward()
        optimiser.step()


def run(
    name: str, out: Path, *, seed: int = 0, steps: int | None = None
) -> Iterator[tuple[str, Record | Outcome]]:
    """Train every network of an experiment and yield what happens: records of the training, then its outcome.

    run : (name, folder) -> Iterator[(variant, Record | Outcome)]

    Checkpoints lie in the folder: a run that was interrupted goes on where it stood, to the same figures.
    When all are done, `results.json` and `results.png` are there and the checkpoints are removed by the
    caller.

    Raises InputError for a name that is no experiment.
    """
    experiment = EXPERIMENTS.get(name)
    if experiment is None:
        refuse("experiment", f"no experiment is called {name!r}; there are {', '.join(EXPERIMENTS)}")
    outcomes = []
    for variant in experiment.variants:
        for happened in _train(experiment, variant, out / "checkpoints", seed, steps or experiment.steps):
            yield variant, happened
            if isinstance(happened, Outcome):
                outcomes.append(happened)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "results.json", json.dumps(results(name, experiment, outcomes, seed), indent=1))
    draw(experiment, outcomes, out / "results.png")


def _train(
    experiment: Experiment, variant: str, folder: Path, seed: int, steps: int
) -> Iterator[Record | Outcome]:
    chosen = experiment.variants[variant]
    torch.manual_seed(seed)
    cell = chosen.cell(experiment.inputs)
    model = Reader(cell, experiment.hidden, experiment.outputs, experiment.every_step)
    if chosen.flossing:
        floss_(cell, experiment.inputs, steps=chosen.flossing)
    test = experiment.test()
    before = reach(cell, test.us[:, :16])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    state = TrainState(model, torch.optim.Adam(trained, lr=chosen.rate), Indexed(experiment.train(seed)))
    every = max(1, steps // 20)
    place = folder / variant.replace(", ", "-").replace(" ", "-").lower()
    yield from fit(
        state,
        _loss,
        Steps(steps),
        schedule=warmup_cosine(0.05),
        fabric=Fabric(accelerator="cpu", devices=1),
        report_every=every,
        evaluation=Evaluation(lambda model: {"figure": _figure(experiment, model, test)}, every),
        checkpoints=Checkpoints(place, every),
    )
    figure = state.history[-1]["figure"]
    yield Outcome(
        variant,
        figure,
        figure <= experiment.goal,
        chosen.solves,
        {True: figure <= experiment.goal, False: figure > 0.9 * experiment.baseline, None: True}[
            chosen.solves
        ],
        state.step,
        state.seconds,
        before.steps(),
        reach(cell, test.us[:, :16]).steps(),
        [(int(entry["step"]), entry["figure"]) for entry in state.history],
        before.curve.tolist(),
    )


def _loss(model: nn.Module, batch: Batch, carry: object) -> Loss:
    return Loss(_value(model(batch.us), batch.targets))


def _value(answer: Tensor, targets: Tensor) -> Tensor:
    if targets.is_floating_point():
        return F.mse_loss(answer.squeeze(-1), targets)
    return F.cross_entropy(answer.flatten(0, -2), targets.flatten())


def _figure(experiment: Experiment, model: nn.Module, test: Batch) -> float:
    answer = model(test.us)
    if experiment.errors:
        return float((answer.argmax(-1) != test.targets).double().mean())
    return float(_value(answer, test.targets))


def results(name: str, experiment: Experiment, outcomes: list[Outcome], seed: int) -> dict:
    """Everything measured, as JSON knows it."""
    return {
        "experiment": name,
        "title": experiment.title,
        "unit": experiment.unit,
        "baseline": experiment.baseline,
        "goal": experiment.goal,
        "seed": seed,
        "networks": [outcome._asdict() for outcome in outcomes],
    }


def draw(experiment: Experiment, outcomes: list[Outcome], path: Path) -> None:
    """Figure on unseen sequences with the baseline, and the gradient by lag before training; a PNG."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for outcome in outcomes:
        steps, values = zip(*outcome.curve, strict=True)
        left.plot(steps, [max(x, experiment.goal * 1e-4) for x in values], marker=".", label=outcome.variant)
        lags = range(len(outcome.gradient_by_lag))
        right.plot(lags, [max(x, 1e-12) for x in outcome.gradient_by_lag], label=outcome.variant)
    left.axhline(
        experiment.baseline, color="grey", linestyle="--", label=f"no memory: {experiment.baseline:.4g}"
    )
    left.axhline(experiment.goal, color="grey", linestyle=":", label=f"solved: {experiment.goal:.4g}")
    left.set(yscale="log", xlabel="steps of training", ylabel=experiment.unit, title=experiment.title)
    right.set(yscale="log", xlabel="steps back", ylabel="gradient left", title="before training")
    left.legend(fontsize=8)
    right.legend(fontsize=8)
    save_png(figure, path)
