"""The gated recurrent unit with layer normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.cells.carrying import Carrying
from nextstate.cells.parameters import check_input, check_sizes, ones_, uniform_


class LayerNormGRU(Carrying):
    """Gated recurrent unit with layer norm on both products, reset after the product, gate order r, z, n.

    LayerNormGRU : (u, h) -> (h', h')

        a  = LN(W u) gain_ih + b          LN(x) = (x - mean x) / sqrt(var x + 1e-5) over all 3H numbers
        d  = LN(U h) gain_hh + c
        r  = sigmoid(a_r + d_r)
        z  = sigmoid(a_z + d_z)
        n  = tanh   (a_n + r d_n)
        h' = (1 - z) n + z h

    Shapes: u [B, I], h and v [B, H]; weight_ih [3H, I], weight_hh [3H, H], gain_ih, gain_hh, bias_ih and
    bias_hh [3H].
    Start: gains 1, every other parameter U(-1/sqrt(H), 1/sqrt(H)).

    Raises InputError if u is not [B, I] or h is not [B, H].
    Source: Ba, Kiros and Hinton 2016 (arXiv 1607.06450), with one norm over the three blocks of a product
    where the paper has one over r, z and one over n.

    >>> cell = LayerNormGRU(3, 5)
    >>> v, h = cell(torch.ones(2, 3), cell.initial_state(2))
    >>> v.shape
    torch.Size([2, 5])
    """

    gates = ("r", "z", "n")
    keeps = ("z", 1)

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        check_sizes("LayerNormGRU", input_size, hidden_size)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_ih = nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.gain_ih = nn.Parameter(torch.empty(3 * hidden_size))
        self.gain_hh = nn.Parameter(torch.empty(3 * hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(3 * hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(3 * hidden_size))
        uniform_(self, hidden_size)
        ones_(self.gain_ih, self.gain_hh)

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        return torch.zeros(batch_size, self.hidden_size, device=device, dtype=dtype)

    def step(self, u: Tensor, h: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        check_input("LayerNormGRU", u, self.weight_ih, h, self.hidden_size)
        size = self.gain_ih.shape
        a = F.layer_norm(F.linear(u, self.weight_ih), size, self.gain_ih, self.bias_ih).chunk(3, -1)
        d = F.layer_norm(F.linear(seen, self.weight_hh), size, self.gain_hh, self.bias_hh).chunk(3, -1)
        r = torch.sigmoid(a[0] + d[0])
        z = torch.sigmoid(a[1] + d[1])
        n = torch.tanh(a[2] + r * d[2])
        h = (1 - z) * n + z * h
        return h, h
