"""Cells for the export tests: every operation that a step may hold, and steps of odd shapes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nextstate as ns
from catalogue import BY_NAME, ROWS, Row, randomise_

POSITIVE = 0.5
OPERATIONS = {
    "neg": lambda x: -x, "recip": lambda x: 1 / (x.abs() + POSITIVE), "abs": torch.abs, "sign": torch.sign,
    "sqrt": lambda x: (x.abs() + POSITIVE).sqrt(), "rsqrt": lambda x: (x.abs() + POSITIVE).rsqrt(),
    "exp": torch.exp, "expm1": torch.expm1, "log": lambda x: (x.abs() + POSITIVE).log(),
    "log1p": lambda x: x.abs().log1p(), "tanh": torch.tanh, "sigmoid": torch.sigmoid, "silu": F.silu,
    "relu": torch.relu, "erf": torch.erf, "sin": torch.sin, "cos": torch.cos, "floor": torch.floor,
    "not": lambda x: torch.logical_not(x > 0).float(), "div": lambda x: x / (x.square() + POSITIVE),
    "max": lambda x: torch.maximum(x, 0.3 * x), "min": lambda x: x.clamp(max=0.2),
    "gt": lambda x: (x > 0.1).float(), "ge": lambda x: (x >= 0.1).float(), "lt": lambda x: (x < 0.1).float(),
    "le": lambda x: (x <= 0.1).float(), "eq": lambda x: (x.relu() == 0).float(),
    "ne": lambda x: (x.relu() != 0).float(), "and": lambda x: ((x > 0) & (x < 1)).float(),
    "or": lambda x: ((x < -0.5) | (x > 0.5)).float(), "where": lambda x: torch.where(x > 0, x, 2 * x),
    "pow": lambda x: (x.abs() + POSITIVE) ** 1.7, "softplus": F.softplus,
    "blend": lambda x: torch.lerp(x, 2 * x.sin(), x.sigmoid()), "gelu": F.gelu, "elu": F.elu,
    "mish": F.mish, "hardsigmoid": F.hardsigmoid, "leaky relu": F.leaky_relu, "logsigmoid": F.logsigmoid,
    "softmax": lambda x: x.softmax(-1), "log softmax": lambda x: x.log_softmax(-1),
    "mean": lambda x: x - x.mean(-1, keepdim=True),
    "amax": lambda x: x / (1 + x.amax(-1, keepdim=True).abs()),
    "var": lambda x: x * x.var(-1, keepdim=True), "norm": lambda x: x / (1 + x.norm(dim=-1, keepdim=True)),
    "layer norm": lambda x: F.layer_norm(x, (5,)),
    "halves": lambda x: torch.cat([x[:, 2:], x[:, :2].sin()], -1),
    "one feature": lambda x: x[:, :1] * x + x[:, 1:2].expand(-1, 5),
}  # fmt: skip


def operation_cell(name: str) -> ns.Cell:
    """h' = f(W u + R h), v = f(h'): the operation inside the loop and behind it."""
    weights = nn.ModuleDict({"input": nn.Linear(3, 5), "recurrent": nn.Linear(5, 5)})
    f = OPERATIONS[name]

    def step(u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(f(weights["input"](u) + weights["recurrent"](h)))
        return f(h), h

    return randomise_(ns.FunctionCell(step, lambda b, **kw: torch.zeros(b, 5, **kw), weights))


class Heads(ns.Cell):
    """A state [B, heads, K] that decays at its own rates, a counter [B, 1]; two outputs and a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.empty(2, 3))
        self.input = nn.Linear(4, 6)

    def initial_state(self, batch_size, *, device=None, dtype=None):
        kind = {"device": device, "dtype": dtype}
        return torch.zeros(batch_size, 2, 3, **kind), torch.ones(batch_size, 1, **kind)

    def forward(self, u, s):
        memory, count = s
        new = memory * self.rate.sigmoid() + self.input(u).view(-1, 2, 3)
        return (new, new.flatten(1) / count, count > 2), (new, count + 1)


class Forgetful(ns.Cell):
    """A next state that is made of the input alone, and an output that reads the old one."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Linear(4, 3)

    def initial_state(self, batch_size, *, device=None, dtype=None):
        return torch.zeros(batch_size, 3, device=device, dtype=dtype)

    def forward(self, u, s):
        return s * s, self.input(u)


USERS = {"Heads": Heads, "Forgetful": Forgetful}


def catalogue_cell(row: Row) -> tuple[ns.Cell, object]:
    cell = row.cell(dtype=torch.float32).eval()
    return cell, row.us(6, 3, dtype=torch.float32)


__all__ = ["BY_NAME", "OPERATIONS", "ROWS", "USERS", "catalogue_cell", "operation_cell", "randomise_"]
