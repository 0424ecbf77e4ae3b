"""Long short-term memory whose gates look at the memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.cells.lstm_state import LSTMFamily, LSTMState
from nextstate.cells.parameters import check_sizes, uniform_


class PeepholeLSTM(LSTMFamily):
    """Long short-term memory with diagonal peepholes, gate order i, f, g, o.

    PeepholeLSTM : (u, (h, c)) -> (h', (h', c'))

        i  = sigmoid(W_i u + b_i + U_i h + d_i + p_i c)
        f  = sigmoid(W_f u + b_f + U_f h + d_f + p_f c)
        g  = tanh   (W_g u + b_g + U_g h + d_g)
        c' = f c + i g
        o  = sigmoid(W_o u + b_o + U_o h + d_o + p_o c')
        h' = o tanh(c')

    Shapes: u [B, I], h, c and v [B, H]; weight_ih [4H, I], weight_hh [4H, H], bias_ih and bias_hh [4H],
    peephole [3H] in the order i, f, o. With peephole = 0 it is `LSTM`.
    Start: U(-1/sqrt(H), 1/sqrt(H)) for every parameter.

    Raises InputError if u is not [B, I] or the state is not ([B, H], [B, H]).
    Source: Gers and Schmidhuber 2000. The output gate looks at the new memory, as in Graves 2013.

    >>> cell = PeepholeLSTM(3, 5)
    >>> v, (h, c) = cell(torch.ones(2, 3), cell.initial_state(2))
    >>> v.shape, c.shape
    (torch.Size([2, 5]), torch.Size([2, 5]))
    """

    gates = ("i", "f", "g", "o")
    keeps = ("f", 1)

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        check_sizes("PeepholeLSTM", input_size, hidden_size)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(4 * hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(4 * hidden_size))
        self.peephole = nn.Parameter(torch.empty(3 * hidden_size))
        uniform_(self, hidden_size)

    def forward(self, u: Tensor, s: LSTMState) -> tuple[Tensor, LSTMState]:
        h, c = self.checked(u, s)
        from_input = F.linear(u, self.weight_ih, self.bias_ih)
        from_state = F.linear(h, self.weight_hh, self.bias_hh)
        i, f, g, o = (from_input + from_state).chunk(4, -1)
        p_i, p_f, p_o = self.peephole.chunk(3, -1)
        c_next = torch.sigmoid(f + p_f * c) * c + torch.sigmoid(i + p_i * c) * torch.tanh(g)
        h = torch.sigmoid(o + p_o * c_next) * torch.tanh(c_next)
        return h, LSTMState(h, c_next)
