"""Questions to a network, asked in batches, with every prefix computed once."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from nextstate.machines.automata import DFA, Moore
from nextstate.machines.extraction.observed import Observed, joined, take
from nextstate.machines.words import STUCK
from nextstate.states import Tree

Ids = tuple[int, ...]
"""A word as the numbers of its letters."""


class Questions:
    """Membership queries in batches. States of asked words and of their prefixes are kept.

    `count` is the number of different words whose answer was computed.

    >>> from nextstate.machines import DFA, compile
    >>> from nextstate.machines.extraction.observed import observe
    >>> odd = compile(DFA.table("01", {0: [0, 1], 1: [1, 0]}, accepting=[1]))
    >>> Questions(observe(odd)).ask([(), (1,), (0, 1, 1)])
    [False, True, False]
    """

    def __init__(self, network: Observed) -> None:
        self.network = network
        start = network.start()
        self._rows: dict[Ids, tuple[Tree, int]] = {(): (start, 0)}
        self._labels: dict[Ids, Any] = {(): network.labels(start)[0]}

    @property
    def count(self) -> int:
        return len(self._labels)

    def ask(self, words: Iterable[Ids]) -> list[Any]:
        """What the network shows after each word."""
        words = list(words)
        needed = {word[:n] for word in words for n in range(1, len(word) + 1)} - self._rows.keys()
        by_length: dict[int, list[Ids]] = {}
        for word in needed:
            by_length.setdefault(len(word), []).append(word)
        for length in sorted(by_length):
            self._extend(sorted(by_length[length]))
        return [self._labels[word] for word in words]

    def _extend(self, words: list[Ids]) -> None:
        parents = joined([take(tree, [row]) for tree, row in (self._rows[word[:-1]] for word in words)])
        after = self.network.step(torch.tensor([word[-1] for word in words]), parents)
        for row, (word, label) in enumerate(zip(words, self.network.labels(after), strict=True)):
            self._rows[word] = (after, row)
            self._labels[word] = label


def compare(network: Observed, machine: DFA | Moore, words: Sequence[Ids]) -> Ids | None:
    """Machine and network side by side on every prefix of these words; a shortest differing prefix found."""
    longest = max(map(len, words), default=0)
    index: dict[Any, int] = {q: i for i, q in enumerate((*machine.states, STUCK))}
    after = torch.tensor([[index[machine.step(q, a)] for a in machine.alphabet] for q in index])
    shown = [machine.label(q) for q in index]
    letters = torch.tensor([[*word, *[0] * (longest - len(word))] for word in words], dtype=torch.int64)
    letters = letters.reshape(len(words), longest)
    states = take(network.start(), [0] * len(words))
    here = torch.full((len(words),), index[machine.start])
    for n in range(longest + 1):
        expected = [shown[q] for q in here.tolist()]
        for row, (label, answer) in enumerate(zip(network.labels(states), expected, strict=True)):
            if label != answer and n <= len(words[row]):
                return words[row][:n]
        if n < longest:
            states, here = network.step(letters[:, n], states), after[here, letters[:, n]]
    return None


def random_words(letters: int, count: int, longest: int, draw: random.Random) -> list[Ids]:
    """Words of uniformly drawn length 0..longest and uniformly drawn letters."""
    return [tuple(draw.randrange(letters) for _ in range(draw.randint(0, longest))) for _ in range(count)]


def near_states(machine: DFA | Moore, each: int, tail: int, draw: random.Random) -> list[Ids]:
    """For every state and letter: the shortest way there, the letter, and some random letters."""
    access: dict[Any, Ids] = {machine.start: ()}
    order = [machine.start]
    for state in order:
        for number, letter in enumerate(machine.alphabet):
            target = machine.step(state, letter)
            if target not in access:
                access[target] = (*access[state], number)
                order.append(target)
    n = len(machine.alphabet)
    return [
        (*access[q], a, *(draw.randrange(n) for _ in range(draw.randint(0, tail))))
        for q in order
        for a in range(n)
        for _ in range(each)
    ]
