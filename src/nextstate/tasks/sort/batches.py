"""Training batches: batch n is a pure function of the seed and n, so a run can be resumed exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nextstate.checks import refuse
from nextstate.tasks.sort.laws import mixed, nearly_equal, uniform


class SortBatch(NamedTuple):
    """Ids [batch, time] (number - 1; padding 0), the same in order, lengths [batch]."""

    source: Tensor
    target: Tensor
    lengths: Tensor


@dataclass(frozen=True, slots=True)
class TrainingLists:
    """Batches of random lists.

    TrainingLists : n -> SortBatch

    Each list has a length of its own: uniform in shortest..longest, but for a share `full` of them in the
    upper eighth of the lengths; and its numbers are uniform over 1..largest with probability `plain`, else
    drawn from the law `mixed` (five in six) or `nearly_equal`. A share `ordered` of the lists comes in order
    or, as many, in the opposite order: a network may come to forget what stood first in a long list.

    >>> batch = TrainingLists(largest=9, longest=4, size=2)(0)
    >>> batch.source.shape, bool((batch.target.diff(dim=1) < 0).any() and batch.lengths.min() == 4)
    (torch.Size([2, 4]), False)
    """

    largest: int
    longest: int
    size: int
    shortest: int = 1
    full: float = 1.0
    plain: float = 1.0
    ordered: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.largest, self.size, self.shortest) < 1 or self.longest < self.shortest:
            refuse("TrainingLists", f"{self}: sizes must be at least 1 and longest not below shortest")
        if not all(0 <= share <= 1 for share in (self.full, self.plain, self.ordered)):
            refuse("TrainingLists", f"{self}: the shares full, plain and ordered must lie within 0..1")

    def __call__(self, number: int) -> SortBatch:
        random = np.random.default_rng([self.seed, number])
        lengths = random.integers(self.shortest, self.longest + 1, self.size)
        upper = random.integers(
            max(self.shortest, self.longest - self.longest // 8), self.longest + 1, self.size
        )
        lengths = np.where(random.random(self.size) < self.full, upper, lengths)
        steps = int(lengths.max())
        lists = uniform(random, self.size, steps, self.largest)
        kind, mostly = random.random(self.size), self.plain + 5 / 6 * (1 - self.plain)
        for law, first, last in ((mixed, self.plain, mostly), (nearly_equal, mostly, 1.0)):
            rows = np.flatnonzero((first <= kind) & (kind < last))
            lists[rows] = law(random, rows.size, steps, self.largest)
        padding = np.arange(steps) >= lengths[:, None]
        order = random.random(self.size)
        for chosen, sign in (order < self.ordered / 2, 1), (order >= 1 - self.ordered / 2, -1):
            padding_last = np.where(padding[chosen], self.largest + 1, sign * lists[chosen])
            lists[chosen] = sign * np.sort(padding_last, 1)
        source = np.where(padding, 0, lists - 1)
        target = np.sort(np.where(padding, self.largest, lists - 1), 1)
        target[padding] = 0
        return SortBatch(torch.from_numpy(source), torch.from_numpy(target), torch.from_numpy(lengths))
