"""What extraction sees of a network: a start, one step for a letter, and what a state shows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nextstate.cell import Cell
from nextstate.checks import refuse
from nextstate.machines.automata import DFA
from nextstate.machines.compiling.compiled import Compiled
from nextstate.machines.compiling.grow import GrowingStacks
from nextstate.machines.words import Word
from nextstate.run import scan
from nextstate.states import Tree, leaves, tree_map


class Observed(Protocol):
    """A network seen as a machine: letters are numbers 0..n-1, states have the batch first."""

    alphabet: tuple[Any, ...]

    def start(self) -> Tree:
        """The state [1, ...] before the first letter."""

    def step(self, letters: Tensor, states: Tree) -> Tree:
        """The states [N, ...] after one letter each, letters [N]."""

    def labels(self, states: Tree) -> list[Any]:
        """What each of N states shows."""


class Recogniser(nn.Module):
    """A cell that reads letters one-hot, and one linear score of its state: accepted where it is positive.

    Recogniser : word -> score

    Shapes: ids [T, B] of letters, lengths [B]; scores [B]. The empty word is scored too, in the start state.

    >>> from nextstate import GRU
    >>> network = Recogniser(GRU(2, 4), "01")
    >>> network(torch.tensor([[0], [1]]), torch.tensor([2])).shape
    torch.Size([1])
    """

    def __init__(self, cell: Cell, alphabet: Sequence[Any]) -> None:
        super().__init__()
        self.cell, self.alphabet = cell, tuple(alphabet)
        parameters = list(cell.parameters())
        with torch.no_grad():
            width = leaves(cell.initial_state(1, dtype=parameters[0].dtype))[0].shape[-1]
        self.readout = nn.Linear(width, 1, dtype=parameters[0].dtype)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        weight = self.readout.weight
        start = self.cell.initial_state(ids.shape[1], device=weight.device, dtype=weight.dtype)
        if ids.shape[0]:
            _, start = scan(self.cell, self.spelled(ids), start, lengths=lengths)
        return self.score(start)

    def spelled(self, ids: Tensor) -> Tensor:
        """Letters as the one-hot inputs [..., letters] of the cell."""
        return torch.eye(len(self.alphabet)).to(self.readout.weight)[ids]

    def score(self, states: Tree) -> Tensor:
        return self.readout(leaves(states)[0]).squeeze(-1)

    def accepts(self, word: Word) -> bool:
        """Whether a word is accepted; raises InputError for a letter outside the alphabet."""
        foreign = [a for a in word if a not in self.alphabet]
        if foreign:
            refuse("accepts", f"{foreign[0]!r} is no letter; the letters are {list(self.alphabet)}")
        ids = torch.tensor([self.alphabet.index(a) for a in word], dtype=torch.int64).reshape(-1, 1)
        with torch.no_grad():
            return bool(self(ids, torch.tensor([len(ids)])) > 0)

    def start(self) -> Tree:
        weight = self.readout.weight
        return self.cell.initial_state(1, device=weight.device, dtype=weight.dtype)

    def step(self, letters: Tensor, states: Tree) -> Tree:
        with torch.no_grad():
            return self.cell(self.spelled(letters), states)[1]

    def labels(self, states: Tree) -> list[bool]:
        with torch.no_grad():
            return (self.score(states) > 0).tolist()


class CompiledObserved:
    """A compiled finite machine, seen as any other network: only its cell and its read-out are used."""

    def __init__(self, compiled: Compiled) -> None:
        if compiled.cell is None or isinstance(compiled.cell, GrowingStacks) or compiled.blueprint.period > 1:
            refuse("extract", f"{compiled.report} has no finite machine in it to be found")
        self.alphabet = compiled.blueprint.letters
        self._compiled, self._cell = compiled, compiled.cell
        weight = next(compiled.cell.parameters())
        self._letters = torch.eye(len(self.alphabet), dtype=weight.dtype, device=weight.device)
        self._accepts = isinstance(compiled.machine, DFA)

    def start(self) -> Tree:
        return self._compiled.start()

    def step(self, letters: Tensor, states: Tree) -> Tree:
        with torch.no_grad():
            return self._cell(self._letters[letters], states)[1]

    def labels(self, states: Tree) -> list[Any]:
        shown = self._compiled.shown(leaves(states)[0])
        return [row.accepted if self._accepts else row.output for row in shown]


class BlackBox:
    """A function from a list of words to what each of them shows; its state is the word read so far.

    >>> box = BlackBox(lambda words: [len(word) % 2 == 0 for word in words], "ab")
    >>> box.labels(box.step(torch.tensor([1]), box.start()))
    [False]
    """

    def __init__(
        self, answer: Callable[[list[tuple[Any, ...]]], Sequence[Any]], alphabet: Sequence[Any]
    ) -> None:
        self.answer, self.alphabet = answer, tuple(alphabet)

    def start(self) -> Tensor:
        return torch.zeros(1, 0, dtype=torch.int64)

    def step(self, letters: Tensor, states: Tensor) -> Tensor:
        return torch.cat([states, letters[:, None]], 1)

    def labels(self, states: Tensor) -> list[Any]:
        words = [tuple(self.alphabet[a] for a in row) for row in states.tolist()]
        found = [
            x.item() if hasattr(x, "item") else x for x in self.answer(words)
        ]  # numbers of torch and numpy
        strange = [label for label in found if label is None or not isinstance(label, Hashable)]
        if strange:
            refuse(
                "extract",
                f"the function gave {strange[0]!r}; expected what a state can show: bool, number, text",
            )
        if len(found) != len(words):
            refuse(
                "extract", f"the function gave {len(found)} labels for {len(words)} words; one each is due"
            )
        return [bool(label) if isinstance(label, int) else label for label in found]


def observe(network: Any, alphabet: Sequence[Any] | None = None) -> Observed:
    """A network as extraction sees it; `alphabet` is needed for a plain function of words."""
    if isinstance(network, Compiled):
        network = CompiledObserved(network)
    elif isinstance(network, Cell):
        refuse("extract", f"a {type(network).__name__} shows nothing; give Recogniser(cell, alphabet)")
    elif not hasattr(network, "labels"):
        if not callable(network) or alphabet is None:
            refuse("extract", f"a {type(network).__name__} needs to be a function of words, with an alphabet")
        network = BlackBox(network, alphabet)
    if alphabet is not None and tuple(alphabet) != tuple(network.alphabet):
        refuse("extract", f"alphabet is {list(alphabet)}, but the network reads {list(network.alphabet)}")
    found: Observed = network
    return found


def take(states: Tree, rows: Sequence[int] | Tensor | range) -> Tree:
    """The rows of a batch of states, in the order asked."""
    index = torch.as_tensor(rows, dtype=torch.int64, device=leaves(states)[0].device)
    return tree_map(lambda x: x[index], states)


def joined(parts: Sequence[Tree]) -> Tree:
    """Batches of states one after the other."""
    first, *others = parts
    return tree_map(lambda *columns: torch.cat(columns), first, *others)
