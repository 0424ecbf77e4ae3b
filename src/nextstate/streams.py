"""Many independent streams of one cell, stepped as one batch; they come and go between steps."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from nextstate.accelerate import cell_of_it
from nextstate.cell import Cell
from nextstate.checks import describe, parts_of, refuse
from nextstate.saved_state import from_bytes, to_bytes
from nextstate.session import advance, frozen, start
from nextstate.states import Tree, leaves, tree_map


class Streams:
    """The states of any number of streams, each known by its id.

    Streams : Cell => object with  step : (ids, u) -> v,  feed : (ids, [u]) -> [v]

    A step takes the streams that have an input now, in any order, and leaves the others as they are. Ids are
    integers that are never given twice.

    Shapes: `ids` N of them, each once; u [N, I], v [N, V], us [T, N, I], `lengths` [N] as in `scan`, for
    chunks of different length. As in `Session` the cell is copied, in eval mode; on the CPU engine a stream
    has the same bits whatever runs beside it. A `Quantised` cell runs in float32 on its rounded weights, so
    with "int8" the bits are not those of a `Session`, which rounds the inputs of products too.

    Raises InputError for an id that is not open or given twice, and for input of the wrong size.

    >>> from nextstate import GRU
    >>> streams = Streams(GRU(3, 16))
    >>> a, b = streams.open(2)
    >>> v = streams.step([b, a], torch.randn(2, 3))
    >>> streams.close([a])
    >>> len(streams), streams.step([b], torch.randn(1, 3)).shape
    (1, torch.Size([1, 16]))
    """

    def __init__(self, cell: Cell) -> None:
        if not isinstance(cell, Cell):
            expected = f"expected a Cell, such as nextstate.GRU{cell_of_it(cell)}"
            refuse("Streams", f"the cell is a {type(cell).__name__}; {expected}")
        self._cell = frozen(cell)
        self._table: Tree = start(self._cell, 1)
        self._rows: dict[int, int] = {}
        self._free: list[int] = [0]
        self._next = 0
        self._found: tuple[list[int], Tensor] | None = None
        """The ids looked up last, and their places: the same streams step again and again."""

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def ids(self) -> list[int]:
        """The open streams, the oldest first."""
        return list(self._rows)

    def open(self, count: int = 1) -> list[int]:
        """New streams in the cell's initial state: their ids."""
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            refuse("Streams.open", f"count is {count!r}; expected an integer >= 0")
        return self._enter(start(self._cell, count), count)

    def close(self, ids: Sequence[int]) -> None:
        """These streams end; their ids are not used again."""
        self._places("Streams.close", ids)
        self._free.extend(self._rows.pop(i) for i in ids)
        self._found = None

    def step(self, ids: Sequence[int], u: Tree) -> Tree:
        """One step of these streams: their outputs."""
        parts_of("Streams.step", "u", u)
        vs = self.feed(ids, tree_map(lambda x: x.unsqueeze(0), u))
        return tree_map(lambda v: v.squeeze(0), vs)

    def feed(self, ids: Sequence[int], us: Tree, *, lengths: Tensor | None = None) -> Tree:
        """A chunk for each of these streams: their outputs, zeros after the end of a shorter one."""
        places = self._places("Streams", ids)
        if any(x.dim() < 2 or x.shape[1] != len(places) for x in parts_of("Streams", "us", us)):
            refuse(
                "Streams",
                f"{len(places)} streams, but the input of a chunk is {describe(us)}; expected [T, N, ...]",
            )
        vs, s = advance(self._cell, us, tree_map(lambda x: x[places], self._table), lengths)
        self._write(places, s)
        return vs

    def reset(self, ids: Sequence[int]) -> None:
        """These streams go back to the initial state."""
        places = self._places("Streams.reset", ids)
        self._write(places, start(self._cell, len(places)))

    def state(self, ids: Sequence[int]) -> Tree:
        """A copy of the states of these streams, [N, ...] in every tensor."""
        places = self._places("Streams.state", ids)
        return tree_map(lambda x: x[places], self._table)

    def fork(self, ids: Sequence[int]) -> list[int]:
        """New streams that go on from where these are: their ids."""
        return self._enter(self.state(ids), len(ids))

    def save(self, ids: Sequence[int]) -> bytes:
        """The states of these streams as bytes, such as `Session.save` gives for one."""
        return to_bytes(self._cell, self.state(ids))

    def restore(self, data: bytes) -> list[int]:
        """Open streams from saved bytes, of this object, of another one or of a `Session`: their ids."""
        s = from_bytes("Streams.restore", data, self._cell, self._table, any_rows=True)
        return self._enter(s, len(leaves(s)[0]) if leaves(s) else 0)

    def _enter(self, s: Tree, count: int) -> list[int]:
        while len(self._free) < count:
            self._grow()
        ids = list(range(self._next, self._next + count))
        self._next += count
        for i in ids:
            self._rows[i] = self._free.pop()
        self._write(torch.tensor([self._rows[i] for i in ids], dtype=torch.int64, device="cpu"), s)
        return ids

    def _grow(self) -> None:
        old = len(self._rows) + len(self._free)
        self._table = tree_map(lambda x: torch.cat([x, torch.zeros_like(x)]), self._table)
        self._free[:0] = range(2 * old - 1, old - 1, -1)

    def _places(self, operation: str, ids: Sequence[int]) -> Tensor:
        if isinstance(ids, Tensor) or not isinstance(ids, Collection):
            more = ": ids.tolist()" if isinstance(ids, Tensor) else ", such as [0, 1]"
            refuse(operation, f"ids is {describe(ids)}; expected the integers that open gave{more}")
        if self._found is not None and isinstance(ids, list) and self._found[0] == ids:
            return self._found[1]
        try:
            found = [self._rows.get(i, -1) for i in ids]
        except TypeError:  # something that cannot be a key
            refuse(operation, f"ids is {str(ids)[:40]}; expected the integers that open gave, such as [0, 1]")
        if -1 in found or len(set(found)) != len(found):
            unknown = [i for i in ids if i not in self._rows]
            refuse(
                operation,
                f"{unknown[:5]} are not open streams ({len(self)} are)"
                if unknown
                else "a stream is named twice",
            )
        self._found = list(ids), torch.tensor(found, dtype=torch.int64, device="cpu")
        return self._found[1]

    def _write(self, places: Tensor, s: Tree) -> None:
        for table, rows in zip(leaves(self._table), leaves(s), strict=True):
            table[places] = rows
