"""Long short-term memory with one gate for writing and forgetting."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.cells.lstm_state import LSTMFamily, LSTMState
from nextstate.cells.parameters import check_sizes, uniform_


class CoupledLSTM(LSTMFamily):
    """Long short-term memory with coupled input and forget gates, gate order i, g, o.

    CoupledLSTM : (u, (h, c)) -> (h', (h', c'))

        i  = sigmoid(W_i u + b_i + U_i h + d_i)
        g  = tanh   (W_g u + b_g + U_g h + d_g)
        o  = sigmoid(W_o u + b_o + U_o h + d_o)
        c' = (1 - i) c + i g
        h' = o tanh(c')

    Shapes: u [B, I], h, c and v [B, H]; weight_ih [3H, I], weight_hh [3H, H], bias_ih and bias_hh [3H].
    Start: U(-1/sqrt(H), 1/sqrt(H)) for every parameter.

    Raises InputError if u is not [B, I] or the state is not ([B, H], [B, H]).
    Source: Greff et al. 2017 (arXiv 1503.04069), variant CIFG, without peepholes.

    >>> cell = CoupledLSTM(3, 5)
    >>> v, (h, c) = cell(torch.ones(2, 3), cell.initial_state(2))
    >>> v.shape, c.shape
    (torch.Size([2, 5]), torch.Size([2, 5]))
    """

    gates = ("i", "g", "o")
    keeps = ("i", -1)

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        check_sizes("CoupledLSTM", input_size, hidden_size)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_ih = nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(3 * hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(3 * hidden_size))
        uniform_(self, hidden_size)

    def forward(self, u: Tensor, s: LSTMState) -> tuple[Tensor, LSTMState]:
        h, c = self.checked(u, s)
        from_input = F.linear(u, self.weight_ih, self.bias_ih)
        from_state = F.linear(h, self.weight_hh, self.bias_hh)
        i, g, o = (from_input + from_state).chunk(3, -1)
        i = torch.sigmoid(i)
        c = (1 - i) * c + i * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, LSTMState(h, c)
