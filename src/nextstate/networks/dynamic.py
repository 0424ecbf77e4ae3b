"""Scoring a text that comes in pieces: with the weights as they are, or with weights that follow it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from nextstate.checks import refuse
from nextstate.networks.language_model import LanguageModel
from nextstate.states import Tree, tree_map


class Scorer:
    """log p of the tokens of one text, piece by piece; the state is carried.

    Scorer : LanguageModel => object with [id] -> [score]

    Shapes: ids [n + 1], the first of which is the last of the piece before; scores [n] in nats.

    >>> from nextstate import GRU
    >>> model, text = LanguageModel(7, 4, GRU(4, 6)), torch.randint(7, (9,))
    >>> scorer = Scorer(model)
    >>> parts = torch.cat([scorer(text[:5]), scorer(text[4:])])
    >>> torch.allclose(parts, model.log_probabilities(text[None])[0])
    True
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.state: Tree | None = None

    @torch.no_grad()
    def __call__(self, ids: Tensor) -> Tensor:
        scores, self.state = self.model.scores(ids[None, :-1], ids[None, 1:], self.state)
        return scores[0]


class DynamicScorer:
    """Dynamic evaluation: a model that goes on learning from the text on which it has just been scored.

    DynamicScorer : LanguageModel => object with [id] -> [score]

        score `length` tokens with w_k;   g = gradient of their mean loss;   v = running mean of g^2
        w_(k+1) = w_k - rate g / (sqrt(v) + e) + decay (w_0 - w_k)

    A token is scored before anything is learned from it, so these are probabilities like any others: of a
    model that adapts. Works on a copy; `model` stays as it is. Shapes as in `Scorer`.

    Raises InputError for rate < 0, decay outside 0..1 or length < 1.
    Source: Krause et al. 2018 (arXiv 1709.07432); squared gradients are of this text, not the training text.

    >>> from nextstate import GRU
    >>> scorer = DynamicScorer(LanguageModel(7, 4, GRU(4, 6)), length=5)
    >>> scorer(torch.randint(7, (9,))).shape
    torch.Size([8])
    """

    def __init__(
        self, model: LanguageModel, *, rate: float = 2e-4, decay: float = 2e-3, length: int = 64
    ) -> None:
        if not rate >= 0 or not 0 <= decay <= 1 or length < 1:
            refuse(
                "DynamicScorer",
                f"rate {rate}, decay {decay}, length {length}; "
                "expected rate >= 0, 0 <= decay <= 1, length >= 1",
            )
        self.model = copy.deepcopy(model).eval().requires_grad_(True)
        self.decay, self.length = decay, length
        self.state: Tree | None = None
        self.weights: list[Tensor] = list(self.model.parameters())
        self.start = [p.detach().clone() for p in self.weights]
        self.optimiser = torch.optim.Adam(
            self.weights, lr=rate, betas=(0.0, 0.999), fused=all(p.is_cpu for p in self.weights)
        )

    def __call__(self, ids: Tensor) -> Tensor:
        parts = [
            self._learn(ids[None, begin : begin + self.length + 1])
            for begin in range(0, len(ids) - 1, self.length)
        ]
        return torch.cat([ids.new_zeros(0, dtype=torch.float32), *parts])

    @torch.enable_grad()
    def _learn(self, ids: Tensor) -> Tensor:
        scores, end = self.model.scores(ids[:, :-1], ids[:, 1:], self.state)
        self.optimiser.zero_grad(set_to_none=True)
        (-scores.mean()).backward()
        self.state = tree_map(Tensor.detach, end)
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.weights, self.start, self.decay)
        return scores.detach()[0]
