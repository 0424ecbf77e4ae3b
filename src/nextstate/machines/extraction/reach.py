"""The exact search: if finitely many states can be reached, the machine of them is the network."""

from __future__ import annotations

from typing import Any

import torch

from nextstate.machines.automata import DFA, Moore
from nextstate.machines.extraction.observed import Observed, joined, take
from nextstate.states import Tree, leaves


def reach(network: Observed, *, limit: int = 20_000) -> DFA | Moore | None:
    """The machine of all states a network can reach, None if there are more than `limit`.

    States are told apart by their bits (with one zero), so a search that ends is a proof for words of every
    length: for the steps as they are computed here, in batches that always have the same number of rows,
    since the rounding of a matrix product may depend on it.

    >>> from nextstate.machines import compile, minimise
    >>> from nextstate.machines.extraction.observed import observe
    >>> odd = DFA.table("01", {0: [0, 1], 1: [1, 0]}, accepting=[1])
    >>> minimise(reach(observe(compile(odd, cell="gru")))) == minimise(odd)
    True
    """
    rows = 64
    found: dict[Any, int] = {}
    labels: list[Any] = []
    table: dict[Any, int] = {}
    start = network.start()
    frontier, number = [start], [*_numbers(found, start)]
    labels += network.labels(start)
    while number:
        states, frontier, sources, number = joined(frontier), [], number, []
        for letter, symbol in enumerate(network.alphabet):
            for at in range(0, len(sources), rows):
                chunk = sources[at : at + rows]
                index = [*range(at, at + len(chunk)), *[at] * (rows - len(chunk))]
                after = network.step(torch.full((rows,), letter), take(states, index))
                known = len(found)
                keys = _numbers(found, take(after, range(len(chunk))))
                table.update(((source, symbol), key) for source, key in zip(chunk, keys, strict=True))
                fresh = list(dict.fromkeys(key for key in keys if key >= known))
                if fresh:
                    frontier.append(take(after, [keys.index(key) for key in fresh]))
                    labels += network.labels(frontier[-1])
                    number += fresh
                if len(found) > limit:
                    return None
    names = tuple(range(len(found)))
    if all(isinstance(label, bool) for label in labels):
        return DFA(network.alphabet, names, 0, frozenset(q for q in names if labels[q]), table)
    return Moore(network.alphabet, names, 0, dict(enumerate(labels)), table)


def _numbers(found: dict[Any, int], states: Tree) -> list[int]:
    columns = [(leaf + 0.0).cpu().flatten(1).numpy() for leaf in leaves(states)]
    keys = zip(*([row.tobytes() for row in column] for column in columns), strict=True)
    return [found.setdefault(key, len(found)) for key in keys]
