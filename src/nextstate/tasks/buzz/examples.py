"""Labelled texts as ids: split by label, drawn in batches of about equal length, the same ones for a seed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from nextstate.checks import refuse


@dataclass(frozen=True, slots=True)
class Examples:
    """Texts as arrays of ids, and of each the number of its label, or the probability of every label.

    Shapes: labels [N] integers, or [N, C] float32.
    """

    ids: Sequence[np.ndarray]
    labels: np.ndarray

    @property
    def numbers(self) -> np.ndarray:
        """The number of each text's most probable label [N]."""
        return self.labels if self.labels.ndim == 1 else self.labels.argmax(1)

    def softened(self, classes: int) -> Examples:
        """The same with probabilities [N, classes], 0 or 1 where there were numbers."""
        if self.labels.ndim == 2:
            return self
        return Examples(self.ids, np.eye(classes, dtype=np.float32)[self.labels])

    def __len__(self) -> int:
        return len(self.labels)

    def chosen(self, places: Iterable[int]) -> Examples:
        places = list(places)
        return Examples([self.ids[place] for place in places], self.labels[places])

    def __add__(self, other: Examples) -> Examples:
        """Both, one behind the other. Raises InputError unless both have numbers, or as many classes."""
        if self.labels.shape[1:] != other.labels.shape[1:]:
            refuse(
                "Examples",
                f"labels {list(self.labels.shape)} and {list(other.labels.shape)} do not go together; "
                "make both `softened`",
            )
        return Examples([*self.ids, *other.ids], np.concatenate([self.labels, other.labels]))


def split(
    texts: Sequence[str],
    labels: Sequence[int],
    shares: Sequence[float],
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> list[list[int]]:
    """Places of the texts in parts of the given shares, the first part with the rest: stratified by label.

    Equal texts (but for blanks and case) stay in one part, and so do those of one of the `groups` (the film
    that a review is about, say; "" is none): what is learned of a group would make the other parts look easy.
    The shares are of what stays together. The same seed gives the same parts.

    >>> first, second = split(["a", "b", "c", "d", "A ", "e"], [0, 0, 1, 1, 0, 1], [0.34])
    >>> sorted(first + second), {0, 4} <= set(first) or {0, 4} <= set(second)
    ([0, 1, 2, 3, 4, 5], True)
    """
    if len(texts) != len(labels):
        refuse("split", f"there are {len(texts)} texts and {len(labels)} labels; expected as many of both")
    if not all(share >= 0 for share in shares) or sum(shares) >= 1:
        refuse("split", f"shares are {list(shares)}; expected shares of at least 0 whose sum is below 1")
    if groups is not None and len(groups) != len(texts):
        refuse("split", f"there are {len(texts)} texts and {len(groups)} groups; expected as many of both")
    by_label: dict[int, list[list[int]]] = {}
    for places in _together(texts, groups):
        by_label.setdefault(int(labels[places[0]]), []).append(places)
    random = np.random.default_rng([seed, 5])
    parts: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    for label in sorted(by_label):
        alike = by_label[label]
        order = random.permutation(len(alike))
        ends = np.round(np.cumsum([0.0, *shares]) * len(alike)).astype(int)
        for number, (begin, end) in enumerate(pairwise(ends), 1):
            parts[number] += [place for group in order[begin:end] for place in alike[group]]
        parts[0] += [place for group in order[ends[-1] :] for place in alike[group]]
    return [sorted(part) for part in parts]


def _together(texts: Sequence[str], groups: Sequence[str] | None) -> list[list[int]]:
    """The places of texts that are equal or of one group, in the order of each one's first (union-find)."""
    first: dict[tuple[str, str], int] = {}
    parent = list(range(len(texts)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for place, text in enumerate(texts):
        keys = [("text", " ".join(text.lower().split()))]
        keys += [("group", groups[place])] if groups is not None and groups[place] else []
        for key in keys:
            one, other = sorted((root(first.setdefault(key, place)), root(place)))
            parent[other] = one
    found: dict[int, list[int]] = {}
    for place in range(len(texts)):
        found.setdefault(root(place), []).append(place)
    return list(found.values())


class Batches:
    """Batch number n of endless epochs, a pure function of n: texts of about equal length together.

    Batches : n -> places of the texts [at most size]

    An epoch is a new order of all texts. Of every `pool` times `size` of them the sorted lengths are cut into
    batches of at most `size` texts and, but for single texts longer than that, at most `words` words; they
    come in random order. So there is little padding, no text has fixed company, and a step over long texts
    costs what a step over short ones does.

    >>> batches = Batches(lengths=[5, 1, 4, 2, 3], size=2, seed=0)
    >>> len(batches), sorted(place for n in range(3) for place in batches(n).tolist())
    (3, [0, 1, 2, 3, 4])
    >>> batches = Batches(lengths=[9, 1, 1, 1, 1], size=5, seed=0, words=9)
    >>> sorted(sorted(batches(n).tolist()) for n in range(2))
    [[0], [1, 2, 3, 4]]
    """

    def __init__(
        self, lengths: Sequence[int], size: int, seed: int, pool: int = 50, words: int | None = None
    ) -> None:
        if size < 1 or not len(lengths) or (words is not None and words < 1):
            refuse("Batches", f"{len(lengths)} texts in batches of {size} and {words} words; expected >= 1")
        self.lengths, self.size, self.seed, self.pool = np.asarray(lengths), size, seed, pool
        self.words = words
        self._begins = [0]
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])
        self._count = len(self._batches(0))

    def __len__(self) -> int:
        """Batches of the first epoch; where `words` counts, another may have a few more or less."""
        return self._count

    def __call__(self, number: int) -> np.ndarray:
        while number >= self._begins[-1]:
            self._begins.append(self._begins[-1] + len(self._batches(len(self._begins) - 1)))
        epoch = bisect_right(self._begins, number) - 1
        return self._batches(epoch)[number - self._begins[epoch]]

    def _batches(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch, in order; those of the last one asked for are kept."""
        if self._epoch[0] != epoch:
            random = np.random.default_rng([self.seed, epoch])
            order = random.permutation(len(self.lengths))
            batches: list[np.ndarray] = []
            for begin in range(0, len(order), self.size * self.pool):
                near = order[begin : begin + self.size * self.pool]
                batches += self._cut(near[np.argsort(self.lengths[near], kind="stable")])
            self._epoch = epoch, [batches[place] for place in random.permutation(len(batches))]
        return self._epoch[1]

    def _cut(self, places: np.ndarray) -> Iterator[np.ndarray]:
        begin = words = 0
        for end, length in enumerate(self.lengths[places].tolist()):
            full = end - begin == self.size or (self.words is not None and words + length > self.words)
            if full and end > begin:
                yield places[begin:end]
                begin, words = end, 0
            words += length
        yield places[begin:]
