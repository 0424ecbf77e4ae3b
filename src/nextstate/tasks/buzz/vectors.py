"""Word vectors out of nothing but texts: what a word means is what stands near it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from nextstate.checks import refuse

AT_ONCE = 2_000_000
"""Pairs counted together."""


def word_vectors(
    texts: Iterable[Sequence[int] | np.ndarray],
    size: int,
    features: int,
    *,
    window: int = 5,
    contexts: int = 10_000,
    seed: int = 0,
) -> Tensor:
    """Vectors [size, features] of the ids of texts, by a truncated factorisation of their co-occurrences.

        M[w, c] = max(0, log(#(w, c) sum #c^0.75 / (#w #c^0.75)))      positive pointwise mutual information
        M       ~ U S V^T,  vector of w = row of U S^(1/2), scaled to unit variance over all entries

    A pair counts 1 / distance within `window`; only the `contexts` most frequent ids are contexts. Ids that
    do not occur have zeros. Source: Levy, Goldberg and Dagan 2015 (TACL 3), context smoothing 0.75;
    randomised factorisation: Halko et al. 2011.

    >>> texts = [[0, 1, 2], [0, 3, 2], [4, 5, 6], [4, 7, 6]] * 50  # 1 and 3 keep the same company
    >>> v = torch.nn.functional.normalize(word_vectors(texts, size=8, features=3), dim=1)
    >>> bool(v[1] @ v[3] > 0.9), bool(v[1] @ v[5] < 0.5)
    (True, True)
    """
    if size < 1 or features < 1 or window < 1:
        refuse("word_vectors", f"size {size}, features {features}, window {window}; each must be at least 1")
    arrays = [np.asarray(text, dtype=np.int64) for text in texts]
    gap = np.full(window, -1, dtype=np.int64)
    ids = np.concatenate([gap, *(part for array in arrays for part in (array, gap))])
    counts = np.bincount(ids[ids >= 0], minlength=size)
    place = np.full(size + 1, -1)  # of a context among the contexts; the last entry is that of a gap
    frequent = np.argsort(-counts, kind="stable")[: min(contexts, size)]
    place[frequent] = np.arange(len(frequent))
    keys, weights = _pairs(ids, place, len(frequent), window)
    rows, columns = keys // len(frequent), keys % len(frequent)
    by_word = np.bincount(rows, weights, minlength=size)
    by_context = np.bincount(columns, weights, minlength=len(frequent)) ** 0.75
    with np.errstate(divide="ignore"):
        information = np.log(weights * by_context.sum() / (by_word[rows] * by_context[columns]))
    kept = information > 0
    matrix = torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([rows[kept], columns[kept]])),
        torch.from_numpy(information[kept].astype(np.float32)),
        (size, len(frequent)),
        check_invariants=False,
    ).coalesce()
    left, spread = _factor(matrix, features, seed)
    vectors = left * spread.sqrt()
    found = torch.zeros(size, features)
    found[:, : vectors.shape[1]] = vectors / vectors.square().mean().sqrt().clamp(min=1e-12)
    return found


def _pairs(ids: np.ndarray, place: np.ndarray, contexts: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct (word, context) pairs as one number each, sorted, and their weights."""
    bits = window.bit_length()
    share = 1 / np.maximum(1, np.arange(1 << bits))
    sums: list[tuple[np.ndarray, np.ndarray]] = []  # each at most half as long as the one before
    step = max(1, AT_ONCE // window)
    for start in range(0, len(ids), step):
        found = []
        piece = ids[start : start + step + window]
        for distance in range(1, window + 1):
            first, second = piece[:-distance][:step], piece[distance:][:step]
            for word, context in ((first, second), (second, first)):
                column = place[context]
                good = (word >= 0) & (column >= 0)
                found.append((word[good] * contexts + column[good]) << bits | distance)
        told = np.sort(np.concatenate(found))  # by pair, then by distance
        sums.append(_summed(told >> bits, share[told & (1 << bits) - 1]))
        while len(sums) > 1 and len(sums[-2][0]) < 2 * len(sums[-1][0]):
            sums[-2:] = [_joined(*sums[-2:])]
    while len(sums) > 1:
        sums[-2:] = [_joined(*sums[-2:])]
    return sums[0]


def _joined(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    keys, weights = (np.concatenate(parts) for parts in zip(one, other, strict=True))
    order = np.argsort(keys, kind="stable")  # quick: two sorted runs
    return _summed(keys[order], weights[order])


def _summed(keys: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weights of equal keys, which stand side by side, in one sum each."""
    begins = np.flatnonzero(np.diff(keys, prepend=-1))
    sums = np.add.reduceat(weights, begins) if len(begins) else weights
    return keys[begins], sums.astype(np.float32)


def _factor(matrix: Tensor, features: int, seed: int) -> tuple[Tensor, Tensor]:
    """Left singular vectors and singular values of a sparse matrix, by three rounds of subspace iteration."""
    generator = torch.Generator().manual_seed(seed)
    width = min(features + 16, *matrix.shape)
    across = matrix.t().coalesce()
    basis = torch.randn(matrix.shape[1], width, generator=generator)
    for _ in range(3):
        basis, _ = torch.linalg.qr(across @ (matrix @ basis))
    image = matrix @ basis
    left, spread, _ = torch.linalg.svd(image, full_matrices=False)
    return left[:, :features], spread[:features]
