"""The simple recurrent network with a continuous stack beside its state."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.cell import Cell
from nextstate.cells.parameters import check_input, check_sizes, uniform_
from nextstate.checks import describe, refuse


class StackState(NamedTuple):
    """Hidden state [B, H] and stack [B, D * C]: D cells of C numbers, the top first.

    >>> start = StackRNN(3, 5, stack_width=2, depth=4).initial_state(1)
    >>> start.h.shape, start.stack.shape
    (torch.Size([1, 5]), torch.Size([1, 8]))
    """

    h: Tensor
    stack: Tensor


class StackRNN(Cell):
    """Simple recurrent network with a continuous stack, actions in the order push, pop, keep.

    StackRNN : (u, (h, s)) -> (h', (h', s'))

        h'   = tanh(W u + b + U h + c + P s_1)
        a    = softmax(A h' + d)
        s'_1 = a_push sigmoid(Q h' + e) + a_pop s_2     + a_keep s_1
        s'_i = a_push s_(i-1)           + a_pop s_(i+1) + a_keep s_i

    Every stack is a mixture of the three that the actions would leave, so that gradients reach them. Cells
    below the bottom are 0, and what is pushed past the last one is lost. `depth` is the number D of cells
    of a start made here; no parameter depends on it, and a deeper stack may be given as the start.

    Shapes: u [B, I], h and v [B, H], s [B, D * C]; weight_ih [H, I], weight_hh [H, H], bias_ih and bias_hh
    [H], weight_top [H, C], weight_action [3, H], bias_action [3], weight_push [C, H], bias_push [C].
    Start: U(-1/sqrt(H), 1/sqrt(H)) for every parameter.

    Raises InputError if u is not [B, I], h not [B, H] or s not two cells of C numbers or more.
    Source: Joulin and Mikolov 2015 (arXiv 1503.01007), with one stack of vectors and the action "keep", and
    hyperbolic tangent for the hidden state. It is not a neural stack with fractional strengths
    (Grefenstette et al. 2015).

    >>> cell = StackRNN(3, 5, stack_width=2, depth=4)
    >>> v, (h, stack) = cell(torch.ones(2, 3), cell.initial_state(2))
    >>> v.shape, stack.shape
    (torch.Size([2, 5]), torch.Size([2, 8]))
    """

    gates = ("h",)

    def __init__(self, input_size: int, hidden_size: int, *, stack_width: int = 8, depth: int = 32) -> None:
        super().__init__()
        check_sizes("StackRNN", input_size, hidden_size, stack_width, depth)
        if depth < 2:
            refuse("StackRNN", f"depth is {depth}; a stack needs at least two cells")
        self.input_size, self.hidden_size = input_size, hidden_size
        self.stack_width, self.depth = stack_width, depth
        self.weight_ih = nn.Parameter(torch.empty(hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(hidden_size))
        self.weight_top = nn.Parameter(torch.empty(hidden_size, stack_width))
        self.weight_action = nn.Parameter(torch.empty(3, hidden_size))
        self.bias_action = nn.Parameter(torch.empty(3))
        self.weight_push = nn.Parameter(torch.empty(stack_width, hidden_size))
        self.bias_push = nn.Parameter(torch.empty(stack_width))
        uniform_(self, hidden_size)

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> StackState:
        h = torch.zeros(batch_size, self.hidden_size, device=device, dtype=dtype)
        stack = torch.zeros(batch_size, self.depth * self.stack_width, device=device, dtype=dtype)
        return StackState(h, stack)

    def forward(self, u: Tensor, s: StackState) -> tuple[Tensor, StackState]:
        h, stack = _check_stack(s, self.stack_width)
        check_input("StackRNN", u, self.weight_ih, h, self.hidden_size)
        width = self.stack_width
        from_input = F.linear(u, self.weight_ih, self.bias_ih)
        from_state = F.linear(h, self.weight_hh, self.bias_hh)
        from_stack = F.linear(stack[:, :width], self.weight_top)
        h = torch.tanh(from_input + from_state + from_stack)
        # Every number that acts on a cell is made as wide as a cell: lanes are cheaper than broadcasts.
        actions = [F.linear(h, weight, bias) for weight, bias in self._wide_actions()]
        most = torch.maximum(torch.maximum(actions[0], actions[1]), actions[2])
        powers = [torch.exp(a - most) for a in actions]
        total = powers[0] + powers[1] + powers[2]
        push, pop, keep = (torch.cat([p / total] * (stack.shape[1] // width), -1) for p in powers)
        pushed = torch.sigmoid(F.linear(h, self.weight_push, self.bias_push))
        down = torch.cat([pushed, stack[:, :-width]], -1)
        up = torch.cat([stack[:, width:], torch.zeros_like(pushed)], -1)
        return h, StackState(h, push * down + pop * up + keep * stack)

    def _wide_actions(self) -> list[tuple[Tensor, Tensor]]:
        """Weights [C, H] and biases [C] of each action, the same for every number of a cell."""
        rows = zip(self.weight_action.split(1), self.bias_action.split(1), strict=True)
        return [(row.expand(self.stack_width, -1), bias.expand(self.stack_width)) for row, bias in rows]


def _check_stack(s: StackState, width: int) -> tuple[Tensor, Tensor]:
    """The state is (h, stack), and the stack holds whole cells, two or more."""
    if not isinstance(s, tuple) or len(s) != 2:
        refuse("StackRNN", f"the state is {describe(s)}; expected a pair (h, stack)")
    h, stack = s
    fits = isinstance(stack, Tensor) and stack.dim() == 2 and stack.shape[:1] == h.shape[:1]
    if not fits or stack.shape[1] % width or stack.shape[1] < 2 * width:
        refuse("StackRNN", f"the stack is {describe(stack)}; expected [B, D * {width}] with D >= 2")
    return h, stack
