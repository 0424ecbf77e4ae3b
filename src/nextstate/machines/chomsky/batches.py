"""The fifteen tasks as batches to train on, and the published score on longer words."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nextstate.checks import refuse
from nextstate.machines.chomsky import TASKS

SILENT = -1
"""Target of the places where no answer is asked."""


class WordBatch(NamedTuple):
    """Letters [T, B] as numbers, the answer [T, B] as numbers or `SILENT`, lengths [B]."""

    ids: Tensor
    answers: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class Spelling:
    """Words of a task as numbers: what its machine reads, with a "_" for every symbol it is to write.

    >>> spelling = Spelling.of("reverse string")
    >>> spelling.letters, spelling.symbols
    (('0', '1', '_'), ('0', '1'))
    >>> batch = spelling.batch([("011", "110")])
    >>> batch.ids.T.tolist(), batch.answers.T.tolist()
    ([[0, 1, 1, 2, 2, 2]], [[-1, -1, -1, 1, 1, 0]])
    """

    task: str
    letters: tuple[str, ...]
    symbols: tuple[str, ...]

    @staticmethod
    def of(task: str) -> Spelling:
        if task not in TASKS:
            refuse("tasks", f"there is no task {task!r}; the names are {', '.join(TASKS)}")
        machine = TASKS[task].machine()
        written = {rule[-1] for rule in machine.transitions.values()}
        letters = tuple(sorted({"_", *map(str, machine.alphabet)}))
        return Spelling(task, letters, tuple(sorted(x for x in written if isinstance(x, str))))

    def batch(self, examples: Iterable[tuple[str, str]]) -> WordBatch:
        letter = {a: i for i, a in enumerate(self.letters)}
        symbol = {a: i for i, a in enumerate(self.symbols)}
        ids, answers = [], []
        for word, answer in examples:
            ids.append(torch.tensor([letter[a] for a in word + "_" * len(answer)]))
            answers.append(torch.tensor([SILENT] * len(word) + [symbol[a] for a in answer]))
        lengths = torch.tensor([len(x) for x in ids])
        return WordBatch(pad_sequence(ids), pad_sequence(answers, padding_value=SILENT), lengths)


@dataclass(frozen=True)
class TrainingWords:
    """Batches of words of a task: batch n is a pure function of the seed and n.

    TrainingWords : n -> WordBatch

    Each word has a length of its own. For one half of a batch it is uniform in 1..longest, for the other
    half in 1..min(longest, start + growth n): some tasks are only found out from short words.
    """

    spelling: Spelling
    longest: int
    size: int
    start: int
    growth: float
    seed: int = 0

    def __call__(self, number: int) -> WordBatch:
        draw = random.Random(f"train {self.spelling.task} {self.seed} {number}")
        grown = min(self.longest, int(self.start + self.growth * number))
        example, longest = TASKS[self.spelling.task].example, (self.longest, grown)
        return self.spelling.batch(example(draw.randint(1, longest[i % 2]), draw) for i in range(self.size))


def score(
    answer: Callable[[WordBatch], Tensor], spelling: Spelling, lengths: Iterable[int], words: int, law: str
) -> dict[int, float]:
    """The share of answer symbols right at each length, on `words` words of it drawn for `law`.

    `answer` gives a number for every place [T, B]. The published score is the mean over the lengths 41..500.

    >>> right = score(lambda batch: batch.answers, Spelling.of("parity check"), [3, 4], 2, "test")
    >>> right
    {3: 1.0, 4: 1.0}
    """
    found = {}
    for length in lengths:
        draw = random.Random(f"{law} {spelling.task} {length}")
        batch = spelling.batch(TASKS[spelling.task].example(length, draw) for _ in range(words))
        asked = batch.answers != SILENT
        right = (answer(batch) == batch.answers) & asked
        # a mean over words of their shares, so that a word with a long answer does not count for more
        found[length] = float((right.sum(0) / asked.sum(0)).double().mean())
    return found
