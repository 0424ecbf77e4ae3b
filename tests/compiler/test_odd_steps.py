"""Steps at the edge of what compiles: each is the reference engine's, or is refused with its reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import nextstate as ns
from agreement import assert_agree, outcome
from nextstate.states import Tree, tree_map

HIDDEN = 20


class Odd(ns.Cell):
    def __init__(self, step: Callable[[Odd, Tensor, Tree], tuple[Tree, Tree]], *widths: int) -> None:
        super().__init__()
        self.step, self.widths = step, widths or (HIDDEN,)
        self.a, self.r = nn.Linear(7, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.k = nn.Parameter(torch.randn(1))
        self.register_buffer("count", torch.zeros(()))

    def initial_state(self, batch_size: int, *, device=None, dtype=None) -> Tree:
        parts = tuple(torch.zeros(batch_size, w, device=device, dtype=dtype) for w in self.widths)
        return parts if len(parts) > 1 else parts[0]

    def forward(self, u: Tensor, s: Tree) -> tuple[Tree, Tree]:
        return self.step(self, u, s)

    def new(self, u: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.a(u) + self.r(h))


def both(h: Tensor) -> tuple[Tensor, Tensor]:
    return h, h


def zeros_joined(c: Odd, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    x = c.new(u, h)
    return both(torch.cat([x[:, :10], torch.zeros(len(h), 5), x[:, 15:]], -1))


def number_joined(c: Odd, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    x = c.new(u, h)
    return both(torch.cat([x.mean(-1, keepdim=True).expand(-1, 7), x[:, :13]], -1))


SPREAD = {
    "number for a state": lambda c, u, h: both(c.new(u, h).mean(-1, keepdim=True).expand_as(h)),
    "constant for a state": lambda c, u, h: (c.new(u, h), torch.full_like(h, 0.3)),
    "parameter for a state": lambda c, u, h: (c.new(u, h), c.k.expand(len(h), HIDDEN)),
    "zeros joined": zeros_joined,
    "number joined": number_joined,
    "product of a number": lambda c, u, h: both(c.new(u, h.mean(-1, keepdim=True).expand_as(h))),
    "sum of a number": lambda c, u, h: both(
        c.new(u, h) + 0.1 * h.mean(-1, keepdim=True).expand_as(h).sum(-1, keepdim=True)
    ),
}


def agrees(cell: Odd) -> None:
    us, s0 = torch.randn(6, 5, 7), tree_map(torch.randn_like, cell.initial_state(5))
    found = [
        outcome(lambda c, u, s, n: ns.scan(c, u, s, engine=e), cell, us, s0)  # noqa: B023  (called at once)
        for e in ("cpu", "reference")
    ]
    assert_agree(*found)


@pytest.mark.parametrize("name", SPREAD)
def test_a_number_spread_over_features(name: str) -> None:
    agrees(Odd(SPREAD[name]))


def test_components_that_change_places() -> None:
    agrees(Odd(lambda c, u, s: (s[0], (s[1], s[0])), 20, 20))
    agrees(Odd(lambda c, u, s: (s[2], (c.new(u, s[2]), s[0], s[1])), 20, 20, 20))


def halved_view(c: Odd, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    x = c.a(u) + c.r(h)
    x[:, :5].sigmoid_()
    return both(x)


def counted(c: Odd, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    c.count += 1
    return both(c.new(u, h))


REFUSED = {
    "view changed": (halved_view, "slice_scatter"),
    "buffer changed": (counted, "changes a tensor in place"),
    "batch as a number": (lambda c, u, h: both(c.new(u, h) / len(h)), "the size of the batch as a number"),
    "rows numbered": (
        lambda c, u, h: both(c.new(u, h) + torch.arange(len(h))[:, None]),
        "the size of the batch as a number",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_wrong_is_refused(name: str) -> None:
    step, reason = REFUSED[name]
    with pytest.raises(ns.EngineError, match=reason):
        ns.scan(Odd(step), torch.randn(6, 5, 7), engine="cpu")


class Read(ns.Cell):
    def __init__(self, **options) -> None:
        super().__init__()
        self.table, self.inner = nn.Embedding(11, 7, **options), ns.GRU(7, HIDDEN)

    def initial_state(self, batch_size: int, *, device=None, dtype=None) -> Tensor:
        return self.inner.initial_state(batch_size, device=device, dtype=dtype)

    def forward(self, u: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner(self.table(u), s)


@pytest.mark.parametrize("steps", [2, 30], ids=["products", "look-ups"])
def test_the_padding_row_has_no_gradient(steps: int) -> None:
    cell, us, s0 = Read(padding_idx=2), torch.randint(0, 11, (steps, 5)), torch.randn(5, HIDDEN)
    found = [
        outcome(lambda c, u, s, n: ns.scan(c, u, s, engine=e), cell, us, s0)  # noqa: B023  (called at once)
        for e in ("cpu", "reference")
    ]
    assert_agree(*found)
    assert not found[0]["gradient of table.weight"][2].any()


def test_the_norm_of_zero_has_a_gradient() -> None:
    def step(c: Odd, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        x = h @ c.r.weight
        return both(torch.tanh(c.a(u) + x / (x.norm(dim=-1, keepdim=True) + 0.1)))

    cell, us, s0 = Odd(step), torch.randn(6, 5, 7), torch.zeros(5, HIDDEN)
    found = [
        outcome(lambda c, u, s, n: ns.scan(c, u, s, engine=e), cell, us, s0)  # noqa: B023  (called at once)
        for e in ("cpu", "reference")
    ]
    assert_agree(*found)


@pytest.mark.parametrize("steps", [1, 3])
@torch.no_grad()
def test_outputs_are_the_callers(steps: int) -> None:
    def step(c: Odd, u: Tensor, h: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        x = c.new(u, h)
        return (x, x, u, u[:, :3], h, c.a.bias.expand(len(h), -1)), x

    cell, us, s0 = Odd(step), torch.randn(steps, 5, 7), torch.randn(5, HIDDEN)
    given = [x.clone() for x in (us, s0, cell.a.bias)]
    vs, _ = ns.scan(cell, us, s0, engine="cpu")
    first = vs[0].clone()
    for v in vs[1:]:
        v.fill_(9.0)
    assert all(torch.equal(a, b) for a, b in zip((vs[0], us, s0, cell.a.bias), (first, *given), strict=True))
