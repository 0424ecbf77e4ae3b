"""Reading before judging: the table and GRU of a Buzzometer trained as language models, both ways at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.buzzometer import Buzzometer, Shape
from nextstate.checks import refuse
from nextstate.engines.registry import has_bf16
from nextstate.networks.document_classifier import DocumentClassifier, Pieces, cut
from nextstate.recipes.buzz import Recipe
from nextstate.tasks.buzz.calibration import Temperature
from nextstate.tasks.buzz.examples import Batches
from nextstate.tasks.buzz.vectors import word_vectors
from nextstate.tasks.buzz.words import Words
from nextstate.training import Checkpoints, Indexed, Loss, Record, Steps, TrainState, fit, warmup_cosine
from nextstate.training.step import Carry

TOLD = 0.35
"""Share of the places whose word is told, each way."""


class TwoWays(nn.Module):
    """Two language models that share a table: one reads on and tells the next word, one back and the last.

    TwoWays : (Pieces, kept) -> (told, words)

        h_t       = P v_t,    v_t the forward outputs before the word, or the backward ones after it
        p(word)   ~ exp(table[word] . h_t + bias[word])

    Each word that has a neighbour is told, each way, with the odds kept[word].
    Shapes: kept [vocabulary], told (the h_t) [N, features], words [N].
    """

    def __init__(self, network: DocumentClassifier, hidden: int) -> None:
        super().__init__()
        self.network, self.hidden = network, hidden
        features = network.table.shape[1]
        self.forward_out = nn.Linear(hidden, features)
        self.backward_out = nn.Linear(hidden, features)
        self.bias = nn.Parameter(torch.zeros(len(network.table)))

    def forward(self, pieces: Pieces, kept: Tensor) -> tuple[Tensor, Tensor]:
        vs = self.network.read(self.network.look_up(pieces), pieces.lengths)
        paired = torch.arange(1, len(vs), device=vs.device)[:, None] < pieces.lengths
        told, words = [], []
        for out, outputs, ids in (
            (self.forward_out, vs[:-1, :, : self.hidden], pieces.ids[1:]),
            (self.backward_out, vs[1:, :, self.hidden :], pieces.ids[:-1]),
        ):
            chosen = paired & (torch.rand(ids.shape, device=vs.device) < kept[ids])
            told.append(out(outputs[chosen]))
            words.append(ids[chosen])
        return torch.cat(told), torch.cat(words)


def kept_shares(counts: np.ndarray, share: float) -> np.ndarray:
    """How often each word is worth telling: a `share` of all places in all, frequent words far less often.

        kept(w) = min(1, sqrt(t / count(w))),   t such that  sum count(w) kept(w) = share sum count(w)

    Function words take most places of a text and say little of what it is about. Words that do not occur
    are kept. Shapes: counts [V] -> [V] float64. Raises InputError for a share outside (0, 1].
    Source: Mikolov et al. 2013 (arXiv 1310.4546), subsampling; Johnson and Zhang 2016 (arXiv 1602.02373)
    leave function words out.

    >>> kept_shares(np.array([16, 4, 0, 1]), share=7 / 21)
    array([0.25, 0.5 , 1.  , 1.  ])
    """
    if not 0 < share <= 1:
        refuse("kept_shares", f"share is {share}; expected more than 0 and at most 1")
    low, high = 0.0, float(counts.max())
    for _ in range(100):
        middle = (low + high) / 2
        kept = np.minimum(1, np.sqrt(middle / np.maximum(counts, 1)))
        low, high = (low, middle) if (counts * kept).sum() > share * counts.sum() else (middle, high)
    return np.where(counts > 0, kept, 1)


def sampled_loss(
    model: nn.Module, pieces: Pieces, carry: Carry, *, kept: Tensor, odds: Tensor, samples: int
) -> Loss:
    """Cross-entropy in nats a word against `samples` other words, where a word is told with odds `kept`.

        q(w)  = (count(w) kept(w))^0.75 / sum;   logit'(w) = logit(w) - log q(w)

    Source: Jean et al. 2015 (arXiv 1412.2007); one set of other words for the batch.
    """
    two = cast(TwoWays, getattr(model, "module", model))
    told, words = two(pieces, kept)
    if not len(words):
        return Loss(two.bias.sum() * 0)
    others = torch.multinomial(odds, samples, replacement=True)
    table = two.network.table
    scale = odds.clamp(min=1e-12).log()
    right = (told * F.embedding(words, table)).sum(-1) + (two.bias - scale)[words]
    wrong = told @ F.embedding(others, table).T + (two.bias - scale)[others]
    wrong = wrong.masked_fill(others == words[:, None], -torch.inf)
    loss = (torch.cat([right[:, None], wrong], 1).logsumexp(1) - right).mean()
    return Loss(loss)


@dataclass
class Pretraining:
    """A pre-training ready to go: iterate over `records()`, then take `start()`."""

    recipe: Recipe
    words: Words
    state: TrainState
    plan: Steps
    kept: Tensor
    odds: Tensor
    checkpoints: Checkpoints | None

    def records(self) -> Iterator[Record]:
        return fit(
            self.state,
            partial(sampled_loss, kept=self.kept, odds=self.odds, samples=512),
            self.plan,
            schedule=warmup_cosine(0.05),
            checkpoints=self.checkpoints,
        )

    def start(self, labels: Sequence[str] = ("negative", "positive")) -> Buzzometer:
        """A model whose table and GRU have read, and whose read-out knows nothing yet."""
        two = self.state.model
        assert isinstance(two, TwoWays)
        two.network.products = torch.float32
        shape = Shape(
            self.recipe.features, self.recipe.hidden, tuple(labels), self.recipe.piece, Temperature()
        )
        return Buzzometer(two.network.cpu(), self.words, shape)


def prepare_reading(
    recipe: Recipe,
    words: Words,
    texts: Sequence[np.ndarray],
    classes: int,
    *,
    seed: int = 0,
    epochs: float = 1.0,
    steps: int | None = None,
    checkpoints: Checkpoints | None = None,
) -> Pretraining:
    """A run over texts as ids; the same seed and steps give the same bits on the same machine."""
    if not texts:
        refuse("train buzz", "there are no texts to learn the language from")
    torch.manual_seed(seed)
    network = DocumentClassifier(
        len(words),
        recipe.features,
        recipe.hidden,
        classes,
        drop_words=recipe.drop_words,
        drop_features=recipe.drop_features / 2,
        drop_pooled=recipe.drop_pooled,
    )
    vectors = word_vectors(texts, len(words), recipe.features, seed=seed)
    with torch.no_grad():
        known = vectors.abs().sum(1) > 0
        network.table[known] = recipe.scale * vectors[known]
    if recipe.half and has_bf16():
        network.products = torch.bfloat16
    counts = np.bincount(np.concatenate(texts), minlength=len(words)).astype(np.float64)
    kept = kept_shares(counts, TOLD)
    odds = (counts * kept) ** 0.75
    batches = Batches([len(ids) for ids in texts], recipe.batch, seed, words=recipe.words)
    two = TwoWays(network, recipe.hidden)
    optimiser = torch.optim.AdamW(
        two.parameters(), lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    source = Indexed(lambda number: cut([texts[place] for place in batches(number)], recipe.piece))
    total = max(1, round(epochs * len(batches))) if steps is None else steps
    return Pretraining(
        recipe,
        words,
        TrainState(two, optimiser, source),
        Steps(total),
        torch.from_numpy(kept).float(),
        torch.from_numpy(odds / odds.sum()).float(),
        checkpoints,
    )
