"""Laws of random lists. Each draws `count` lists of `length` numbers out of 1..largest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Lists = NDArray[np.int64]
"""Numbers [count, length]."""

Law = Callable[[np.random.Generator, int, int, int], Lists]
"""(random, count, length, largest) -> lists."""


def uniform(random: np.random.Generator, count: int, length: int, largest: int) -> Lists:
    """Every number alike, with replacement."""
    return random.integers(1, largest + 1, (count, length))


def permutation(random: np.random.Generator, count: int, length: int, largest: int) -> Lists:
    """No number more often than it must be: all distinct up to `largest` numbers, then a second round.

    >>> sorted(permutation(np.random.default_rng(0), 1, 5, 3)[0].tolist())[::2]
    [1, 2, 3]
    """
    rounds = -(-length // largest)
    keys = random.random((count, rounds, largest))
    return keys.argsort(-1).reshape(count, -1)[:, :length] + 1


def ascending(random: np.random.Generator, count: int, length: int, largest: int) -> Lists:
    """Uniform numbers that stand in order already."""
    return np.sort(uniform(random, count, length, largest), 1)


def descending(random: np.random.Generator, count: int, length: int, largest: int) -> Lists:
    """Uniform numbers in the opposite of their order."""
    return ascending(random, count, length, largest)[:, ::-1].copy()


def all_equal(random: np.random.Generator, count: int, length: int, largest: int) -> Lists:
    """One number throughout."""
    return np.broadcast_to(uniform(random, count, 1, largest), (count, length)).copy()


def one_different(random: np.random.Generator, count: int, length: int, largest: int) -> Lists:
    """One number throughout, but for another one at a random place."""
    lists = all_equal(random, count, length, largest)
    if length and largest > 1:
        rows, place = np.arange(count), random.integers(0, length, count)
        other = (lists[:, 0] - 1 + random.integers(1, largest, count)) % largest + 1
        lists[rows, place] = other
    return lists


def zipf(random: np.random.Generator, count: int, length: int, largest: int) -> Lists:
    """Number v with a probability proportional to 1 / v."""
    weights = 1 / np.arange(1, largest + 1)
    return random.choice(largest, (count, length), p=weights / weights.sum()) + 1


def clumped(random: np.random.Generator, count: int, length: int, largest: int) -> Lists:
    """Near a centre drawn for each list: rounded normal with standard deviation 2, kept within the range."""
    centre = uniform(random, count, 1, largest)
    return np.clip(np.rint(random.normal(centre, 2, (count, length))), 1, largest).astype(np.int64)


def few_distinct(kinds: int) -> Law:
    """The law of lists made of `kinds` numbers, chosen for each list, each as likely as the others."""

    def law(random: np.random.Generator, count: int, length: int, largest: int) -> Lists:
        chosen = random.random((count, largest)).argsort(1)[:, :kinds] + 1
        return np.take_along_axis(chosen, random.integers(0, chosen.shape[1], (count, length)), 1)

    return law


LAWS: dict[str, Law] = {
    "uniform": uniform,
    "permutation": permutation,
    "sorted": ascending,
    "reversed": descending,
    "all equal": all_equal,
    "one different": one_different,
    "zipf": zipf,
    "clumped": clumped,
    **{f"{kinds} distinct": few_distinct(kinds) for kinds in (2, 4, 8, 16)},
}
"""The laws an evaluation goes through, by name."""


def nearly_equal(random: np.random.Generator, count: int, length: int, largest: int) -> Lists:
    """One number throughout, each place redrawn with probability k / length, k = 0, 1, 2 or 4 for a list.

    The second law of training: the lists that `mixed` has too few of for a network to get all of them right.
    """
    lists = all_equal(random, count, length, largest)
    often = np.array([0, 1, 2, 4])[random.integers(0, 4, (count, 1))]
    redrawn = random.random(lists.shape) * length < often
    return np.where(redrawn, uniform(random, count, length, largest), lists)


FEW, FEW_SHARES = 8, np.array([0.2, 1.0, 1.0, np.inf, np.inf])
MANY_SHARES = np.array([0.2, 0.5, 0.5, 1.0, np.inf])
"""Concentrations of the Dirichlet law of `mixed` for alphabets of up to `FEW` numbers and of more: equal
shares of few numbers are hard to count, and so are unequal ones of many."""


def mixed(random: np.random.Generator, count: int, length: int, largest: int) -> Lists:
    """The first law of training: every list has an alphabet and weights of its own.

        m  in 1..largest, log-uniform, or      size of the alphabet
           in 3..8 for two lists in five
        alphabet                               m numbers anywhere, or the m nearest to a random centre
        p ~ Dirichlet(a, ..., a)               a = 0.2, 1 or infinity (equal weights); for m > 8 also 0.5
        numbers drawn independently from p

    It contains lists with few distinct numbers, in equal and in very unequal shares, clumps, one number
    repeated, and uniform ones, without being any law of the evaluation but those of few distinct numbers.
    Three to eight of them, each five or ten times, are hard to count and therefore the most frequent.
    """
    size = np.floor(np.exp(random.random(count) * np.log(largest + 1))).astype(np.int64)
    size = np.where(random.random(count) < 0.4, random.integers(3, 9, count), size).clip(max=largest)
    keys = random.random((count, largest))
    centre = random.integers(0, largest, (count, 1))
    near = np.abs(np.arange(largest) - centre) + keys  # the keys break ties
    alphabet = np.where(random.random((count, 1)) < 0.5, near, keys).argsort(1)
    shares = random.integers(0, len(FEW_SHARES), count)
    concentration = np.where(size > FEW, MANY_SHARES[shares], FEW_SHARES[shares])
    finite = np.where(np.isinf(concentration), 1.0, concentration)
    weights = random.standard_gamma(np.broadcast_to(finite[:, None], (count, largest)))
    weights = np.where(np.isinf(concentration)[:, None], 1.0, weights + 1e-12)
    weights = np.where(np.arange(largest) < size[:, None], weights, 0.0)
    bounds = weights.cumsum(1)
    drawn = random.random((count, length)) * bounds[:, -1:]
    place = (drawn[:, :, None] >= bounds[:, None, :]).sum(-1)
    return np.take_along_axis(alphabet, np.minimum(place, size[:, None] - 1), 1) + 1
