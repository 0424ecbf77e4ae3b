"""Runs of one to three words as evidence by themselves: a linear model beside the network."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nextstate.checks import refuse

ODD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)
"""Odd multipliers of 64 bits: the product's upper bits depend on every bit of an id."""

MOST = 3
"""The longest run of words."""

AT_ONCE = 1024
"""Texts whose n-grams are held in memory together."""


@dataclass(frozen=True, slots=True)
class NGrams:
    """Weights of word n-grams, found by hashing: ids of a text -> logits.

    NGrams : [id] -> logits [C]

        logits = bias + sum of weights[hash(g)] over the distinct n-grams g of the text, n = 1 .. 3

    Shapes: weights [2^k, C], bias [C]. An n-gram counts once however often it occurs; different n-grams may
    share a row. Source: Wang and Manning 2012 (NB-SVM); hashing: Weinberger et al. 2009 (arXiv 0902.2206).

    >>> ngrams = fit_ngrams([[1, 2], [1, 3], [4, 2], [4, 3]], np.array([0, 1, 1, 0]), 2, rows=64)
    >>> ngrams.logits([[1, 2], [1, 3], []]).argmax(1).tolist()[:2]  # no single id says it, but the pair does
    [0, 1]
    """

    weights: Tensor
    bias: Tensor

    def logits(self, texts: Sequence[Sequence[int] | np.ndarray]) -> Tensor:
        """Logits [N, C] of texts given as ids."""
        parts = [self.bias.new_empty(0, len(self.bias))]
        for first in range(0, len(texts), AT_ONCE):
            found = [distinct(ids, len(self.weights)) for ids in texts[first : first + AT_ONCE]]
            begins = torch.from_numpy(np.cumsum([0, *map(len, found)], dtype=np.int32)[: len(found)])
            flat = torch.from_numpy(np.concatenate(found))
            parts.append(F.embedding_bag(flat, self.weights, begins, mode="sum") + self.bias)
        return torch.cat(parts)

    def scaled(self, factor: float) -> NGrams:
        return replace(self, weights=self.weights * factor, bias=self.bias * factor)

    def packed(self) -> dict[str, Tensor]:
        """Tensors to save: weights in 8 bits, sign(w) (|w| / most)^(1/2) in 127ths, one `most` a class."""
        most = self.weights.abs().amax(0).clamp(min=1e-8)
        root = (self.weights.abs() / most).sqrt() * self.weights.sign()
        return {
            "ngrams.weights": (127 * root).round().to(torch.int8),
            "ngrams.most": most,
            "ngrams.bias": self.bias.clone(),
        }

    @staticmethod
    def unpacked(tensors: dict[str, Tensor], classes: int) -> NGrams | None:
        """The n-grams among the tensors of a file, which are taken out; None if there are none.

        Raises InputError if their shapes do not go together or a number is not finite.
        """
        if "ngrams.weights" not in tensors:
            return None
        root, most, bias = (tensors.pop(f"ngrams.{name}").float() for name in ("weights", "most", "bias"))
        shapes = [list(part.shape) for part in (root, most, bias)]
        rows = len(root) if root.dim() else 0
        if not _power_of_two(rows) or shapes != [[rows, classes], [classes], [classes]]:
            refuse(
                "NGrams",
                f"weights, most and bias have the shapes {shapes}; expected [a power of two, {classes}], "
                f"[{classes}] and [{classes}]",
            )
        if not (most.isfinite().all() and bias.isfinite().all()):
            refuse("NGrams", f"most {most.tolist()}, bias {bias.tolist()}; expected finite numbers")
        root /= 127
        return NGrams(root * root.abs() * most, bias)

    def shares(self, ids: Sequence[int] | np.ndarray) -> Tensor:
        """What each id of a text adds to the logits [T, C]; an n-gram's weight is shared by all ids in it."""
        rows = places(ids, len(self.weights))
        _, inverse, counts = np.unique(rows, return_inverse=True, return_counts=True)
        values = self.weights[torch.from_numpy(rows)] / torch.from_numpy(counts[inverse]).unsqueeze(1)
        found, begin = self.weights.new_zeros(len(ids), self.weights.shape[1]), 0
        for n in range(1, MOST + 1):
            count = max(0, len(ids) - n + 1)
            for place in range(n):
                found[place : place + count] += values[begin : begin + count] / n
            begin += count
        return found


def places(ids: Sequence[int] | np.ndarray, rows: int) -> np.ndarray:
    """The row of every n-gram of a text, those of one word first: [T + (T - 1) + (T - 2)] int64.

    >>> a, b = places([7, 8], 64), places([8, 7], 64)
    >>> len(a), sorted(a[:2]) == sorted(b[:2]), bool(a[2] != b[2])
    (3, True, True)
    """
    with np.errstate(over="ignore"):
        once = np.asarray(ids, dtype=np.uint64) * np.uint64(ODD[0])
        found, run = [once], once
        for n in range(1, MOST):
            run = (run[:-1] ^ (once[n:] >> np.uint64(7)) * np.uint64(ODD[1])) * np.uint64(ODD[2])
            found.append(run)
    shift = np.uint64(64 - (rows.bit_length() - 1))
    return (np.concatenate(found) >> shift).astype(np.int64)


def distinct(ids: Sequence[int] | np.ndarray, rows: int) -> np.ndarray:
    """The rows of a text's distinct n-grams, sorted, int32.

    >>> distinct([7, 7, 7], 64).tolist() == sorted({*places([7, 7, 7], 64).tolist()})
    True
    """
    found = places(ids, rows).astype(np.int32)
    found.sort()
    return found[np.diff(found, prepend=-1) > 0]


def fit_ngrams(
    texts: Sequence[Sequence[int] | np.ndarray],
    labels: np.ndarray,
    classes: int,
    *,
    rows: int = 1 << 20,
    decay: float = 1.0,
    weights: Tensor | None = None,
    steps: int = 30,
) -> NGrams:
    """The n-grams' weights of labelled texts: naive Bayes, made better by logistic regression.

        r[g, c] = log(p_c(g) / p_not_c(g)),   p(g) the share of g among all n-grams, each count plus 1
        w[g, c] = r[g, c] v[g, c],   v the least of  sum of cross-entropies + decay / 2 |v|^2

    Shapes: labels [N] integers, or probabilities [N, C] float32, whose p_c(g) are expected counts; `weights`
    [C] of the classes in the cross-entropy; `rows` a power of two; `steps` iterations of L-BFGS at most.
    Memory: about 25 bytes an n-gram of a text, and about 25 numbers a weight.
    """
    if not _power_of_two(rows) or len(texts) != len(labels) or not len(texts):
        refuse(
            "fit_ngrams", f"{len(texts)} texts, {len(labels)} labels, {rows} rows; rows are a power of two"
        )
    matrix, across = _incidence([distinct(ids, rows) for ids in texts], rows)
    truth = torch.from_numpy(labels if labels.ndim == 2 else np.eye(classes, dtype=np.float32)[labels])
    counts = across @ truth
    inside, outside = 1 + counts, 1 + counts.sum(1, keepdim=True) - counts
    ratio = (inside / inside.sum(0)).log() - (outside / outside.sum(0)).log()
    v, bias = torch.zeros(rows, classes), torch.zeros(classes)
    search = torch.optim.LBFGS([v, bias], max_iter=steps, history_size=8, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        logits = (matrix @ (ratio * v) + bias).requires_grad_()
        loss = F.cross_entropy(logits, truth, weight=weights, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, logits)
        v.grad = ratio * (across @ gradient) + decay * v
        bias.grad = gradient.sum(0)
        return loss.detach() + decay / 2 * v.square().sum()

    search.step(closure)
    return NGrams(ratio * v, bias)


def _power_of_two(rows: int) -> bool:
    return rows > 1 and not rows & (rows - 1)


def _incidence(found: list[np.ndarray], rows: int) -> tuple[Tensor, Tensor]:
    """Which text has which n-gram: a sparse matrix [texts, rows] of ones, and its transpose."""
    counts = np.array([len(columns) for columns in found])
    columns = np.concatenate(found)
    pairs = columns.astype(np.int64) << 32  # (n-gram, text) in one number each, to be sorted
    pairs |= np.repeat(np.arange(len(found), dtype=np.int32), counts)
    pairs.sort()
    ends = np.searchsorted(pairs, np.arange(rows + 1) << 32)
    ones = torch.ones(len(columns))
    with warnings.catch_warnings():  # torch calls its compressed matrices a beta
        warnings.simplefilter("ignore", UserWarning)

        def sparse(begins: np.ndarray, places: np.ndarray, height: int, width: int) -> Tensor:
            parts = torch.from_numpy(begins.astype(np.int32)), torch.from_numpy(places)
            return torch.sparse_csr_tensor(*parts, ones, (height, width), check_invariants=False)

        matrix = sparse(np.concatenate([[0], np.cumsum(counts)]), columns, len(found), rows)
        return matrix, sparse(ends, pairs.astype(np.int32), rows, len(found))
