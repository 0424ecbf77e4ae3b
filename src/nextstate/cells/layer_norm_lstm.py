"""Long short-term memory with layer normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.cells.lstm_state import LSTMFamily, LSTMState
from nextstate.cells.parameters import check_sizes, ones_, uniform_


class LayerNormLSTM(LSTMFamily):
    """Long short-term memory with layer norm on both products and on the memory, gate order i, f, g, o.

    LayerNormLSTM : (u, (h, c)) -> (h', (h', c'))

        i, f, g, o = LN(W u) gain_ih + b + LN(U h) gain_hh + d      over all 4H numbers of a product
        c' = sigmoid(f) c + sigmoid(i) tanh(g)
        h' = sigmoid(o) tanh(LN(c') gain_c + b_c)                   over the H numbers of the memory

    LN(x) = (x - mean x) / sqrt(var x + 1e-5). The memory is carried on as it is; only the output sees it
    normalised.

    Shapes: u [B, I], h, c and v [B, H]; weight_ih [4H, I], weight_hh [4H, H], gain_ih, gain_hh, bias_ih and
    bias_hh [4H], gain_c and bias_c [H].
    Start: gains 1, every other parameter U(-1/sqrt(H), 1/sqrt(H)).

    Raises InputError if u is not [B, I] or the state is not ([B, H], [B, H]).
    Source: Ba, Kiros and Hinton 2016 (arXiv 1607.06450), equations 20 to 22, with one norm for the four
    blocks of a product.

    >>> cell = LayerNormLSTM(3, 5)
    >>> v, (h, c) = cell(torch.ones(2, 3), cell.initial_state(2))
    >>> v.shape, c.shape
    (torch.Size([2, 5]), torch.Size([2, 5]))
    """

    gates = ("i", "f", "g", "o")
    keeps = ("f", 1)

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        check_sizes("LayerNormLSTM", input_size, hidden_size)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.gain_ih = nn.Parameter(torch.empty(4 * hidden_size))
        self.gain_hh = nn.Parameter(torch.empty(4 * hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(4 * hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(4 * hidden_size))
        self.gain_c = nn.Parameter(torch.empty(hidden_size))
        self.bias_c = nn.Parameter(torch.empty(hidden_size))
        uniform_(self, hidden_size)
        ones_(self.gain_ih, self.gain_hh, self.gain_c)

    def forward(self, u: Tensor, s: LSTMState) -> tuple[Tensor, LSTMState]:
        h, c = self.checked(u, s)
        size = self.gain_ih.shape
        from_input = F.layer_norm(F.linear(u, self.weight_ih), size, self.gain_ih, self.bias_ih)
        from_state = F.layer_norm(F.linear(h, self.weight_hh), size, self.gain_hh, self.bias_hh)
        i, f, g, o = (from_input + from_state).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(F.layer_norm(c, self.gain_c.shape, self.gain_c, self.bias_c))
        return h, LSTMState(h, c)
