"""How the rows of a ragged batch are laid out for the engine: longest first, no padding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """T steps of B rows. With `offsets` None every row is full; else row i of step t is row offsets[t] + i.

    `order` [B]: which original row is row i. `source` [N]: for every packed row its place in the [T * B]
    padded rows, which runs from each row's last step to its first in a layout that is `reverse`. `sequence`
    [N]: the row i it belongs to. `lengths` [B]: sorted, falling.
    """

    steps: int
    batch: int
    rows: int
    offsets: Tensor | None = None
    order: Tensor | None = None
    inverse: Tensor | None = None
    source: Tensor | None = None
    sequence: Tensor | None = None
    lengths: Tensor | None = None

    @staticmethod
    def of(steps: int, batch: int, lengths: Tensor | None, reverse: bool = False) -> Layout:
        if lengths is None and not reverse:
            return Layout(steps, batch, steps * batch)
        if lengths is None:
            lengths = torch.full((batch,), steps, device="cpu")
        ordered, order = torch.sort(lengths, descending=True, stable=True)
        longest = int(ordered[0]) if batch else 0
        times = torch.arange(longest, device="cpu")
        active = (times[:, None] < ordered).sum(1)
        offsets = torch.zeros(longest + 1, dtype=torch.int64, device="cpu")
        torch.cumsum(active, 0, out=offsets[1:])
        rows = int(offsets[-1])
        step = torch.repeat_interleave(times, active, output_size=rows)
        sequence = torch.arange(rows, device="cpu") - offsets[step]
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(batch, device="cpu")
        place = ordered[sequence] - 1 - step if reverse else step
        source = place * batch + order[sequence]
        return Layout(longest, batch, rows, offsets, order, inverse, source, sequence, ordered)

    def pack(self, us: Tensor) -> Tensor:
        """[T, B, ...] to the packed rows [N, ...]."""
        flat = us.flatten(0, 1)
        return flat if self.source is None else flat.index_select(0, self.source)

    def unpack(self, rows: Tensor, steps: int) -> Tensor:
        """Packed rows to [T, B, ...] with zeros after each row's end."""
        if self.source is None:
            return rows.unflatten(0, (steps, self.batch))
        flat = rows.new_zeros((steps * self.batch, *rows.shape[1:]))
        flat.index_copy_(0, self.source, rows)
        return flat.unflatten(0, (steps, self.batch))

    def sort(self, s: Tensor) -> Tensor:
        return s if self.order is None else s.index_select(0, self.order)

    def unsort(self, s: Tensor) -> Tensor:
        return s if self.inverse is None else s.index_select(0, self.inverse)

    def spread(self, s: Tensor) -> Tensor:
        """One row a sequence to one row a step."""
        if self.sequence is None:
            return s.expand(self.steps, *s.shape).flatten(0, 1)
        return s.index_select(0, self.sequence)

    def last_rows(self, ring: bool) -> Tensor | None:
        """Where in a state buffer each row's last state stands; None if that is one piece at the end."""
        if self.lengths is None or self.offsets is None:
            return None
        rows = torch.arange(self.batch, device="cpu")
        if ring:
            return (self.lengths % 2) * self.batch + rows
        before = self.offsets[(self.lengths - 1).clamp(min=0)]
        return torch.where(self.lengths > 0, self.batch + before + rows, rows)
