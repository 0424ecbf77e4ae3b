"""The next token of a text, scored and drawn."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.cell import Cell
from nextstate.checks import describe, refuse
from nextstate.combine import Embedded, Stacked
from nextstate.lengths import check_lengths, valid_steps
from nextstate.networks.ids import time_first
from nextstate.networks.sampling import Sampling
from nextstate.run import fold, scan
from nextstate.states import Tree


class LanguageModel(nn.Module):
    """A table, stacked cells and a read-out that score the next token.

    LanguageModel : ([id], s0) -> ([logits], sT)

        (v_t, s) = cells(table[id_t], s)
        logits_t = A v_t + b                  A = table where `tied`

    Shapes: ids [batch, time] below `vocabulary`, table [vocabulary, features], logits
    [batch, time, vocabulary]; lengths [batch], zeros allowed. The first cell takes [B, features]; with
    `tied` the last must give [B, features] too. The state is a tuple, one part a cell.

    A long text is read in chunks that hand their state on; `tree_map(torch.Tensor.detach, sT)` from
    `nextstate.states` stops the gradient between two chunks.

    Raises InputError for ids that are not integers [batch, time] or not in the vocabulary, and for bad
    lengths. Source: Mikolov et al. 2010; tied weights: Press and Wolf 2017 (arXiv 1608.05859).

    >>> from nextstate import LSTM
    >>> model = LanguageModel(11, 8, LSTM(8, 16), LSTM(16, 8), tied=True)
    >>> logits, state = model(torch.randint(11, (3, 5)))
    >>> logits.shape
    torch.Size([3, 5, 11])
    """

    def __init__(self, vocabulary: int, features: int, *cells: Cell, tied: bool = False) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.cell = Embedded(Stacked(*cells), vocabulary, features)
        with torch.no_grad():
            v, _ = fold(self.cell, torch.zeros(1, 1, dtype=torch.int64), engine="reference")
        self.readout = nn.Linear(v.shape[-1], vocabulary)
        if tied:
            if v.shape[-1] != features:
                refuse("LanguageModel", f"tied weights need outputs [B, {features}], got [B, {v.shape[-1]}]")
            nn.init.uniform_(self.cell.table, -(features**-0.5), features**-0.5)
            self.readout.weight = self.cell.table

    def forward(
        self, ids: Tensor, s0: Tree | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tree]:
        us = time_first("LanguageModel", ids, self.vocabulary, lengths)
        vs, end = scan(self.cell, us, s0, lengths=lengths)
        return self.readout(vs.transpose(0, 1)), end

    def loss(
        self, ids: Tensor, targets: Tensor, s0: Tree | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tree]:
        """Cross-entropy of a chunk in nats, the mean over its tokens (0 if there are none), and its state.

        loss : ([id], [target], s0) -> (nats, sT);  targets [batch, time] is the text one step later.

        >>> from nextstate import GRU
        >>> model, text = LanguageModel(7, 4, GRU(4, 6)), torch.randint(7, (2, 9))
        >>> first, state = model.loss(text[:, :4], text[:, 1:5])
        >>> second, state = model.loss(text[:, 4:8], text[:, 5:9], state)
        >>> whole, _ = model.loss(text[:, :8], text[:, 1:9])
        >>> torch.allclose((first + second) / 2, whole)
        True
        """
        scores, end = self.scores(ids, targets, s0, lengths)
        count = scores.numel() if lengths is None else int(lengths.sum())
        return -scores.sum() / max(1, count), end

    def log_probabilities(self, ids: Tensor, s0: Tree | None = None, lengths: Tensor | None = None) -> Tensor:
        """log p(id_t | id_0 .. id_(t-1)) in nats for t = 1, 2, ...: [batch, time - 1], zeros in padding.

        >>> from nextstate import GRU
        >>> LanguageModel(7, 4, GRU(4, 6)).log_probabilities(torch.randint(7, (2, 9))).shape
        torch.Size([2, 8])
        """
        time_first("LanguageModel", ids, self.vocabulary, lengths)
        shorter = None if lengths is None else (lengths - 1).clamp(min=0)
        scores, _ = self.scores(ids[:, :-1], ids[:, 1:], s0, shorter)
        return scores

    def generate(
        self,
        prompt: Tensor,
        lengths: Tensor | None = None,
        s0: Tree | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Iterator[Tensor]:
        """Write on after a prompt, without end: each item is the next id of every row, [batch].

        generate : [id] -> id, id, ...;  each is drawn with p ~ exp(logits / temperature), or is the most
        likely one at temperature 0; top_k and top_p leave out the unlikely, see
        `nextstate.networks.Sampling`. `generator` makes the draws repeatable.

        Raises InputError for a row without a prompt, temperature < 0, top_k < 1 or top_p outside 0 < p <= 1.

        >>> from itertools import islice
        >>> from nextstate import GRU
        >>> model = LanguageModel(7, 4, GRU(4, 6))
        >>> torch.stack(list(islice(model.generate(torch.tensor([[1, 2]])), 5)), 1).shape
        torch.Size([1, 5])
        """
        us = time_first("LanguageModel.generate", prompt, self.vocabulary, lengths)
        if us.shape[0] == 0 or (lengths is not None and bool((lengths < 1).any())):
            refuse("LanguageModel.generate", f"prompt {tuple(prompt.shape)} has a row without tokens")
        sampling = Sampling(temperature, top_k, top_p, generator)
        return self._write(us, lengths, s0, sampling)

    @torch.no_grad()
    def _write(
        self, us: Tensor, lengths: Tensor | None, s: Tree | None, sampling: Sampling
    ) -> Iterator[Tensor]:
        v, s = fold(self.cell, us, s, lengths=lengths)
        while True:
            ids = sampling(self.readout(v))
            yield ids
            v, s = fold(self.cell, ids.unsqueeze(0), s)

    def scores(
        self, ids: Tensor, targets: Tensor, s0: Tree | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tree]:
        """log p of every target in nats, [batch, time], zeros in padding; and the state after the chunk."""
        if not isinstance(ids, Tensor) or not isinstance(targets, Tensor) or targets.shape != ids.shape:
            refuse("LanguageModel", f"ids {describe(ids)} and targets {describe(targets)} differ in shape")
        targets = time_first("LanguageModel", targets, self.vocabulary, lengths).T.long()
        logits, end = self(ids, s0, lengths)
        scores = -F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        scores = scores.reshape(targets.shape)
        lengths = check_lengths("LanguageModel", lengths, ids.shape[1], ids.shape[0], ids.device)
        if lengths is not None:
            scores = scores.where(valid_steps(lengths, ids.shape[1]).T, 0)
        return scores, end
