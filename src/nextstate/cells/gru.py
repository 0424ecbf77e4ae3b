"""The gated recurrent unit in the form of cuDNN and PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.cells.carrying import Carrying
from nextstate.cells.parameters import check_input, check_sizes, uniform_


class GRU(Carrying):
    """Gated recurrent unit, reset after the product (as cuDNN and PyTorch), gate order r, z, n.

    GRU : (u, h) -> (h', h')

        r  = sigmoid(W_r u + b_r + U_r h + c_r)
        z  = sigmoid(W_z u + b_z + U_z h + c_z)
        n  = tanh   (W_n u + b_n + r (U_n h + c_n))
        h' = (1 - z) n + z h

    Shapes: u [B, I], h and v [B, H]; weight_ih [3H, I], weight_hh [3H, H], bias_ih and bias_hh [3H]: the
    layout of `torch.nn.GRUCell`, whose state_dict loads here and back.
    Start: U(-1/sqrt(H), 1/sqrt(H)) for every parameter, as PyTorch; `nextstate.init` has other choices.

    Raises InputError if u is not [B, I] or h is not [B, H].
    Source: Cho et al. 2014 (arXiv 1406.1078), first version. It is not the form of the last version of that
    paper, which applies the reset gate before the product: that is `ResetBeforeGRU`.

    >>> cell = GRU(3, 5)
    >>> v, h = cell(torch.ones(2, 3), cell.initial_state(2))
    >>> v.shape
    torch.Size([2, 5])
    """

    gates = ("r", "z", "n")
    keeps = ("z", 1)

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        check_sizes("GRU", input_size, hidden_size)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_ih = nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(3 * hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(3 * hidden_size))
        uniform_(self, hidden_size)

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        return torch.zeros(batch_size, self.hidden_size, device=device, dtype=dtype)

    def step(self, u: Tensor, h: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        check_input("GRU", u, self.weight_ih, h, self.hidden_size)
        from_input = F.linear(u, self.weight_ih, self.bias_ih).chunk(3, -1)
        from_state = F.linear(seen, self.weight_hh, self.bias_hh).chunk(3, -1)
        r = torch.sigmoid(from_input[0] + from_state[0])
        z = torch.sigmoid(from_input[1] + from_state[1])
        n = torch.tanh(from_input[2] + r * from_state[2])
        h = (1 - z) * n + z * h
        return h, h
