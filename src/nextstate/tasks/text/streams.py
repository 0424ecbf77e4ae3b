"""Batches of a running text: rows that read on where they stopped, for truncated back-propagation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nextstate.checks import refuse


class TextChunk(NamedTuple):
    """The next `length` ids of every row and the ids after each, both [rows, length]."""

    ids: Tensor
    targets: Tensor


class TextStreams:
    """Rows that begin at even distances in a text and read it round and round, a chunk at a time.

    TextStreams : [id] -> Source of TextChunk

    Row b begins at b N / rows of N ids; a row that comes to the end goes on at the beginning. So the
    state can be carried from every chunk to the next, no text is cut anywhere else, and the chunks of
    one round lie elsewhere than those of the last. Process r of w reads rows r, r + w, ...

    Raises InputError for a text of fewer than two ids, or rows or a length below 1.

    >>> source = TextStreams(np.arange(6, dtype=np.uint8), rows=2, length=4)
    >>> source.draw().ids.tolist(), source.draw().targets.tolist()
    ([[0, 1, 2, 3], [3, 4, 5, 0]], [[5, 0, 1, 2], [2, 3, 4, 5]])
    """

    def __init__(self, ids: np.ndarray, rows: int, length: int) -> None:
        if len(ids) < 2:
            refuse("TextStreams", f"the text has {len(ids)} ids; a chunk needs at least 2")
        if rows < 1 or length < 1:
            refuse("TextStreams", f"rows is {rows} and length is {length}; both must be at least 1")
        self.ids, self.rows, self.length = ids, rows, length
        self.drawn = 0

    def draw(self, rank: int = 0, world: int = 1) -> TextChunk:
        count = len(self.ids)
        places = np.arange(rank, self.rows * world, world) * count // (self.rows * world)
        places = places + self.drawn * self.length
        taken = (places[:, None] + np.arange(self.length + 1)) % count
        text = torch.from_numpy(self.ids[taken].astype(np.int64))
        self.drawn += 1
        return TextChunk(text[:, :-1], text[:, 1:])

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.drawn = state["drawn"]
