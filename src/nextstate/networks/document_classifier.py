"""One label for a text of any length: cut into pieces that are read side by side, pooled as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.cells import GRU
from nextstate.cells.parameters import check_sizes
from nextstate.checks import refuse
from nextstate.lengths import valid_steps
from nextstate.networks.bidirectional import Bidirectional

Ids = Sequence[int] | np.ndarray
"""The ids of one text."""


class Pieces(NamedTuple):
    """Texts cut into pieces of about equal length: what one pass of a network reads.

    Shapes: ids [T, R] (time first, one column a piece), lengths [R], owner [R] the number of the text that a
    piece belongs to, documents the number of texts.
    """

    ids: Tensor
    lengths: Tensor
    owner: Tensor
    documents: int


def cut(texts: Sequence[Ids], size: int) -> Pieces:
    """Cut every text into the fewest pieces of at most `size` ids, as equal in length as can be.

    cut : [[id]] -> Pieces;  a text without ids is one piece of length 0

    >>> pieces = cut([[1, 2, 3, 4, 5], [], [6]], size=3)
    >>> pieces.ids.T.tolist(), pieces.lengths.tolist(), pieces.owner.tolist()
    ([[1, 2, 3], [4, 5, 0], [0, 0, 0], [6, 0, 0]], [3, 2, 0, 1], [0, 0, 1, 2])
    """
    if size < 1:
        refuse("cut", f"size is {size}; a piece holds at least one id")
    parts = [np.asarray(text, dtype=np.int64) for text in texts]
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    counts = np.maximum(1, -(-lengths // size))
    owner = np.repeat(np.arange(len(parts)), counts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)  # of a piece in its text
    begins, ends = (-(-lengths[owner] * k // counts[owner]) for k in (number, number + 1))
    flat = np.concatenate([*parts, np.zeros(1, dtype=np.int64)])  # the last one is padding
    sizes = ends - begins
    step = np.arange(sizes.max(initial=0))[:, None]
    place = (np.cumsum(lengths) - lengths)[owner] + begins + step
    ids = flat[np.where(step < sizes, place, -1)]
    return Pieces(torch.from_numpy(ids), torch.from_numpy(sizes), torch.from_numpy(owner), len(parts))


class Pooled(NamedTuple):
    """What is known of texts after reading: the largest value and the sum of every feature, the steps read.

    Shapes: largest [D, F], total [D, F], steps [D]. Empty texts have zeros.
    """

    largest: Tensor
    total: Tensor
    steps: Tensor


class DocumentClassifier(nn.Module):
    """A table, a bidirectional GRU over pieces, features of both sides pooled over the text, a read-out.

    DocumentClassifier : Pieces -> logits

        us     = table[ids]
        vs     = [forward, backward](us)                  in each piece
        zs     = relu(C [vs, us] + c)                     what a word is in what stands before and behind it
        pooled = [max zs, mean zs]                        over all steps of all pieces of a text
        logits = A pooled + b

    Shapes: table [vocabulary, features], vs and zs [T, R, 2 hidden], C [2 hidden, 2 hidden + features],
    A [classes, 4 hidden], logits [D, classes].
    The table's row 0 is the padding, which a trained text may also hold in place of a word that was dropped.

    In training mode three noises are on: `drop_words`, the share of words read as padding; `drop_features`,
    the share of columns of the table that a text does not see (one mask a text); `drop_pooled`, ordinary
    dropout of what the read-out reads. `products`, an attribute, is the type in which the matrix products of
    every step are made: float32, or bfloat16 for speed in training (states stay in float32).

    A text's logits do not depend on the texts beside it. Pieces bound the steps that depend on each other,
    so that a long text is read as a batch; what a piece cannot see beyond its ends is the price.
    Source: Johnson and Zhang 2016 (arXiv 1602.02373), pooled LSTMs over pieces; Lai et al. 2015 (AAAI),
    features of both sides before pooling; Gal and Ghahramani 2016 (arXiv 1512.05287), one mask a text.

    >>> network = DocumentClassifier(vocabulary=50, features=8, hidden=6, classes=3).eval()
    >>> network(cut([[3, 4, 5, 6, 7], [], [9]], size=3)).shape
    torch.Size([3, 3])
    """

    def __init__(
        self,
        vocabulary: int,
        features: int,
        hidden: int,
        classes: int,
        *,
        drop_words: float = 0.1,
        drop_features: float = 0.3,
        drop_pooled: float = 0.5,
    ) -> None:
        super().__init__()
        check_sizes("DocumentClassifier", vocabulary, features, hidden, classes)
        self.table = nn.Parameter(0.1 * torch.randn(vocabulary, features))
        self.layer = Bidirectional(GRU(features, hidden), GRU(features, hidden))
        self.combination = nn.Linear(2 * hidden + features, 2 * hidden)
        self.readout = nn.Linear(4 * hidden, classes)
        self.drop_words, self.drop_features, self.drop_pooled = drop_words, drop_features, drop_pooled
        self.products = torch.float32

    def forward(self, pieces: Pieces) -> Tensor:
        return self.classify(self.pool(self.look_up(pieces), pieces))

    def look_up(self, pieces: Pieces) -> Tensor:
        """The rows of the table for every step [T, R, features], with the noise of training."""
        ids = pieces.ids
        if not self.training:
            return F.embedding(ids, self.table)
        if self.drop_words:
            ids = ids.masked_fill(torch.rand(ids.shape, device=ids.device) < self.drop_words, 0)
        us = F.embedding(ids, self.table)
        if self.drop_features:
            keep = 1 - self.drop_features
            masks = torch.rand(pieces.documents, us.shape[-1], device=us.device) < keep
            us = us * (masks.to(us) / keep)[pieces.owner]
        return us

    def read(self, us: Tensor, lengths: Tensor) -> Tensor:
        """The outputs of both directions at every step [T, R, 2 hidden]; zeros after each piece's end."""
        with self._products(us):
            vs, _ = self.layer(us, lengths=lengths)
        return vs.float()

    def pool(self, us: Tensor, pieces: Pieces) -> Pooled:
        """Read every piece and put those of a text together."""
        vs = self.read(us, pieces.lengths)
        with self._products(us):
            zs = self.combination(torch.cat([vs, us], -1)).relu().float()
        return join(*pool_pieces(zs, pieces.lengths), pieces)

    def _products(self, us: Tensor) -> torch.autocast:
        return torch.autocast(us.device.type, torch.bfloat16, enabled=self.products is torch.bfloat16)

    def classify(self, pooled: Pooled) -> Tensor:
        """The logits [D, classes] of texts that have been read."""
        mean = pooled.total / pooled.steps.clamp(min=1).unsqueeze(-1)
        both = torch.cat([pooled.largest, mean], -1)
        return self.readout(F.dropout(both, self.drop_pooled, self.training))


def pool_pieces(vs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """pool_pieces : (vs [T, R, F], lengths [R]) -> largest [R, F], total [R, F];  -inf and 0 without steps.

    >>> largest, total = pool_pieces(torch.tensor([[[-3.0], [0.0]], [[-2.0], [0.0]]]), torch.tensor([2, 0]))
    >>> largest.flatten().tolist(), total.flatten().tolist()
    ([-2.0, -inf], [-5.0, 0.0])
    """
    if not len(vs):
        return vs.new_full(vs.shape[1:], -torch.inf), vs.new_zeros(vs.shape[1:])
    valid = valid_steps(lengths, len(vs)).unsqueeze(-1)
    return vs.masked_fill(~valid, -torch.inf).amax(0), vs.where(valid, 0).sum(0)


def join(largest: Tensor, total: Tensor, pieces: Pieces) -> Pooled:
    """Put the pooled pieces [R, F] of each text together.

    >>> largest, total = torch.tensor([[1.0], [3.0], [-torch.inf]]), torch.tensor([[1.0], [4.0], [0.0]])
    >>> [part.flatten().tolist() for part in join(largest, total, cut([[7, 7, 7], []], size=2))]
    [[3.0, 0.0], [5.0, 0.0], [3.0, 0.0]]
    """
    shape, owner = (pieces.documents, largest.shape[1]), pieces.owner
    most = largest.new_full(shape, -torch.inf)
    most = most.scatter_reduce(0, owner.unsqueeze(-1).expand(-1, shape[1]), largest, "amax")
    steps = total.new_zeros(pieces.documents).index_add(0, owner, pieces.lengths.to(total))
    sums = total.new_zeros(shape).index_add(0, owner, total)
    return Pooled(most.where(steps.unsqueeze(-1) > 0, 0), sums, steps)
