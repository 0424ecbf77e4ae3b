"""The minimal gated recurrent unit, linear in its state."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.cell import Cell
from nextstate.cells.parameters import check_input, check_sizes, uniform_


class MinGRU(Cell):
    """Minimal gated recurrent unit: gate and candidate read the input only, gate order z, g.

    MinGRU : (u, h) -> (h', h')

        z  = sigmoid(W_z u + b_z)
        g  = W_g u + b_g
        h' = (1 - z) h + z g

    The state enters linearly and unit by unit, so the sequence is one linear recurrence. Mind the sense of
    z: here 1 writes, in `GRU` 1 keeps.

    Shapes: u [B, I], h and v [B, H]; weight_ih [2H, I], bias_ih [2H].
    Start: U(-1/sqrt(H), 1/sqrt(H)) for every parameter.

    Raises InputError if u is not [B, I] or h is not [B, H].
    Source: Feng et al. 2024 (arXiv 2410.01201), the plain form; its log-space form, whose g is positive, is
    another function.

    >>> cell = MinGRU(3, 5)
    >>> v, h = cell(torch.ones(2, 3), cell.initial_state(2))
    >>> v.shape
    torch.Size([2, 5])
    """

    gates = ("z", "g")
    keeps = ("z", -1)

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        check_sizes("MinGRU", input_size, hidden_size)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_ih = nn.Parameter(torch.empty(2 * hidden_size, input_size))
        self.bias_ih = nn.Parameter(torch.empty(2 * hidden_size))
        uniform_(self, hidden_size)

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        return torch.zeros(batch_size, self.hidden_size, device=device, dtype=dtype)

    def forward(self, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        check_input("MinGRU", u, self.weight_ih, h, self.hidden_size)
        z, g = F.linear(u, self.weight_ih, self.bias_ih).chunk(2, -1)
        z = torch.sigmoid(z)
        h = (1 - z) * h + z * g
        return h, h
