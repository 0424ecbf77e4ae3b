"""Training a network to sort: sizes, data, optimiser and schedule of every recipe, and the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.cells import GRU
from nextstate.init import integrator_, orthogonal_recurrent_
from nextstate.recipes.sorter import Range, TrainedSorter, sorting_network
from nextstate.tasks.sort import LAWS, Score, SortBatch, TrainingLists, evaluate
from nextstate.training import (
    Checkpoints,
    Evaluation,
    Indexed,
    Loss,
    Muon,
    Record,
    Seconds,
    Steps,
    TrainState,
    fit,
    warmup_cosine,
)

PADDING = -100
"""Target that counts for nothing in the loss."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides how a sorter comes out, but for the seed.

    Lists have `shortest` to `longest` numbers out of 1..largest; `full` of them are long, `plain` of them
    uniform, and a share `ordered` comes in order or in the opposite order (see `TrainingLists`). `steps`
    batches of `batch` lists; AdamW without weight decay, betas (0.9, 0.98), learning rate `rate` after a
    linear warm-up over the first tenth, then a cosine to 0; gradient clipped at norm 1. With `muon` above 0
    the optimiser is `Muon`: the matrices of both GRUs move with that learning rate, all else by Adam with
    `rate`, both on the same schedule.
    """

    largest: int
    shortest: int
    longest: int
    hidden: int
    batch: int
    steps: int
    full: float
    plain: float
    ordered: float = 0.0
    rate: float = 1e-2
    muon: float = 0.0

    @property
    def range(self) -> Range:
        return Range(self.largest, self.shortest, self.longest)


RECIPES = {
    "short": Recipe(
        largest=32,
        shortest=32,
        longest=32,
        hidden=64,
        batch=64,
        steps=3000,
        full=1.0,
        plain=1.0,
        rate=3e-2,
        muon=4e-2,
    ),
    "robust": Recipe(
        largest=32,
        shortest=1,
        longest=42,
        hidden=128,
        batch=128,
        steps=12000,
        full=0.4,
        plain=0.08,
        ordered=0.2,
        rate=4e-2,
        muon=2e-2,
    ),
    "64": Recipe(largest=64, shortest=64, longest=64, hidden=128, batch=64, steps=15000, full=1.0, plain=1.0),
    "100": Recipe(
        largest=100,
        shortest=100,
        longest=100,
        hidden=192,
        batch=64,
        steps=20000,
        full=1.0,
        plain=1.0,
        rate=7e-3,
    ),
}


@dataclass
class Run:
    """A training of a sorter, ready to go: iterate over `records()`, then take `sorter()`."""

    recipe: Recipe
    state: TrainState
    plan: Steps | Seconds
    evaluation: Evaluation
    checkpoints: Checkpoints | None
    fabric: Fabric

    def records(self) -> Iterator[Record]:
        return fit(
            self.state,
            sorting_loss,
            self.plan,
            schedule=warmup_cosine(0.1),
            fabric=self.fabric,
            report_every=20,
            evaluation=self.evaluation,
            checkpoints=self.checkpoints,
        )

    def sorter(self) -> TrainedSorter:
        network = self.state.model.cpu()
        return TrainedSorter(network, self.recipe.hidden, self.recipe.range)  # type: ignore[arg-type]


def prepare(
    recipe: Recipe,
    *,
    seed: int = 0,
    seconds: float | None = None,
    checkpoints: Path | None = None,
    fabric: Fabric | None = None,
) -> Run:
    """A run of a recipe. `seconds` plans it by the clock instead of by steps; the same seed and steps give
    the same bits on the same machine. With a folder for checkpoints an interrupted run is taken up again.
    """
    torch.manual_seed(seed)
    network = sorting_network(recipe.largest, recipe.hidden)
    integrator_(cast(GRU, network.encoder.cell))
    orthogonal_recurrent_(network.decoder.cell)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser: torch.optim.Optimizer
    if recipe.muon:
        optimiser = Muon(network, recipe.muon, recipe.rate)
    else:
        optimiser = torch.optim.AdamW(
            trained, lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
        )
    lists = TrainingLists(
        recipe.largest,
        recipe.longest,
        recipe.batch,
        shortest=recipe.shortest,
        full=recipe.full,
        plain=recipe.plain,
        ordered=recipe.ordered,
        seed=seed,
    )
    plan = Steps(recipe.steps) if seconds is None else Seconds(seconds)
    # An evaluation takes as long as some sixty steps; by the clock the number of steps is not known.
    every = max(1, recipe.steps // 20) if seconds is None else min(max(200, int(seconds)), 1000)
    return Run(
        recipe,
        TrainState(network, optimiser, Indexed(lists)),
        plan,
        Evaluation(lambda model: progress_check(model, recipe), every),
        None if checkpoints is None else Checkpoints(checkpoints, every),
        Fabric(accelerator="cpu", devices=1) if fabric is None else fabric,
    )


def sorting_loss(model: nn.Module, batch: SortBatch, carry: object) -> Loss:
    """Cross-entropy in nats a number under teacher forcing, with the shares of numbers and lists right."""
    ragged = bool((batch.lengths < batch.source.shape[1]).any())
    lengths = batch.lengths if ragged else None
    logits: Tensor = model(batch.source, batch.target, lengths, lengths)
    target = batch.target
    if ragged:
        valid = torch.arange(target.shape[1], device=target.device) < batch.lengths[:, None]
        target = target.where(valid, PADDING)
    value = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PADDING)
    with torch.no_grad():
        right = logits.argmax(-1) == target
        if ragged:
            right |= ~valid
        wrong = (~right).sum() / batch.lengths.sum()
        exact = right.all(1).float().mean()
    return Loss(value, metrics={"elements_right": 1 - wrong, "lists_right": exact})


def progress_check(model: nn.Module, recipe: Recipe, lists: int = 1024) -> dict[str, float]:
    """Greedy answers to uniform lists of the full length and, if shorter ones are trained, to a mix of all
    laws and lengths; lists never used in training."""
    sorter = TrainedSorter(model, recipe.hidden, recipe.range)  # type: ignore[arg-type]
    uniform = {"uniform": LAWS["uniform"]}
    [entry] = evaluate(
        sorter, largest=recipe.largest, lengths=[recipe.longest], lists=lists, laws=uniform, seed=2
    )
    figures = entry.score.shares()
    if recipe.shortest < recipe.longest:
        lengths = sorted({recipe.shortest, *range(4, recipe.longest, 9), recipe.longest})
        entries = evaluate(sorter, largest=recipe.largest, lengths=lengths, lists=32, seed=2)
        total = sum((entry.score for entry in entries), Score())
        figures["all_laws_lists_right"] = total.shares()["lists_right"]
    return figures
