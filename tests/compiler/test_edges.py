"""Gradients where a function has a corner, or overflows beside it: those of torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import nextstate as ns
from nextstate.compiler import operations

CORNERS = torch.tensor([-200.0, -90.0, -3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 88.0, 90.0, 200.0])

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": F.elu,
    "elu, alpha 2": lambda x: F.elu(x, 2.0),
    "selu": F.selu,
    "hardtanh": F.hardtanh,
    "hardtanh of other bounds": lambda x: F.hardtanh(x, -0.5, 3.0),
    "relu6": F.relu6,
    "hardsigmoid": F.hardsigmoid,
    "clamp": lambda x: x.clamp(-1.0, 3.0),
    "clamp below": lambda x: x.clamp(min=-1.0),
    "relu": F.relu,
    "leaky relu": F.leaky_relu,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "abs": torch.abs,
    "maximum of a value and itself": lambda x: torch.maximum(x, 1.0 * x),
    "minimum of a value and its negative": lambda x: torch.minimum(x, -x),
}


def gradient(function: Callable[[Tensor], Tensor], engine: str) -> tuple[Tensor, Tensor]:
    """Outputs and input gradient of h' = h / 2 + function(u + 0 h), which is inside the loop."""
    cell = ns.FunctionCell(
        lambda u, h: (h * 0.5 + function(u + 0.0 * h),) * 2,
        lambda b, **kw: torch.zeros(b, len(CORNERS), **kw),
    )
    us = torch.stack([CORNERS, CORNERS.flip(0), CORNERS])[:, None].requires_grad_()
    vs = ns.scan(cell, us, engine=engine)[0]
    (found,) = torch.autograd.grad(vs.sum(), us)
    return vs.detach(), found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_corners(name: str) -> None:
    for found, right in zip(
        gradient(FUNCTIONS[name], "cpu"), gradient(FUNCTIONS[name], "reference"), strict=True
    ):
        torch.testing.assert_close(found, right, rtol=2e-6, atol=1e-6)


def test_a_wrong_corner_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """hardtanh taken for clamp, whose gradient on the bounds is one."""
    monkeypatch.setitem(operations.COMPOSITE, "hardtanh", operations.COMPOSITE["clamp"])
    with pytest.raises(AssertionError, match="not close"):
        test_corners("hardtanh")
