"""The mean gradient along a straight path, in smaller pieces where the function bends."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

POINTS = 8
"""Points of the Gauss-Legendre sum over one piece of the path."""


class _Piece(NamedTuple):
    """One piece of the path, ordered by what its sum misses, the most first."""

    less: float  # minus the miss
    number: int
    begin: float
    end: float
    low: float  # the function at both ends
    high: float
    kept: list[Tensor]


def mean_gradient(
    value: Callable[[list[Tensor]], Tensor],
    start: Sequence[Tensor],
    end: Sequence[Tensor],
    values: tuple[float, float],
    *,
    within: float,
    keep: Callable[[list[Tensor]], list[Tensor]] = list,
    most: int = 31,
) -> list[Tensor]:
    """The mean gradients of a function of tensors along the straight path between two points.

    mean_gradient : (([x] -> scalar), [x], [x], (value(start), value(end))) -> [g]

        g = integral over a in 0..1 of  grad value(start + a (end - start))

    Over a piece of the path <g, end - start> is the difference of the values at its ends. So the piece whose
    Gauss-Legendre sum misses that the most is halved, until all of them miss less than `within` together, or
    no two are left of `most` sums of 8 gradients. The value must depend on every tensor. What is returned is
    `keep` of the gradients, a linear function: a piece holds no more.

    >>> bent = lambda xs: (xs[0] - 0.3).relu().sum()  # gradient 1 on seven tenths of the path
    >>> g, = mean_gradient(bent, [torch.zeros(2)], [torch.ones(2)], (0.0, 1.4), within=1e-4)
    >>> bool((g - 0.7).abs().max() < 1e-4)
    True
    """
    start, end = ([x.detach() for x in xs] for xs in (start, end))
    nodes, weights = np.polynomial.legendre.leggauss(POINTS)
    numbers = count()

    def at(a: float) -> list[Tensor]:
        return [s + a * (e - s) for s, e in zip(start, end, strict=True)]

    def piece(begin: float, finish: float, low: float, high: float) -> _Piece:
        gradients = [torch.zeros_like(s) for s in start]
        for node, weight in zip((nodes + 1) / 2, weights / 2 * (finish - begin), strict=True):
            with torch.enable_grad():
                place = [x.requires_grad_() for x in at(begin + (finish - begin) * float(node))]
                parts = torch.autograd.grad(value(place), place)
            for whole, part in zip(gradients, parts, strict=True):
                whole += float(weight) * part
        told = sum(float(((e - s) * g).sum()) for s, e, g in zip(start, end, gradients, strict=True))
        return _Piece(-abs(told - (high - low)), next(numbers), begin, finish, low, high, keep(gradients))

    pieces = [piece(0.0, 1.0, *values)]
    for _ in range((most - 1) // 2):
        if -sum(one.less for one in pieces) < within:
            break
        worst = heapq.heappop(pieces)
        middle = (worst.begin + worst.end) / 2
        with torch.no_grad():
            there = float(value(at(middle)))
        heapq.heappush(pieces, piece(worst.begin, middle, worst.low, there))
        heapq.heappush(pieces, piece(middle, worst.end, there, worst.high))
    return [torch.stack(parts).sum(0) for parts in zip(*(one.kept for one in pieces), strict=True)]
