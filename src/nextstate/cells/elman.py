"""The simple recurrent network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.cell import Cell
from nextstate.cells.parameters import check_input, check_sizes, uniform_
from nextstate.checks import refuse


class Elman(Cell):
    """Simple recurrent network with a chosen activation.

    Elman : (u, h) -> (h', h')

        h' = activation(W u + b + U h + c)

    Shapes: u [B, I], h and v [B, H]; weight_ih [H, I], weight_hh [H, H], bias_ih and bias_hh [H]: the
    layout of `torch.nn.RNNCell`, whose state_dict loads here and back.
    `activation` is any elementwise function or module, `torch.tanh` unless said.
    Start: U(-1/sqrt(H), 1/sqrt(H)) for every parameter, as PyTorch.

    Raises InputError if u is not [B, I] or h is not [B, H].
    Source: Elman, Finding Structure in Time, 1990. It is not Jordan's network, which feeds back the
    output of a read-out layer.

    >>> cell = Elman(3, 5, activation=torch.relu)
    >>> v, h = cell(torch.ones(2, 3), cell.initial_state(2))
    >>> v.shape, bool((v >= 0).all())
    (torch.Size([2, 5]), True)
    """

    gates = ("h",)

    def __init__(
        self, input_size: int, hidden_size: int, *, activation: Callable[[Tensor], Tensor] = torch.tanh
    ) -> None:
        super().__init__()
        check_sizes("Elman", input_size, hidden_size)
        if not callable(activation):
            refuse("Elman", f"activation is {activation!r}; expected a function, such as torch.relu")
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_ih = nn.Parameter(torch.empty(hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(hidden_size))
        uniform_(self, hidden_size)
        self.activation = activation

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        return torch.zeros(batch_size, self.hidden_size, device=device, dtype=dtype)

    def forward(self, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        check_input("Elman", u, self.weight_ih, h, self.hidden_size)
        from_input = F.linear(u, self.weight_ih, self.bias_ih)
        from_state = F.linear(h, self.weight_hh, self.bias_hh)
        h = self.activation(from_input + from_state)
        return h, h
