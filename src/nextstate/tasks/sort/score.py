"""How right a sorter is: by number, by whole list, and whether it keeps order; by law and by length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nextstate.checks import refuse
from nextstate.tasks.sort.laws import LAWS, Law

Sorter = Callable[[Tensor], Tensor]
"""Numbers [count, length] -> numbers [count, length], rows in order if the sorter is right."""

AT_ONCE = 2048
"""Lists handed to the sorter in one call."""


class Score(NamedTuple):
    """Counts over lists; shares are of the numbers and of the lists.

    `elements`: numbers that are right at their place; `exact`: lists right as a whole; `ordered`: lists whose
    output never decreases, right or not.
    """

    lists: int = 0
    numbers: int = 0
    elements: int = 0
    exact: int = 0
    ordered: int = 0

    def __add__(self, other: object) -> Score:
        if not isinstance(other, Score):
            return NotImplemented
        return Score(*(a + b for a, b in zip(self, other, strict=True)))

    def shares(self) -> dict[str, float]:
        return {
            "elements_right": self.elements / max(self.numbers, 1),
            "lists_right": self.exact / max(self.lists, 1),
            "never_decreasing": self.ordered / max(self.lists, 1),
        }


def score(lists: Tensor, answers: Tensor) -> Score:
    """Compare answers [count, length] with the lists [count, length] they are answers to.

    >>> lists = torch.tensor([[3, 1, 2], [2, 2, 1]])
    >>> score(lists, torch.tensor([[1, 2, 3], [1, 2, 3]]))
    Score(lists=2, numbers=6, elements=5, exact=1, ordered=2)
    """
    if lists.shape != answers.shape:
        refuse("score", f"lists {tuple(lists.shape)} and answers {tuple(answers.shape)} differ in shape")
    right = answers == lists.sort(1).values
    return Score(
        lists=lists.shape[0],
        numbers=lists.numel(),
        elements=int(right.sum()),
        exact=int(right.all(1).sum()),
        ordered=int((answers.diff(dim=1) >= 0).all(1).sum()),
    )


class Entry(NamedTuple):
    """One entry of an evaluation: a law at a length."""

    law: str
    length: int
    score: Score


def evaluate(
    sorter: Sorter,
    *,
    largest: int,
    lengths: Sequence[int],
    lists: int,
    laws: Mapping[str, Law] = LAWS,
    seed: int = 1,
) -> Iterator[Entry]:
    """Score a sorter on `lists` lists of every law at every length; yields as it goes.

    evaluate : Sorter -> Iterator[Entry]

    The lists of an entry depend on the seed, the law and the length alone, not on what else is asked.

    >>> laws = {"uniform": LAWS["uniform"]}
    >>> [entry] = evaluate(lambda x: x.sort(1).values, largest=9, lengths=[5], lists=10, laws=laws)
    >>> entry.score.shares()["lists_right"]
    1.0
    """
    for name, law in laws.items():
        for length in lengths:
            random = np.random.default_rng([seed, *name.encode(), length])
            total = Score()
            for begin in range(0, lists, AT_ONCE):
                drawn = torch.from_numpy(law(random, min(AT_ONCE, lists - begin), length, largest))
                total += score(drawn, sorter(drawn))
            yield Entry(name, length, total)
