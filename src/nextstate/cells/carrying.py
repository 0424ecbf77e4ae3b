"""Cells whose state takes two roads through a step: into the products, and past them."""

from __future__ import annotations

from torch import Tensor

from nextstate.cell import Cell


class Carrying(Cell):
    """A cell that carries its state on by a gate, beside reading it.

    Carrying.step : (u, h, seen) -> (v, h')

    `seen` is what the recurrent products read; h is what the gate carries on. A plain step sees h itself,
    variational dropout sees a masked h: a mask on the road past the products would wipe out or inflate
    the memory a little more at every step.

    Subclasses define `step` and `initial_state`; the gated recurrent units do.

    >>> from nextstate import GRU
    >>> isinstance(GRU(3, 5), Carrying)
    True
    """

    def step(self, u: Tensor, h: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(f"{type(self).__name__} must define step(u, h, seen) -> (v, h')")

    def forward(self, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.step(u, h, h)
