"""Where batches come from. A source knows its place, so that a resumed run sees the batches it would have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from nextstate.checks import refuse
from nextstate.states import Tree, leaves, tree_map


class Source(Protocol):
    """An endless supply of batches whose place can be saved as JSON and taken up again."""

    def draw(self, rank: int = 0, world: int = 1) -> Any:
        """The next batch of process `rank` of `world`; every process draws equally often."""

    def state_dict(self) -> dict[str, int]: ...

    def load_state_dict(self, state: dict[str, int]) -> None: ...


class Indexed:
    """Batches that are a pure function of their number.

    Indexed : (n -> batch) -> Source

    Process `rank` of `world` draws the numbers rank, rank + world, rank + 2 world, ...

    >>> squares = Indexed(lambda n: n * n)
    >>> [squares.draw() for _ in range(4)]
    [0, 1, 4, 9]
    """

    def __init__(self, batch: Callable[[int], Any]) -> None:
        self.batch = batch
        self.drawn = 0

    def draw(self, rank: int = 0, world: int = 1) -> Any:
        number = self.drawn * world + rank
        self.drawn += 1
        return self.batch(number)

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.drawn = state["drawn"]


class Chunk(NamedTuple):
    """Part of a batch of sequences. `fresh`: it is the first part, so no state is carried into it."""

    us: Tree
    targets: Tensor
    fresh: bool


class Chunks:
    """Long sequences cut in time, for truncated back-propagation.

    Chunks : ((n -> (us, targets)), length) -> Source of `Chunk`

    Shapes: us [T, B, ...], targets [T, B, ...]; a chunk has at most `length` of the T steps. A step on a
    chunk propagates gradients within it; the state it ends in is carried, detached, into the next one.
    Source: Williams & Peng 1990, with the window moved by its own length.

    >>> import torch
    >>> source = Chunks(lambda n: (torch.arange(5)[:, None], torch.zeros(5, 1)), length=3)
    >>> [(chunk.us.flatten().tolist(), chunk.fresh) for chunk in (source.draw() for _ in range(3))]
    [([0, 1, 2], True), ([3, 4], False), ([0, 1, 2], True)]
    """

    def __init__(self, sequences: Callable[[int], tuple[Tree, Tensor]], length: int) -> None:
        if length < 1:
            refuse("Chunks", f"length is {length}; a chunk needs at least one step")
        self.sequences, self.length = sequences, length
        self.number, self.begin = 0, 0
        self._held: tuple[int, Tree, Tensor] | None = None

    def draw(self, rank: int = 0, world: int = 1) -> Chunk:
        wanted = self.number * world + rank
        if self._held is None or self._held[0] != wanted:
            self._held = (wanted, *self.sequences(wanted))
        _, us, targets = self._held
        begin, end = self.begin, self.begin + self.length
        chunk = Chunk(tree_map(lambda u: u[begin:end], us), targets[begin:end], begin == 0)
        if end >= leaves(us)[0].shape[0]:
            self.number, self.begin, self._held = self.number + 1, 0, None
        else:
            self.begin = end
        return chunk

    def state_dict(self) -> dict[str, int]:
        return {"number": self.number, "begin": self.begin}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.number, self.begin, self._held = state["number"], state["begin"], None
