"""Training a Buzzometer: sizes, noise, adversarial loss and schedule, and the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.buzzometer import Buzzometer, Shape
from nextstate.checks import refuse
from nextstate.engines.registry import has_bf16
from nextstate.networks.document_classifier import DocumentClassifier, Pieces, cut
from nextstate.tasks.buzz.calibration import Temperature, fit_share, fit_temperature
from nextstate.tasks.buzz.examples import Batches, Examples
from nextstate.tasks.buzz.measure import Figures, figures
from nextstate.tasks.buzz.ngrams import NGrams, fit_ngrams
from nextstate.tasks.buzz.vectors import word_vectors
from nextstate.tasks.buzz.words import SPECIAL, Words
from nextstate.training import (
    Average,
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
from nextstate.training.step import Carry


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides how a Buzzometer comes out, but for the texts and the seed.

    `epochs` readings of all texts in batches of at most `batch` texts and about `words` words; AdamW with
    weight decay `decay`, peak learning rate `rate`, linear warm-up over the first twentieth, then a cosine to
    0; gradient clipped at norm 1; parameters averaged (`average`). Noise: see `DocumentClassifier`.
    `adversarial`: the length of the worst-case step away from a text's word vectors, in units of the mean
    length of a word's vector; the loss is the mean over the text as it is and as it is after that step
    (0 leaves it out). `balance`: classes weigh in the loss as 1 / frequency^balance.
    Word vectors begin with the root mean square `scale`; their learning rate is `table_rate` x `rate`.
    """

    features: int = 128
    hidden: int = 128
    piece: int = 100
    batch: int = 32
    words: int = 12000
    epochs: float = 6.0
    rate: float = 2e-3
    decay: float = 0.01
    drop_words: float = 0.1
    drop_features: float = 0.3
    drop_pooled: float = 0.5
    adversarial: float = 0.3
    balance: float = 0.25
    average: float = 0.998
    scale: float = 0.2
    table_rate: float = 1.0
    half: bool = True
    """Matrix products in bfloat16 where the processor has them."""
    ngrams: int = 1 << 20
    """Rows of the n-grams' weights at most, a power of two, and a quarter of their number over all classes;
    0 leaves the n-grams out."""


class Batch(NamedTuple):
    pieces: Pieces
    labels: Tensor


@dataclass
class Run:
    """A training ready to go: iterate over `records()`, then take `buzzometer()`."""

    recipe: Recipe
    words: Words
    labels: tuple[str, ...]
    ngrams: Examples
    held: Examples
    state: TrainState
    plan: Steps
    epoch: int
    """Steps in which every text is read once, the first time: others may take a few more or less."""
    loss: Any
    evaluation: Evaluation
    checkpoints: Checkpoints | None

    def records(self) -> Iterator[Record]:
        return fit(
            self.state,
            self.loss,
            self.plan,
            schedule=warmup_cosine(0.05),
            report_every=max(1, min(50, self.plan.total // 100)),
            evaluation=self.evaluation,
            checkpoints=self.checkpoints,
        )

    def buzzometer(self) -> Buzzometer:
        """The averaged network and the n-grams of the training texts, their share, their temperature and,
        where rare classes were not made more frequent, their bias fitted on the texts held back; without
        such texts the network alone."""
        network = self.state.model
        assert isinstance(network, DocumentClassifier)
        if self.state.average is not None:
            self.state.average.copy_to(network)
        network.products = torch.float32
        recipe = self.recipe
        shape = Shape(recipe.features, recipe.hidden, self.labels, recipe.piece, Temperature())
        raw = Buzzometer(network.cpu(), self.words, shape)
        if not len(self.held):
            return raw
        logits, lengths = raw.logits(self.held.ids)
        labels = torch.from_numpy(self.held.labels)
        if not recipe.ngrams:
            heat = fit_temperature(logits, lengths, labels)
            return Buzzometer(network, self.words, replace(shape, temperature=heat))
        ngrams = ngrams_of(recipe, self.ngrams, len(self.labels))
        others = ngrams.logits(self.held.ids)
        found = fit_share(logits, others, lengths, labels, biased=not recipe.balance)
        ngrams = ngrams.scaled(found.share)
        ngrams = replace(ngrams, bias=ngrams.bias + found.bias)
        return Buzzometer(network, self.words, replace(shape, temperature=found.temperature), ngrams)


def ngrams_of(recipe: Recipe, train: Examples, classes: int) -> NGrams:
    """The n-grams of labelled texts, in four to eight rows for each that occurs (a power of two, 16 at
    least), but no more rows than the recipe's, and no more weights than four for each of those."""
    most = 4 * 3 * sum(len(ids) for ids in train.ids)
    share = 4 * recipe.ngrams // classes
    rows = min(recipe.ngrams, 1 << max(4, most.bit_length()), 1 << max(1, share.bit_length() - 1))
    weights = class_weights(train.numbers, classes, recipe.balance)
    return fit_ngrams(train.ids, train.labels, classes, rows=rows, weights=weights)


def as_ids(words: Words, texts: Sequence[str], labels: Sequence[int]) -> Examples:
    """Texts with the number of their label, ready for training."""
    return Examples(
        [np.array(words.ids(text), dtype=np.int32) for text in texts], np.array(labels, dtype=np.int64)
    )


def prepare(
    recipe: Recipe,
    words: Words,
    labels: Sequence[str],
    train: Examples,
    held: Examples,
    *,
    seed: int = 0,
    steps: int | None = None,
    start: Buzzometer | None = None,
    vectors: Tensor | None = None,
    ngrams: Examples | None = None,
    checkpoints: Checkpoints | None = None,
    evaluations: int = 5,
) -> Run:
    """A run of a recipe. The same seed and steps give the same bits on the same machine.

    `held` are the texts on which progress is shown and the temperature is fitted. `start`, a model
    trained on other texts or labels, hands over its word vectors and GRU, and its read-out if there are as
    many classes; without it the table begins as `vectors` (made of the training texts if None). `ngrams`
    are the texts that the n-grams are fitted on (the training texts if None).
    """
    if not len(train) or len(labels) < 2:
        refuse("train buzz", f"there are {len(train)} texts with {len(labels)} labels; expected two or more")
    if not any(len(ids) for ids in train.ids):
        refuse("train buzz", f"none of the {len(train)} texts has a word")
    torch.manual_seed(seed)
    network = DocumentClassifier(
        len(words),
        recipe.features,
        recipe.hidden,
        len(labels),
        drop_words=recipe.drop_words,
        drop_features=recipe.drop_features,
        drop_pooled=recipe.drop_pooled,
    )
    if start is not None:
        adopt(network, words, start)
    else:
        if vectors is None:
            vectors = word_vectors(train.ids, len(words), recipe.features, seed=seed)
        with torch.no_grad():
            known = vectors.abs().sum(1) > 0
            network.table[known] = recipe.scale * vectors[known]
    if recipe.half and has_bf16():
        network.products = torch.bfloat16
    batches = Batches([len(ids) for ids in train.ids], recipe.batch, seed, words=recipe.words)
    weights = class_weights(train.numbers, len(labels), recipe.balance)
    total = max(1, round(recipe.epochs * len(batches))) if steps is None else steps

    def draw(number: int) -> Batch:
        places = batches(number)
        return Batch(
            cut([train.ids[place] for place in places], recipe.piece), torch.from_numpy(train.labels[places])
        )

    groups: list[dict[str, Any]] = [
        {"params": [network.table], "weight_decay": 0.0, "lr": recipe.rate * recipe.table_rate},
        {"params": [p for name, p in network.named_parameters() if name != "table"]},
    ]
    optimiser = torch.optim.AdamW(
        groups, lr=recipe.rate, betas=(0.9, 0.98), weight_decay=recipe.decay, fused=True
    )
    state = TrainState(network, optimiser, Indexed(draw), Average(network, recipe.average))
    every = max(1, -(-total // max(1, evaluations)))
    return Run(
        recipe,
        words,
        tuple(labels),
        train if ngrams is None else ngrams,
        held,
        state,
        Steps(total),
        len(batches),
        partial(adversarial_loss, size=recipe.adversarial, weights=weights),
        Evaluation(partial(measure_held, held=held, recipe=recipe), every),
        checkpoints,
    )


def adversarial_loss(model: nn.Module, batch: Batch, carry: Carry, *, size: float, weights: Tensor) -> Loss:
    """Cross-entropy of texts as they are, and of the same texts moved to where it hurts.

        L(x)  = cross-entropy(network(x), labels),   x the word vectors of a text
        r     = size |word| g / |g|,   g = grad_x L of one text,   |word| the mean length of a word vector
        value = (L(x) + L(x + r)) / 2

    The gradient of the first term is taken once, for x and the weights together, and enters the value as
    <g, parameter>: the loss costs two passes, not three. Source: Miyato et al. 2017 (arXiv 1605.07725).
    """
    network = cast(DocumentClassifier, getattr(model, "module", model))
    pieces, labels = batch
    us = network.look_up(pieces)
    if not size:
        logits = network.classify(network.pool(us, pieces))
        loss = F.cross_entropy(logits, labels, weight=weights)
        return Loss(loss, metrics={"accuracy": _right(logits, labels)})
    inner = [parameter for name, parameter in network.named_parameters() if name != "table"]
    place = us.detach().requires_grad_()
    logits = network.classify(network.pool(place, pieces))
    plain = F.cross_entropy(logits, labels, weight=weights)
    gradient, *others = torch.autograd.grad(plain, [place, *inner], materialize_grads=True)
    with torch.no_grad():
        squares = us.new_zeros(pieces.documents).index_add(0, pieces.owner, gradient.square().sum((0, 2)))
        words = pieces.lengths.sum().clamp(min=1)
        length = us.square().sum() / words  # mean square of a word vector's length
        step = (size * length.sqrt() / squares.sqrt().clamp(min=1e-12))[pieces.owner]
        moved = step.unsqueeze(-1) * gradient
    worst = F.cross_entropy(network.classify(network.pool(us + moved, pieces)), labels, weight=weights)
    first = (us * gradient).sum() + sum((p * g).sum() for p, g in zip(inner, others, strict=True))
    value = (worst + first + (plain.detach() - first.detach())) / 2
    return Loss(value, metrics={"accuracy": _right(logits, labels)})


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    """The share of texts whose label, or whose most probable one, has the largest logit."""
    numbers = labels if labels.dim() == 1 else labels.argmax(-1)
    return (logits.argmax(-1) == numbers).float().mean()


def class_weights(labels: np.ndarray, classes: int, balance: float) -> Tensor:
    """Weights 1 / frequency^balance of the classes, 1 on the average text; 1 for classes that do not occur.

    >>> class_weights(np.array([0, 0, 0, 1]), 2, 1.0).tolist()
    [0.666..., 2.0]
    """
    counts = torch.bincount(torch.from_numpy(labels), minlength=classes).double()
    raw = torch.where(counts > 0, (counts.sum() / counts.clamp(min=1)) ** balance, 1.0)
    return (raw * counts.sum() / (raw * counts).sum()).float()


@torch.no_grad()
def adopt(network: DocumentClassifier, words: Words, start: Buzzometer) -> None:
    """Take over what a trained model knows: every weight but a read-out of other classes, and every word.

    A word that the model does not hold gets the mean of the vectors by which the model would read it.
    Raises InputError for a model of other sizes.
    """
    old, units = start.network.table, network.combination.out_features // 2
    if old.shape[1] != network.table.shape[1]:
        refuse("train buzz", f"the model to start from has word vectors of length {old.shape[1]}")
    if start.shape.hidden != units:
        refuse("train buzz", f"the model to start from has {start.shape.hidden} units, the network {units}")
    new = network.state_dict()
    for name, tensor in start.network.state_dict().items():
        if name != "table" and new[name].shape == tensor.shape:
            new[name].copy_(tensor)
    shared = len(SPECIAL) + min(words.buckets, start.words.buckets)
    network.table[:shared] = old[:shared]
    begin = len(SPECIAL) + words.buckets
    for number, word in enumerate(words.words, begin):
        network.table[number] = old[start.words.ids(word)].mean(0)


def measure_held(model: nn.Module, *, held: Examples, recipe: Recipe) -> dict[str, float]:
    """Accuracy and cross-entropy on texts held back, without temperature."""
    if not len(held):
        return {}
    logits = raw_logits(model, held, recipe.piece)
    labels = torch.from_numpy(held.labels)
    right = (logits.argmax(-1) == labels).float().mean()
    return {"accuracy": float(right), "loss": float(F.cross_entropy(logits, labels))}


@torch.no_grad()
def raw_logits(model: nn.Module, texts: Examples, piece: int) -> Tensor:
    """Logits [N, C] of all texts, those of about equal length read together."""
    found: list[Tensor] = [torch.empty(0)] * len(texts)
    order = np.argsort([len(ids) for ids in texts.ids], kind="stable")
    for places in np.array_split(order, max(1, -(-len(order) // 64))):
        for place, row in zip(places, model(cut([texts.ids[p] for p in places], piece)), strict=True):
            found[place] = row
    return torch.stack(found)


def evaluate(buzzometer: Buzzometer, texts: Examples) -> Figures:
    """Figures of a model on labelled texts, with its temperature."""
    logits, lengths = buzzometer.logits(texts.ids)
    return figures(
        buzzometer.probabilities(logits, lengths), torch.from_numpy(texts.labels), buzzometer.labels
    )


def planned_steps(run: Run, minutes: float, trial: int = 40) -> int:
    """How many steps fit into the minutes, by the time some take on a copy; the run itself stays as it is.

    The first half of them is not counted: memory is new to them.
    """
    random = torch.get_rng_state()
    source = cast(Indexed, run.state.source)
    words = [int(source.batch(number).pieces.lengths.sum()) for number in range(50)]
    records = fit(deepcopy(run.state), run.loss, Steps(trial), report_every=1)
    spent = [1 / record.rate / max(1, words[record.step - 1]) for record in records][trial // 2 :]
    torch.set_rng_state(random)
    return max(1, int(60 * minutes / (1.06 * sorted(spent)[len(spent) // 2] * sum(words) / len(words))))
