"""Steps as users write them, one row each, to be compiled and compared with the reference engine."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nextstate as ns

INPUT, HIDDEN = 7, 20


class Step(ns.Cell):
    """A cell made of one function (cell, u, h) -> h' with parts to choose from; the output is h'."""

    def __init__(self, function: Callable[[Step, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.a = nn.Linear(INPUT, HIDDEN)
        self.r = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.q = nn.Linear(HIDDEN, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN)
        self.gates = nn.Linear(INPUT + HIDDEN, 3 * HIDDEN)
        self.w = nn.Parameter(torch.empty(HIDDEN))
        self.k = nn.Parameter(torch.empty(1))
        self.heads = nn.Parameter(torch.empty(4, 5, 5))
        self.down, self.up = nn.Linear(HIDDEN, 3), nn.Linear(3, HIDDEN)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0.05, 0.3)

    def initial_state(self, batch_size: int, *, device=None, dtype=None) -> Tensor:
        return torch.zeros(batch_size, HIDDEN, device=device, dtype=dtype)

    def forward(self, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = self.function(self, u, h)
        return h, h


def gru(s: Step, u: Tensor, h: Tensor) -> Tensor:
    z, r, n = s.gates(torch.cat([u, h], -1)).chunk(3, -1)
    z = z.sigmoid()
    return (1 - z) * torch.tanh(n * r.sigmoid()) + z * h


def split(s: Step, u: Tensor, h: Tensor) -> Tensor:
    a, b, c = torch.split(s.gates(torch.cat([h, u], 1)), [HIDDEN, 5, 2 * HIDDEN - 5], dim=1)
    return torch.tanh(a) * 0.5 + torch.cat([b, c[:, : HIDDEN - 5]], 1) * 0.1


def attention_over_parts(s: Step, u: Tensor, h: Tensor) -> Tensor:
    weights = s.q(h).softmax(-1)
    return torch.tanh(s.a(u) + weights * s.r(h)) + 0.1 * (weights * h).sum(-1, keepdim=True)


STEPS: dict[str, Callable[[Step, Tensor, Tensor], Tensor]] = {
    # products
    "linear": lambda s, u, h: s.a(u) + 0.3 * s.r(h),
    "functional linear": lambda s, u, h: torch.tanh(F.linear(h, s.r.weight, s.w) + s.a(u)),
    "at": lambda s, u, h: torch.tanh(s.a(u) + h @ s.r.weight),
    "at transposed": lambda s, u, h: torch.tanh(s.a(u) + h @ s.r.weight.T),
    "matmul": lambda s, u, h: torch.tanh(s.a(u) + torch.matmul(h, s.r.weight)),
    "addmm": lambda s, u, h: torch.tanh(torch.addmm(s.w, h, s.r.weight) + s.a(u)),
    "einsum": lambda s, u, h: torch.tanh(s.a(u) + torch.einsum("bi,ij->bj", h, s.r.weight)),
    "einsum transposed": lambda s, u, h: torch.tanh(s.a(u) + torch.einsum("bi,ji->bj", h, s.r.weight)),
    "einsum weight first": lambda s, u, h: torch.tanh(s.a(u) + torch.einsum("ij,bj->bi", s.r.weight, h)),
    "einsum with input": lambda s, u, h: torch.tanh(torch.einsum("bi,ji->bj", u, s.a.weight) + s.r(h)),
    "einsum dot": lambda s, u, h: torch.tanh(s.a(u) + torch.einsum("bi,bi->b", h, s.q(h))[:, None]),
    "einsum scale": lambda s, u, h: torch.tanh(s.a(u) + torch.einsum("bi,i->bi", h, s.w)),
    "einsum heads": lambda s, u, h: torch.tanh(
        s.a(u) + torch.einsum("bnd,nde->bne", h.view(-1, 4, 5), s.heads).flatten(1)
    ),
    "rows in columns": lambda s, u, h: torch.tanh(s.a(u) + (s.r.weight @ h.T).T),
    "matrix and vector": lambda s, u, h: torch.tanh(s.a(u) + (h @ s.w)[:, None] * h),
    "two in a row": lambda s, u, h: torch.tanh(s.q(torch.relu(s.r(h) + s.a(u)))),
    "bottleneck": lambda s, u, h: torch.tanh(s.a(u) + s.up(torch.tanh(s.down(h)))),
    "three in a row": lambda s, u, h: torch.tanh(s.r(torch.tanh(s.q(torch.tanh(s.r(h)) + s.a(u))))),
    "shared weight": lambda s, u, h: torch.tanh(s.a(u) + s.r(torch.sigmoid(s.r(h)))),
    "gated product": lambda s, u, h: torch.tanh(s.a(u) + s.r(torch.sigmoid(s.a(u)) * h)),
    "joined": lambda s, u, h: torch.tanh(
        F.linear(torch.cat([u, h], -1), torch.cat([s.a.weight, s.r.weight], 1), s.w)
    ),
    "antisymmetric": lambda s, u, h: h + 0.1 * torch.tanh(s.a(u) + h @ (s.r.weight - s.r.weight.T)),
    "normalised weight": lambda s, u, h: torch.tanh(
        s.a(u) + F.linear(h, s.r.weight / s.r.weight.norm(dim=1, keepdim=True))
    ),
    "product of intermediates": lambda s, u, h: torch.tanh(s.a(u) * s.r(h) + s.q(h) * h),
    # parts
    "chunked gates": gru,
    "split": split,
    "slices": lambda s, u, h: torch.tanh(torch.cat([s.a(u)[:, :5] + h[:, :5], s.r(h)[:, 5:]], -1)),
    "rolled": lambda s, u, h: torch.tanh(s.a(u) + torch.cat([h[:, 3:], h[:, :3]], -1)),
    "unbind": lambda s, u, h: torch.tanh(s.a(u) + torch.cat(s.r(h).view(-1, 4, 5).unbind(1), -1)),
    "view": lambda s, u, h: torch.tanh(s.a(u) + s.r(h)).view(-1, 4, 5).flatten(1),
    "one feature of u": lambda s, u, h: torch.tanh(s.a(u) + s.r(h)) * u[:, :1],
    "one feature with a bias": lambda s, u, h: torch.tanh(s.a(u) + torch.sigmoid(s.down(h)[:, :1]) * h),
    "one feature and a number": lambda s, u, h: torch.tanh(
        s.a(u) + torch.sigmoid(s.r(h)[:, :1] - torch.exp(s.k)) * h
    ),
    "softmax in parts": lambda s, u, h: torch.tanh(
        s.a(u) + sum(a * b for a, b in zip(s.down(h).softmax(-1).chunk(3, -1), (h, s.r(h), s.w), strict=True))
    ),
    "one feature of h": lambda s, u, h: torch.tanh(s.a(u) + s.r(h)) * h[:, :1],
    # activations
    "detached state": lambda s, u, h: torch.tanh(s.a(u) + s.r(h)) + 0.5 * h.detach(),
    "detached product": lambda s, u, h: torch.tanh(s.a(u) + s.r(h).detach() + s.q(h)),
    "detached gate": lambda s, u, h: torch.sigmoid(s.r(h) + s.a(u)).detach() * torch.tanh(s.q(h) + s.a(u)),
    "detached sum": lambda s, u, h: torch.tanh(s.q(h)) * (s.a(u) + s.r(h)).detach(),
    "data of a value": lambda s, u, h: torch.tanh(s.a(u) + s.r(h)) * torch.tanh(h).data,
    "straight through": lambda s, u, h: (x := torch.tanh(s.a(u) + s.r(h))) + (x.sign() - x).detach(),
    "relu": lambda s, u, h: torch.relu(s.a(u) + 0.3 * s.r(h)),
    "gelu": lambda s, u, h: F.gelu(s.a(u) + s.r(h)),
    "gelu tanh": lambda s, u, h: F.gelu(s.a(u) + s.r(h), approximate="tanh"),
    "elu": lambda s, u, h: F.elu(s.a(u) + s.r(h)),
    "silu": lambda s, u, h: F.silu(s.a(u) + s.r(h)),
    "leaky relu": lambda s, u, h: F.leaky_relu(s.a(u) + 0.2 * s.r(h)),
    "softplus": lambda s, u, h: F.softplus(s.a(u) - s.r(h)),
    "hardtanh": lambda s, u, h: F.hardtanh(s.a(u) + s.r(h)),
    "hardsigmoid": lambda s, u, h: F.hardsigmoid(s.a(u) + s.r(h)),
    "log sigmoid": lambda s, u, h: F.logsigmoid(s.a(u) + s.r(h)),
    "mish": lambda s, u, h: F.mish(s.a(u) + s.r(h)),
    "softsign": lambda s, u, h: F.softsign(s.a(u) + s.r(h)),
    "module": lambda s, u, h: nn.Hardtanh(-0.5, 0.5)(s.a(u) + s.r(h)),
    # arithmetic
    "division": lambda s, u, h: (s.a(u) + s.r(h)) / (1 + h * h),
    "powers": lambda s, u, h: torch.tanh((s.a(u) + s.r(h)) ** 2 - 0.1 * h**3),
    "exp": lambda s, u, h: torch.exp(-(s.a(u) + s.r(h)).abs()),
    "log": lambda s, u, h: torch.log(1.5 + torch.tanh(s.a(u) + s.r(h))),
    "log1p expm1": lambda s, u, h: torch.log1p(torch.relu(s.a(u))) + torch.expm1(-torch.relu(s.r(h))),
    "sine": lambda s, u, h: torch.sin(s.a(u)) + torch.cos(s.r(h)),
    "root": lambda s, u, h: torch.tanh(s.a(u)) + torch.sqrt(1 + s.r(h) ** 2) - torch.rsqrt(1 + h * h),
    "clamp": lambda s, u, h: (s.a(u) + s.r(h)).clamp(-0.7, 0.7),
    "maximum": lambda s, u, h: torch.maximum(s.a(u), torch.minimum(s.r(h), h)),
    "where": lambda s, u, h: torch.where(h > 0.1, torch.tanh(s.r(h)), s.a(u)),
    "where of both": lambda s, u, h: torch.where((h > 0) & (s.a(u) < 0.3), torch.tanh(s.r(h)), 0.5 * h),
    "lerp": lambda s, u, h: torch.lerp(h, torch.tanh(s.a(u)), torch.sigmoid(s.w)),
    "scalar weight": lambda s, u, h: torch.tanh(s.a(u) + s.k * s.r(h)),
    "shifted input": lambda s, u, h: torch.tanh(s.a(u + 1) + s.r(h)),
    "zeros like": lambda s, u, h: torch.tanh(s.a(u) + torch.maximum(s.r(h), torch.zeros_like(h))),
    "new full": lambda s, u, h: torch.tanh(s.a(u) + s.r(h) * h.new_full((20,), 0.7)),
    "without input": lambda s, u, h: torch.tanh(s.r(h) * s.w),
    # reductions
    "sum": lambda s, u, h: torch.tanh(s.a(u) + s.r(h)) * torch.sigmoid(s.q(h).sum(-1, keepdim=True)),
    "mean": lambda s, u, h: torch.tanh(s.a(u) + s.r(h) - h.mean(-1, keepdim=True)),
    "amax": lambda s, u, h: torch.tanh(s.a(u) + s.r(h) - h.amax(-1, keepdim=True)),
    "variance": lambda s, u, h: torch.tanh(s.a(u) + h / (h.var(-1, keepdim=True) + 1).sqrt()),
    "softmax": lambda s, u, h: s.a(u) * 0.3 + s.r(h).softmax(-1),
    "log softmax": lambda s, u, h: s.a(u) * 0.3 + s.r(h).log_softmax(-1) * 0.1,
    "norm": lambda s, u, h: h / (1 + h.norm(dim=-1, keepdim=True)) + torch.tanh(s.a(u) + s.r(h)),
    "sum of the input": lambda s, u, h: torch.tanh(s.a(u) + s.r(h)) * u.sum(-1, keepdim=True),
    "attention over parts": attention_over_parts,
    # normalisation
    "layer norm": lambda s, u, h: torch.tanh(s.norm(s.a(u) + s.r(h))),
    "layer norm of the state": lambda s, u, h: torch.tanh(s.a(u) + s.r(s.norm(h))),
    "layer norm of the input": lambda s, u, h: torch.tanh(F.layer_norm(s.a(u), (HIDDEN,)) + s.r(h)),
    "residual": lambda s, u, h: s.norm(h + torch.tanh(s.a(u) + s.q(h))),
}
