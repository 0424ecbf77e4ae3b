"""Synthetic tasks that ask for a memory of a known length, and digits read pixel by pixel.

Every batch is a pure function of a seed and its number, so that a resumed run sees the batches it would
have. Inputs are time first, [T, B, I]; a target is for the last step, or for every step of the sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nextstate.checks import refuse

SYMBOLS, WORD = 8, 10
"""Copy memory: letters of the alphabet, and letters to remember."""


class Batch(NamedTuple):
    """Inputs [T, B, I] and targets: ids [T, B] or [B], or numbers [B]."""

    us: Tensor
    targets: Tensor


def copy_memory(delay: int, rows: int = 32, *, seed: int = 0) -> Callable[[int], Batch]:
    """Ten letters, a long wait, a signal, and the ten letters again.

    copy_memory : delay T -> (n -> Batch)

    Inputs are one-hot [T + 20, B, 10]: ten letters of eight, T - 1 blanks, the signal, ten blanks. Targets
    are ids [T + 20, B]: blanks (8), and the letters over the last ten steps. Without memory the best mean
    cross-entropy is `copy_baseline(T)`.
    Source: Hochreiter and Schmidhuber 1997; in this form Arjovsky et al. 2016 (arXiv 1511.06464).

    >>> us, targets = copy_memory(5, rows=3)(0)
    >>> us.shape, targets[-10:, 0].equal(us[:10, 0].argmax(-1))
    (torch.Size([25, 3, 10]), True)
    """
    _check("copy_memory", delay, rows)

    def batch(number: int) -> Batch:
        letters = torch.from_numpy(_random(seed, number).integers(SYMBOLS, size=(WORD, rows)))
        ids = torch.full((delay + 2 * WORD, rows), SYMBOLS)
        ids[:WORD] = letters
        ids[WORD + delay - 1] = SYMBOLS + 1
        targets = torch.full_like(ids, SYMBOLS)
        targets[-WORD:] = letters
        return Batch(torch.nn.functional.one_hot(ids, SYMBOLS + 2).float(), targets)

    return batch


def copy_baseline(delay: int) -> float:
    """Mean cross-entropy in nats a step of the best answer without memory: 10 ln 8 / (T + 20).

    >>> round(copy_baseline(500), 4), round(copy_baseline(1000), 4)
    (0.04, 0.0204)
    """
    return WORD * math.log(SYMBOLS) / (delay + 2 * WORD)


def adding(steps: int, rows: int = 32, *, seed: int = 0) -> Callable[[int], Batch]:
    """The sum of two marked numbers of a sequence.

    adding : T -> (n -> Batch)

    Inputs [T, B, 2]: a number from U(0, 1) and a mark, 1 at one step of the first half and one of the second.
    Targets [B]: the sum of the two marked numbers, so 1 is the best guess without memory and its mean squared
    error 1/6. Source: Hochreiter and Schmidhuber 1997.

    >>> us, targets = adding(20, rows=4)(0)
    >>> us.shape, torch.allclose((us[..., 0] * us[..., 1]).sum(0), targets)
    (torch.Size([20, 4, 2]), True)
    """
    _check("adding", steps - 1, rows)

    def batch(number: int) -> Batch:
        random = _random(seed, number)
        values = torch.from_numpy(random.random((steps, rows), dtype=np.float32))
        marks = torch.zeros(steps, rows)
        columns = torch.arange(rows)
        for low, high in ((0, steps // 2), (steps // 2, steps)):
            marks[torch.from_numpy(random.integers(low, high, size=rows)), columns] = 1
        return Batch(torch.stack([values, marks], -1), (values * marks).sum(0))

    return batch


def delayed_xor(delay: int, rows: int = 32, *, seed: int = 0) -> Callable[[int], Batch]:
    """Whether two bits differ, the first two inputs, asked after a wait in noise.

    delayed_xor : delay -> (n -> Batch)

    Inputs [delay + 2, B, 2]: the bits (-1 or 1) at the first two steps, then N(0, 0.1^2) noise, in the first
    column; the second is 1 at the last step only. Targets: ids [B], 1 if the bits differ; ln 2 nats without
    memory. Neither bit alone says anything, so the memory has to be kept before it pays.

    >>> us, targets = delayed_xor(6, rows=4)(0)
    >>> us.shape, torch.equal((us[0, :, 0] != us[1, :, 0]).long(), targets)
    (torch.Size([8, 4, 2]), True)
    """
    _check("delayed_xor", delay, rows)

    def batch(number: int) -> Batch:
        random = _random(seed, number)
        bits = torch.from_numpy(random.integers(2, size=(2, rows)))
        us = torch.zeros(delay + 2, rows, 2)
        us[:, :, 0] = torch.from_numpy(0.1 * random.standard_normal((delay + 2, rows), dtype=np.float32))
        us[:2, :, 0] = 2.0 * bits - 1
        us[-1, :, 1] = 1
        return Batch(us, bits[0] ^ bits[1])

    return batch


class Digits:
    """The 8 x 8 digits of scikit-learn, read one pixel a step: 64 steps, ten classes.

    Digits : permuted -> train (n -> Batch), held_out Batch

    1,797 images; 360 of them, the same for every seed, are `held_out`. Inputs [64, B, 1] from 0 to 1, row by
    row, or in one fixed random order where `permuted`. The raw images: Alpaydin and Kaynak 1998 (UCI).

    Raises InputError if scikit-learn is not installed.

    >>> digits = Digits(rows=16)
    >>> digits.train(0).us.shape, len(digits.held_out.targets)
    (torch.Size([64, 16, 1]), 360)
    """

    def __init__(self, *, permuted: bool = False, rows: int = 32, seed: int = 0) -> None:
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            refuse("Digits", "the images come with scikit-learn, which is missing: pip install scikit-learn")
        _check("Digits", 1, rows)
        images = load_digits()
        order = np.random.default_rng(0)
        shuffled = order.permutation(len(images.target))
        pixels = order.permutation(64) if permuted else np.arange(64)
        us = torch.from_numpy((images.data[shuffled][:, pixels] / 16).astype(np.float32)).T.unsqueeze(-1)
        targets = torch.from_numpy(images.target[shuffled].astype(np.int64))
        self.held_out = Batch(us[:, :360].contiguous(), targets[:360])
        self._train, self.rows, self.seed = Batch(us[:, 360:], targets[360:]), rows, seed

    def train(self, number: int) -> Batch:
        """Batch `number` of the training images, drawn with replacement."""
        us, targets = self._train
        chosen = torch.from_numpy(_random(self.seed, number).integers(len(targets), size=self.rows))
        return Batch(us[:, chosen], targets[chosen])


def _random(seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng((seed, number))


def _check(operation: str, steps: int, rows: int) -> None:
    if steps < 1 or rows < 1:
        refuse(operation, f"a wait of {steps} steps and {rows} rows; both must be at least 1")
