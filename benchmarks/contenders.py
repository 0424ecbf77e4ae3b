"""Ways to run one recurrent layer, and the cells that users write."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from measure import Contender, Grads
from torch import Tensor, nn

import nextstate as ns
from nextstate.states import leaves, rebuild

Shape = tuple[int, int, int, int]
"""(B, T, I, H)"""

PEERS: dict[str, tuple[Callable[[int, int], ns.Cell], Callable[[int, int], nn.RNNBase], int]] = {
    "GRU": (ns.GRU, nn.GRU, 3),
    "LSTM": (ns.LSTM, nn.LSTM, 4),
    "Elman": (ns.Elman, nn.RNN, 1),
}
"""Our cell, torch's layer, and the number of gates."""


class UserGRU(ns.Cell):
    """A GRU as one writes it in a notebook: one product over u and h together."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates = nn.Linear(inputs + hidden, 2 * hidden)
        self.candidate = nn.Linear(inputs, hidden)
        self.recurrent = nn.Linear(hidden, hidden)

    def initial_state(self, batch_size: int, *, device=None, dtype=None) -> Tensor:
        return torch.zeros(batch_size, self.hidden, device=device, dtype=dtype)

    def forward(self, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        r, z = torch.sigmoid(self.gates(torch.cat([u, h], -1))).chunk(2, -1)
        n = torch.tanh(self.candidate(u) + r * self.recurrent(h))
        h = (1 - z) * n + z * h
        return h, h


class UserNorm(UserGRU):
    """The same with a layer norm of what it remembers."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        r, z = torch.sigmoid(self.gates(torch.cat([u, h], -1))).chunk(2, -1)
        n = torch.tanh(self.candidate(u) + r * self.norm(self.recurrent(h)))
        h = (1 - z) * n + z * h
        return h, h


class UserDeep(ns.Cell):
    """Two products one after the other in every step."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.input, self.first = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.rate = nn.Parameter(torch.zeros(hidden))

    def initial_state(self, batch_size: int, *, device=None, dtype=None) -> Tensor:
        return torch.zeros(batch_size, self.hidden, device=device, dtype=dtype)

    def forward(self, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        a = torch.sigmoid(self.rate)
        h = (1 - a) * h + a * torch.tanh(self.second(torch.relu(self.input(u) + self.first(h))))
        return h, h


USER_CELLS: dict[str, Callable[[int, int], ns.Cell]] = {
    "user GRU": UserGRU, "user GRU, layer norm": UserNorm, "user, two products": UserDeep,
}  # fmt: skip


def ours(cell: ns.Cell, name: str = "nextstate", lengths: Tensor | None = None) -> Contender:
    cell = copy.deepcopy(cell)
    return Contender(
        name, lambda us: ns.scan(cell, us, lengths=lengths, engine="cpu")[0], list(cell.parameters())
    )


def torch_layer(cell: ns.Cell, layer: nn.RNNBase, packed: Tensor | None = None) -> Contender:
    """torch.nn with the weights of our cell; `packed` are lengths for a packed sequence."""
    for theirs, own in zip(layer.parameters(), cell.parameters(), strict=True):
        theirs.data.copy_(own.data)
    if packed is None:
        return Contender("torch.nn", lambda us: layer(us)[0], list(layer.parameters()))

    def forward(us: Tensor) -> Tensor:
        rows = nn.utils.rnn.pack_padded_sequence(us, packed, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(layer(rows)[0], total_length=us.shape[0])[0]

    return Contender("torch.nn packed", forward, list(layer.parameters()))


def loop(cell: ns.Cell) -> Contender:
    """The step in a Python loop, as one writes it without a library; torch.stack at the end."""
    cell = copy.deepcopy(cell)
    return Contender("torch eager loop", _loop(cell, cell), list(cell.parameters()))


def compiled_loop(cell: ns.Cell) -> Contender:
    """The step compiled by torch.compile, in a Python loop."""
    cell = copy.deepcopy(cell)
    return Contender(
        "torch.compile step", _loop(cell, torch.compile(cell, fullgraph=True)), list(cell.parameters())
    )


def _loop(cell: ns.Cell, step: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
    def forward(us: Tensor) -> Tensor:
        s, vs = cell.initial_state(us.shape[1], dtype=us.dtype), []
        for u in us.unbind(0):
            v, s = step(u, s)
            vs.append(v)
        return torch.stack(vs)

    return forward


def torch_scan(cell: ns.Cell) -> Contender:
    """torch's own scan, a higher-order operator, compiled."""
    from torch._higher_order_ops.scan import scan

    cell = copy.deepcopy(cell)

    @torch.compile(fullgraph=True)
    def forward(us: Tensor) -> Tensor:
        start = cell.initial_state(us.shape[1], dtype=us.dtype)

        def step(state: list[Tensor], u: Tensor) -> tuple[list[Tensor], Tensor]:
            v, s = cell(u, rebuild(start, state))
            return [x.clone() for x in leaves(s)], v.clone()

        return scan(step, leaves(start), us)[1]

    return Contender("torch scan", forward, list(cell.parameters()))


def exact(cell: ns.Cell, us: Any, cotangent: Tensor, lengths: Tensor | None = None) -> Grads:
    """The same task on the reference engine, in float64."""
    cell = copy.deepcopy(cell).double()
    us = us.detach().double().requires_grad_() if us.is_floating_point() else us
    truth = Contender(
        "float64",
        lambda us: ns.scan(cell, us, lengths=lengths, engine="reference")[0],
        list(cell.parameters()),
    )
    return truth.train(us, cotangent.double())


def problem(shape: Shape, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Input [T, B, I] that wants a gradient, and the cotangent of the outputs [T, B, H]."""
    batch, steps, inputs, hidden = shape
    torch.manual_seed(seed)
    return torch.randn(steps, batch, inputs).requires_grad_(), torch.randn(steps, batch, hidden)
