"""Steps as users write them run compiled, and are the reference engine's: values and every gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from steps import HIDDEN, INPUT, STEPS, Step
from torch import Tensor

import nextstate as ns
from agreement import Outcome, assert_agree, outcome
from nextstate.compiler import differentiate, operations

LENGTHS = {"full": None, "ragged": torch.tensor([3, 0, 6, 2, 6])}


def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 5, INPUT), 0.5 * torch.randn(5, HIDDEN)


def compiled(cell: ns.Cell, us: Tensor, s0: Tensor, lengths: Tensor | None) -> Outcome:
    """On the CPU engine, which raises if it refuses: nothing here may fall back."""
    return outcome(lambda c, u, s, n: ns.scan(c, u, s, lengths=n, engine="cpu"), cell, us, s0, lengths)


def expected(cell: ns.Cell, us: Tensor, s0: Tensor, lengths: Tensor | None) -> Outcome:
    """On the reference engine, in float64."""
    us, s0, cell = us.double(), s0.double(), copy.deepcopy(cell).double()
    found = outcome(lambda c, u, s, n: ns.scan(c, u, s, lengths=n, engine="reference"), cell, us, s0, lengths)
    return {name: x.float() for name, x in found.items()}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_a_step_compiles_and_agrees(name: str, lengths: str) -> None:
    cell, (us, s0) = Step(STEPS[name]), inputs()
    ragged = LENGTHS[lengths]
    assert_agree(compiled(cell, us, s0, ragged), expected(cell, us, s0, ragged))


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("batch", [1, 3])
def test_short_and_narrow(steps: int, batch: int) -> None:
    cell = Step(STEPS["chunked gates"])
    us, s0 = torch.randn(steps, batch, INPUT), torch.randn(batch, HIDDEN)
    assert_agree(compiled(cell, us, s0, None), expected(cell, us, s0, None))


def rejected(name: str) -> None:
    cell, (us, s0) = Step(STEPS[name]), inputs()
    with pytest.raises(AssertionError, match="differs by"):
        assert_agree(compiled(cell, us, s0, None), expected(cell, us, s0, None))


@pytest.mark.parametrize(
    ("rule", "step"),
    [("tanh", "at"), ("sigmoid", "chunked gates"), ("mul", "product of intermediates")],
)
def test_a_wrong_derivative_is_rejected(monkeypatch: pytest.MonkeyPatch, rule: str, step: str) -> None:
    right = differentiate.RULES[rule]
    monkeypatch.setitem(differentiate.RULES, rule, lambda s, k: s.mul(right(s, k), s.b.imm(1.001)))
    rejected(step)


@pytest.mark.parametrize(("operation", "step"), [("sub", "mean"), ("slice", "rolled"), ("mean", "mean")])
def test_a_wrong_translation_is_rejected(monkeypatch: pytest.MonkeyPatch, operation: str, step: str) -> None:
    right = operations.COMPOSITE[operation]
    monkeypatch.setitem(
        operations.COMPOSITE, operation, lambda t, n: t.build.apply("mul", right(t, n), t.build.imm(1.001))
    )
    rejected(step)
