"""Reading for nothing but the largest and the mean output: pooling as part of the state, words as ids."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from nextstate.cell import Cell
from nextstate.lengths import reverse_valid
from nextstate.networks.bidirectional import Bidirectional
from nextstate.run import fold
from nextstate.states import Tree


class PooledReader(Cell):
    """A cell over ids whose state holds what is pooled of its outputs.

    PooledReader : Cell (x, s) -> (v, s')  =>  Cell (id, (s, largest, total)) -> ((), (s', largest', total'))

        (v, s') = cell(table[id], s),    largest' = max(largest, v),    total' = total + v

    Shapes: ids [B], table [K, features] an attribute to set before reading, v, largest and total [B, H].
    Start: the cell's own, with -inf and 0 for what is pooled. A fold of it needs memory for one step.
    """

    table: Tensor | None

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell
        self.register_buffer("table", None, persistent=False)

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        s = self.cell.initial_state(batch_size, device=device, dtype=dtype)
        assert isinstance(s, Tensor)
        return s, torch.full_like(s, -torch.inf), torch.zeros_like(s)

    def forward(self, u: Tensor, s: tuple[Tensor, Tensor, Tensor]) -> tuple[Tree, Tree]:
        assert self.table is not None
        inner, largest, total = s
        v, inner = self.cell(F.embedding(u, self.table), inner)
        return (), (inner, torch.maximum(largest, v), total + v)


class _Readers:
    """The readers of each layer, compiled once and lent to one thread at a time, for it sets their table.

    There are as many pairs as threads that read with a layer at the same time.
    """

    def __init__(self) -> None:
        self.free: WeakKeyDictionary[Bidirectional, list[tuple[PooledReader, PooledReader]]]
        self.free = WeakKeyDictionary()
        self.lock = threading.Lock()

    @contextmanager
    def lent(self, layer: Bidirectional) -> Iterator[tuple[PooledReader, PooledReader]]:
        with self.lock:
            free = self.free.setdefault(layer, [])
            pair = free.pop() if free else None
        if pair is None:
            pair = PooledReader(layer.forward_cell), PooledReader(layer.backward_cell)
        try:
            yield pair
        finally:
            with self.lock:
                free.append(pair)


_readers = _Readers()


@torch.no_grad()
def read_pooled(layer: Bidirectional, table: Tensor, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The largest [R, 2 H] and the sum [R, 2 H] of all outputs of a layer that reads rows of a table.

    read_pooled : (table [V, F], ids [T, R], lengths [R]) -> largest, total;  -inf and 0 for a row of length 0

    The same as `pool_pieces` of the layer's outputs to rounding, without gradients. Each distinct id is
    multiplied with the input weights once, however often it occurs.
    """
    seen = torch.zeros(len(table), dtype=torch.bool, device=table.device)
    seen[0] = True  # padding, and that no table is empty
    seen[ids.flatten()] = True
    distinct = seen.nonzero().squeeze(1)
    place = torch.zeros(len(table), dtype=torch.int64, device=table.device)
    place[distinct] = torch.arange(len(distinct), device=table.device)
    ids, rows = place[ids], table[distinct]
    found = []
    with _readers.lent(layer) as readers:
        for reader, directed in zip(readers, (ids, reverse_valid(ids, lengths)), strict=True):
            reader.table = rows
            _, (_, largest, total) = fold(reader, directed, lengths=lengths)
            found.append((largest, total))
    (first, sum_first), (second, sum_second) = found
    return torch.cat([first, second], -1), torch.cat([sum_first, sum_second], -1)
