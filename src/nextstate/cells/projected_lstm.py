"""Long short-term memory with a projected hidden state."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.cells.lstm_state import LSTMFamily, LSTMState
from nextstate.cells.parameters import check_sizes, uniform_


class ProjectedLSTM(LSTMFamily):
    """Long short-term memory with a recurrent projection, gate order i, f, g, o.

    ProjectedLSTM : (u, (h, c)) -> (h', (h', c'))

        i, f, o = sigmoid(W u + b + U h + d)
        g       = tanh   (W u + b + U h + d)
        c'      = f c + i g
        h'      = R (o tanh(c'))

    Shapes: u [B, I], h and v [B, P], c [B, H]; weight_ih [4H, I], weight_hh [4H, P], bias_ih and bias_hh
    [4H], weight_hr [P, H]: the layout of `torch.nn.LSTM(I, H, proj_size=P)`, without its suffix `_l0`.
    Start: U(-1/sqrt(H), 1/sqrt(H)) for every parameter, as PyTorch.

    Raises InputError if u is not [B, I] or the state is not ([B, P], [B, H]).
    Source: Sak, Senior and Beaufays 2014 (arXiv 1402.1128), without its peepholes.

    >>> cell = ProjectedLSTM(3, 5, projection_size=2)
    >>> v, (h, c) = cell(torch.ones(4, 3), cell.initial_state(4))
    >>> v.shape, c.shape
    (torch.Size([4, 2]), torch.Size([4, 5]))
    """

    gates = ("i", "f", "g", "o")
    keeps = ("f", 1)

    def __init__(self, input_size: int, hidden_size: int, projection_size: int) -> None:
        super().__init__()
        check_sizes("ProjectedLSTM", input_size, hidden_size, projection_size)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.projection_size = projection_size
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, projection_size))
        self.bias_ih = nn.Parameter(torch.empty(4 * hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(4 * hidden_size))
        self.weight_hr = nn.Parameter(torch.empty(projection_size, hidden_size))
        uniform_(self, hidden_size)

    @property
    def output_size(self) -> int:
        return self.projection_size

    def forward(self, u: Tensor, s: LSTMState) -> tuple[Tensor, LSTMState]:
        h, c = self.checked(u, s)
        from_input = F.linear(u, self.weight_ih, self.bias_ih)
        from_state = F.linear(h, self.weight_hh, self.bias_hh)
        i, f, g, o = (from_input + from_state).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = F.linear(torch.sigmoid(o) * torch.tanh(c), self.weight_hr)
        return h, LSTMState(h, c)
