"""What the cells with the state of an LSTM share: the pair (h, c), its start, and the check of a step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nextstate.cell import Cell
from nextstate.cells.parameters import check_input
from nextstate.checks import describe, refuse


class LSTMState(NamedTuple):
    """State of the LSTM family: hidden `h` (also the output) and memory `c`, both batch first.

    >>> LSTMState(torch.zeros(2, 5), torch.zeros(2, 5)).c.shape
    torch.Size([2, 5])
    """

    h: Tensor
    c: Tensor


class LSTMFamily(Cell):
    """A cell with `weight_ih` [rows, I] whose state is an `LSTMState` of h [B, output size] and c [B, H]."""

    hidden_size: int
    weight_ih: Tensor

    @property
    def output_size(self) -> int:
        """How many numbers h has: as many as c, unless it is projected."""
        return self.hidden_size

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> LSTMState:
        h, c = (
            torch.zeros(batch_size, size, device=device, dtype=dtype)
            for size in (self.output_size, self.hidden_size)
        )
        return LSTMState(h, c)

    def checked(self, u: Tensor, s: LSTMState) -> LSTMState:
        """The state of a step, if it and the input have the sizes, dtype and device of the weights."""
        name = type(self).__name__
        if not isinstance(s, tuple) or len(s) != 2:
            refuse(name, f"the state is {describe(s)}; expected a pair (h, c)")
        check_input(name, u, self.weight_ih, s[0], self.output_size)
        check_input(name, u, self.weight_ih, s[1], self.hidden_size)
        return LSTMState(*s)
