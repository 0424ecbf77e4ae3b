"""Training a model of text: the recipe, the network with its dropout, the loss, the run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from nextstate.cell import Cell
from nextstate.checks import refuse
from nextstate.combine import Dropped, WeightDropped, redrawn
from nextstate.init import forget_bias_, orthogonal_recurrent_
from nextstate.networks import LanguageModel
from nextstate.recipes.text_measure import mean_nats
from nextstate.recipes.text_model import Shape, TextModel
from nextstate.tasks.text import Corpus, TextChunk, TextStreams
from nextstate.training import (
    Average,
    Checkpoints,
    Evaluation,
    Loss,
    Record,
    Steps,
    TrainState,
    carried,
    fit,
    train_step,
    warmup_cosine,
)
from nextstate.training.fit import History
from nextstate.training.step import Carry, set_up

MEASURED = 1 << 17
"""Tokens of the validation part that the last measurement reads at least, if there are so many."""

KEPT = 1000
"""Steps between two checkpoints at most: what a kill can cost."""

COUNTED = 1 << 22
"""Tokens of the training part that are counted for the start of the read-out."""


@dataclass(frozen=True, slots=True)
class Dropout:
    """Shares left out, by variational masks drawn anew for every chunk: of the table's features, between
    two layers, before the read-out, of what the recurrent products read; and of the recurrent weights."""

    features: float = 0.0
    between: float = 0.0
    output: float = 0.0
    state: float = 0.0
    weights: float = 0.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides how a model comes out, but for text and seed.

    `steps` chunks of `length` tokens in `rows` rows, the state carried from chunk to chunk; AdamW, betas
    (0.9, 0.99), learning rate `rate` after a linear warm-up over the first twentieth, then a cosine to 0,
    weight `decay` on matrices; gradient clipped at norm 1; weights averaged with `average`. Early stop
    after `patience` measurements of the validation part without a better one, out of `measurements`.
    """

    shape: Shape
    rows: int = 32
    length: int = 64
    steps: int = 1000
    rate: float = 3e-3
    decay: float = 0.01
    dropout: Dropout = Dropout()
    average: float = 0.998
    measurements: int = 10
    patience: int = 4


def recipe_from_json(about: dict[str, Any]) -> Recipe:
    """The recipe that `dataclasses.asdict` took apart.

    >>> from dataclasses import asdict
    >>> recipe = Recipe(Shape("GRU", 2, 8, 16), dropout=Dropout(output=0.5))
    >>> recipe_from_json(asdict(recipe)) == recipe
    True
    """
    return Recipe(**{**about, "shape": Shape(**about["shape"]), "dropout": Dropout(**about["dropout"])})


def text_network(recipe: Recipe, vocabulary: int) -> tuple[LanguageModel, LanguageModel]:
    """The network that is trained, with its dropout, and the same without: one set of weights."""
    shape, rates = recipe.shape, recipe.dropout
    plain = shape.network(vocabulary)
    stack = plain.cell.cell
    trained: list[Cell] = []
    sizes = [shape.features] + [shape.hidden] * shape.layers
    if shape.tied:
        sizes[-1] = shape.features
    for layer, cell in enumerate(stack.cells):  # type: ignore[arg-type]
        _start_(cell)
        first, last = layer == 0, layer == shape.layers - 1
        dropped = Dropped(
            cell,
            input=rates.features if first else 0.0,
            input_size=sizes[layer],
            state=rates.state,
            output=rates.output if last else rates.between,
            output_size=sizes[layer + 1],
        )
        weights = ("cell.weight_hh",)
        trained.append(WeightDropped(dropped, rates.weights, weights) if rates.weights else dropped)
    network = LanguageModel(vocabulary, shape.features, *trained, tied=shape.tied)
    network.cell.table, network.readout = plain.cell.table, plain.readout
    return network, plain


def _start_(cell: Cell) -> None:
    """Orthogonal recurrent matrices and an open keeping gate, where the cell has them."""
    if getattr(cell, "weight_hh", None) is not None:
        orthogonal_recurrent_(cell)
    if getattr(cell, "keeps", None) is not None:
        forget_bias_(cell, 1.0)


def products(bf16: bool) -> torch.autocast:
    """The context in which matrices are multiplied in bfloat16, the state staying float32. (A Fabric of
    precision "bf16-mixed" would round the state of every chunk as well.)"""
    return torch.autocast("cpu", torch.bfloat16, enabled=bf16)


def frequencies_(readout: nn.Linear, ids: np.ndarray) -> None:
    """Start a read-out at how often each token stands in the first `COUNTED` of a text.

        b_k = log((count_k + 1/2) / (count + vocabulary / 2))

    Without it, the first hundred steps of a run are spent on learning these.
    """
    counts = np.bincount(ids[:COUNTED], minlength=readout.out_features) + 0.5
    with torch.no_grad():
        readout.bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))


def text_loss(model: nn.Module, chunk: TextChunk, carry: Carry, *, bf16: bool = False) -> Loss:
    """Cross-entropy in nats a token; the state goes on from the last chunk, under new dropout masks."""
    start = model.cell.initial_state(  # type: ignore[operator, union-attr]
        chunk.ids.shape[0], device=chunk.ids.device, dtype=torch.float32
    )
    with products(bf16):
        logits, end = model(chunk.ids, redrawn(start, carried(start, carry)))
    return Loss(F.cross_entropy(logits.float().flatten(0, 1), chunk.targets.flatten()), carry=end)


@dataclass
class Run:
    """A training of a text model, ready to go: iterate over `records()`, then take `model()`."""

    recipe: Recipe
    corpus: Corpus
    state: TrainState
    plain: LanguageModel
    evaluation: Evaluation
    checkpoints: Checkpoints | None
    fabric: Fabric
    bf16: bool

    def records(self, report_every: int = 20) -> Iterator[Record]:
        return fit(
            self.state,
            partial(text_loss, bf16=self.bf16),
            Steps(self.recipe.steps),
            schedule=warmup_cosine(0.05),
            fabric=self.fabric,
            report_every=report_every,
            evaluation=self.evaluation,
            checkpoints=self.checkpoints,
        )

    def averaged(self) -> TextModel:
        """The model with the weights as they are: within an evaluation, the averaged ones."""
        return TextModel(self.recipe.shape, self.corpus.unit, self.plain)

    def model(self) -> TextModel:
        """The model that was best on the validation part, with averaged weights."""
        best = None if self.checkpoints is None else self.checkpoints.folder / "best.safetensors"
        if best is not None and best.exists():
            self.plain.load_state_dict(load_file(best))
        elif self.state.average is not None:
            self.state.average.copy_to(self.state.model)
        return self.averaged()

    def validation(self) -> tuple[float, int]:
        """Nats a character of the model as it is over the validation part; and the tokens that were read:
        all of them, but of a large text no more than a sixteenth of what training has read."""
        read = self.state.step * self.recipe.rows * self.recipe.length
        ids = self.corpus.ids("validation")[: max(MEASURED, read // 16)]
        with products(self.bf16):
            nats = mean_nats(self.plain.eval(), ids, self.corpus.ids("training"))
        return nats * _tokens_a_character(self.corpus), len(ids)


def prepare(
    recipe: Recipe,
    corpus: Corpus,
    *,
    seed: int = 0,
    checkpoints: Path | None = None,
    fabric: Fabric | None = None,
    bf16: bool = False,
) -> Run:
    """A run of a recipe on a corpus; the same seed gives the same bits on the same machine. With a folder
    for checkpoints an interrupted run is taken up again, and `model()` is the best one measured. `bf16`:
    matrices are multiplied in bfloat16, see `products`.

    Raises InputError for a rate that is not a positive number.
    """
    check_rate(recipe.rate)
    fabric = Fabric(accelerator="cpu", devices=1) if fabric is None else fabric
    torch.manual_seed(seed)
    network, plain = text_network(recipe, corpus.unit.size)
    training = corpus.ids("training")
    frequencies_(plain.readout, training)
    state = TrainState(
        network,
        optimiser_for(network, recipe),
        TextStreams(training, recipe.rows, recipe.length),
        average=Average(network, recipe.average),
    )
    every = max(1, -(-recipe.steps // recipe.measurements))
    # Reading is a third of the work of training on it: so measuring takes no more than 2 % of the time.
    most = max(8192, every * recipe.rows * recipe.length // 16)
    part = corpus.ids("validation")[:most]
    ratio = _tokens_a_character(corpus)

    def measure(model: nn.Module) -> dict[str, float]:
        with products(bf16):
            nats = mean_nats(model, part, training) * ratio
        better = all(nats < entry["nats_per_character"] for entry in state.history)
        if better and checkpoints is not None:
            _save_best(plain, checkpoints)
        return {"nats_per_character": nats, "bits_per_character": nats / math.log(2)}

    return Run(
        recipe,
        corpus,
        state,
        plain,
        Evaluation(measure, every, no_better(recipe.patience)),
        None if checkpoints is None else Checkpoints(checkpoints, min(every, KEPT)),
        fabric,
        bf16,
    )


def check_rate(rate: float) -> None:
    """Raises InputError for a learning rate that is not a positive number."""
    if not 0 < rate < math.inf:
        refuse("train text", f"rate is {rate}; it must be a positive number")


def optimiser_for(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    matrices = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.99), fused=True)


def no_better(patience: int) -> Callable[[History], bool]:
    """Early stop: true once the last `patience` measurements are no better than the best before them.

    >>> history = [{"nats_per_character": x} for x in (2.0, 1.5, 1.6, 1.7)]
    >>> no_better(2)(history), no_better(2)(history[:3]), no_better(3)(history)
    (True, False, False)
    """

    def enough(history: History) -> bool:
        values = [entry["nats_per_character"] for entry in history]
        return len(values) > patience and min(values[-patience:]) >= min(values[:-patience])

    return enough


def seconds_a_step(recipe: Recipe, corpus: Corpus, *, bf16: bool, seconds: float = 3.0) -> float:
    """The time of a training step, measured on a network that is thrown away: at least eight steps of it."""
    run = prepare(recipe, corpus, bf16=bf16)
    running, loss = set_up(run.state, run.fabric), partial(text_loss, bf16=bf16)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 11 or (time.perf_counter() - began < seconds and len(times) < 200):
        before = time.perf_counter()
        train_step(run.state, run.state.source.draw(), loss, running, factor=1e-3)
        times.append(time.perf_counter() - before)
    return float(np.mean(times[3:]))


def _save_best(plain: nn.Module, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / ".best.safetensors"
    save_file({name: t.detach().cpu().clone() for name, t in plain.state_dict().items()}, aside)
    aside.replace(folder / "best.safetensors")


def _tokens_a_character(corpus: Corpus) -> float:
    return corpus.validation.tokens / max(1, corpus.validation.characters)
