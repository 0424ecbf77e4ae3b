"""Reading for nothing but the largest and the mean feature: pooling as part of the state, words as ids."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.cell import Cell
from nextstate.networks.bidirectional import Bidirectional
from nextstate.run import fold_back, scan
from nextstate.states import Tree


class Reader(Cell):
    """A cell over ids: it reads the rows of a table.

    Reader : Cell (x, s) -> (v, s')  =>  Cell (id, s) -> (v, s');    x = table[id]

    Shapes: ids [B], table [K, features] an attribute to set before reading.
    """

    table: Tensor | None

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell
        self.register_buffer("table", None, persistent=False)

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tree:
        return self.cell.initial_state(batch_size, device=device, dtype=dtype)

    def forward(self, u: Any, s: Any) -> tuple[Tree, Tree]:
        assert self.table is not None
        return self.cell(F.embedding(u, self.table), s)


class PooledReader(Reader):
    """A cell over ids that reads against the direction of another, and whose state pools what both say.

    PooledReader : Cell (x, s) -> (v, s')
                =>  Cell ((id, w), (s, largest, total)) -> ((), (s', largest', total'))

        (v, s') = cell(table[id], s),    z = relu(C [w, v, table[id]] + c)
        largest' = max(largest, z),      total' = total + z

    Shapes: ids [B], table [K, features] an attribute to set before reading, w [B, H] the other's output, v
    [B, H], z, largest and total [B, F]. Start: the cell's own, with -inf and 0 for what is pooled.
    A fold of it keeps no step.
    """

    def __init__(self, cell: Cell, combination: nn.Linear) -> None:
        super().__init__(cell)
        self.combination = combination

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tree:
        z = torch.zeros(batch_size, self.combination.out_features, device=device, dtype=dtype)
        return super().initial_state(batch_size, device=device, dtype=dtype), z - torch.inf, z

    def forward(self, u: Any, s: Any) -> tuple[Tree, Tree]:
        assert self.table is not None
        (place, w), (inner, largest, total) = u, s
        x = F.embedding(place, self.table)
        v, inner = self.cell(x, inner)
        z = self.combination(torch.cat([w, v, x], -1)).relu()
        return (), (inner, torch.maximum(largest, z), total + z)


class _Readers:
    """The readers of each layer, compiled once and lent to one thread at a time, for it sets their table.

    There are as many pairs as threads that read with a layer at the same time.
    """

    def __init__(self) -> None:
        self.free: WeakKeyDictionary[Bidirectional, list[tuple[Reader, PooledReader]]]
        self.free = WeakKeyDictionary()
        self.lock = threading.Lock()

    @contextmanager
    def lent(self, layer: Bidirectional, combination: nn.Linear) -> Iterator[tuple[Reader, PooledReader]]:
        with self.lock:
            free = self.free.setdefault(layer, [])
            pair = free.pop() if free else None
        if pair is None or pair[1].combination is not combination:
            pair = Reader(layer.forward_cell), PooledReader(layer.backward_cell, combination)
        try:
            yield pair
        finally:
            with self.lock:
                free.append(pair)


_readers = _Readers()


@torch.no_grad()
def read_pooled(
    layer: Bidirectional, combination: nn.Linear, table: Tensor, ids: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """The largest [R, F] and the sum [R, F] of the features of all words of pieces.

    read_pooled : (table [V, E], ids [T, R], lengths [R]) -> largest, total;  -inf and 0 for a row of length 0

    The same as `pool_pieces` of relu(combination([layer's outputs, rows of the table])) to rounding, without
    gradients. Each distinct id is multiplied with weights once, however often it occurs.
    """
    seen = torch.zeros(len(table), dtype=torch.bool, device=table.device)
    seen[0] = True  # padding, and that no table is empty
    seen[ids.flatten()] = True
    distinct = seen.nonzero().squeeze(1)
    place = torch.zeros(len(table), dtype=torch.int64, device=table.device)
    place[distinct] = torch.arange(len(distinct), device=table.device)
    ids, rows = place[ids], table[distinct]
    with _readers.lent(layer, combination) as (on, back):
        on.table = back.table = rows
        ws, _ = scan(on, ids, lengths=lengths)
        _, (_, largest, total) = fold_back(back, (ids, ws), lengths=lengths)
    return largest, total
