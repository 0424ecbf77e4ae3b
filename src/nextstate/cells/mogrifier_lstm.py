"""Long short-term memory whose input and state gate each other before the step: the Mogrifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.cells.lstm_state import LSTMFamily, LSTMState
from nextstate.cells.parameters import check_sizes, uniform_
from nextstate.checks import refuse


class MogrifierLSTM(LSTMFamily):
    """Long short-term memory behind `rounds` of mutual gating of input and state, gate order i, f, g, o.

    MogrifierLSTM : (u, (h, c)) -> (h', (h', c'))

        u <- 2 sigmoid(Q_k h) u      in rounds 1, 3, 5, ..., with Q_k = Q_1, Q_2, ...
        h <- 2 sigmoid(R_k u) h      in rounds 2, 4, 6, ..., each with what the round before left
        (h', c') = LSTM(u, (h, c))   with the u and h that the last round left

    Without rounds it is `LSTM`. There are no biases in the rounds: at Q = R = 0 they change nothing.

    Shapes: u [B, I], h, c and v [B, H]; weight_q [ceil(rounds / 2) I, H], weight_r [floor(rounds / 2) H, I]:
    the matrices of the rounds below each other, in order; weight_ih [4H, I], weight_hh [4H, H], bias_ih and
    bias_hh [4H] as in `LSTM`.
    Start: U(-1/sqrt(H), 1/sqrt(H)) for every parameter.

    Raises InputError if rounds is no integer >= 0, u is not [B, I] or the state is not ([B, H], [B, H]).
    Source: Melis, Kocisky and Blunsom 2020 (arXiv 1909.01792), five rounds, full matrices: what the paper
    writes as a product of two thin ones is one matrix here.

    >>> cell = MogrifierLSTM(3, 5)
    >>> v, (h, c) = cell(torch.ones(2, 3), cell.initial_state(2))
    >>> v.shape, cell.weight_q.shape, cell.weight_r.shape
    (torch.Size([2, 5]), torch.Size([9, 5]), torch.Size([10, 3]))
    """

    gates = ("i", "f", "g", "o")
    keeps = ("f", 1)

    def __init__(self, input_size: int, hidden_size: int, rounds: int = 5) -> None:
        super().__init__()
        check_sizes("MogrifierLSTM", input_size, hidden_size)
        if not isinstance(rounds, int) or rounds < 0:
            refuse("MogrifierLSTM", f"rounds is {rounds!r}; expected an integer >= 0")
        self.input_size, self.hidden_size, self.rounds = input_size, hidden_size, rounds
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(4 * hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(4 * hidden_size))
        self.weight_q = nn.Parameter(torch.empty((rounds + 1) // 2 * input_size, hidden_size))
        self.weight_r = nn.Parameter(torch.empty(rounds // 2 * hidden_size, input_size))
        uniform_(self, hidden_size)

    def forward(self, u: Tensor, s: LSTMState) -> tuple[Tensor, LSTMState]:
        h, c = self.checked(u, s)
        qs, rs = self.weight_q.split(self.input_size), self.weight_r.split(self.hidden_size)
        for number in range(self.rounds):
            if number % 2 == 0:
                u = 2 * torch.sigmoid(F.linear(h, qs[number // 2])) * u
            else:
                h = 2 * torch.sigmoid(F.linear(u, rs[number // 2])) * h
        from_input = F.linear(u, self.weight_ih, self.bias_ih)
        from_state = F.linear(h, self.weight_hh, self.bias_hh)
        i, f, g, o = (from_input + from_state).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, LSTMState(h, c)
