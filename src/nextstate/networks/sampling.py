"""Drawing a token from scores: temperature, the k most likely, the most likely that make up p."""

from __future__ import annotations

import torch
from torch import Tensor

from nextstate.checks import refuse


class Sampling:
    """How the next token is drawn from logits.

    Sampling : [B, vocabulary] -> [B]

        q ~ exp(logits / temperature), the most likely token at temperature 0
        top_k: only the k most likely tokens;  top_p: only the fewest most likely that have together >= p

    top_k is applied first; tokens as likely as the k-th stay. What is left is scaled to 1.
    `generator` makes the draws repeatable.

    Raises InputError for temperature < 0, top_k < 1, or top_p outside 0 < p <= 1.
    Source for top_p: Holtzman et al. 2020 (arXiv 1904.09751).

    >>> logits = torch.tensor([[0.0, 3.0, 1.0, 2.0]])
    >>> Sampling(temperature=0)(logits).item(), Sampling(top_k=1)(logits).item()
    (1, 1)
    >>> sorted({Sampling(top_p=0.7)(logits).item() for _ in range(50)})
    [1, 3]
    """

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if not isinstance(temperature, int | float) or not temperature >= 0:
            refuse("generate", f"temperature is {temperature!r}; expected a number >= 0")
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            refuse("generate", f"top_k is {top_k!r}; expected an integer >= 1")
        if top_p is not None and (not isinstance(top_p, int | float) or not 0 < top_p <= 1):
            refuse("generate", f"top_p is {top_p!r}; expected a probability, 0 < top_p <= 1")
        self.temperature, self.top_k, self.top_p, self.generator = temperature, top_k, top_p, generator

    def __call__(self, logits: Tensor) -> Tensor:
        if self.temperature == 0:
            return logits.argmax(-1)
        probabilities = self.probabilities(logits)
        return torch.multinomial(probabilities, 1, generator=self.generator).squeeze(1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """What is drawn from, [B, vocabulary]; its rows sum to 1. For a temperature above 0."""
        # The largest becomes 0, so that no temperature, however low, makes an infinity of it.
        logits = (logits - logits.amax(-1, keepdim=True)) / max(self.temperature, 1e-30)
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, -1).values[..., -1:]
            logits = logits.where(logits >= least, -torch.inf)
        q = logits.softmax(-1)
        if self.top_p is None:
            return q
        ordered, order = q.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        kept = torch.zeros_like(q).scatter(-1, order, ordered.where(before < self.top_p, 0))
        return kept / kept.sum(-1, keepdim=True)
