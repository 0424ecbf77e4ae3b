"""The cell with a stack: its actions are those of a stack, at every depth and on the CPU engine."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import nextstate as ns
from catalogue import randomise_

PUSH, POP, KEEP = 0, 1, 2


def obedient(depth: int) -> ns.StackRNN:
    """Input (action one-hot, a value): takes that action, and pushes sigmoid(value)."""
    cell = ns.StackRNN(4, 4, stack_width=1, depth=depth).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.weight_ih.copy_(torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
        cell.weight_action[:, :3] = 200 * torch.eye(3)
        cell.weight_push[0, 3] = 1.0
    return cell


def said(actions: list[tuple[int, float]]) -> Tensor:
    us = torch.zeros(len(actions), 1, 4, dtype=torch.float64)
    for place, (action, value) in enumerate(actions):
        us[place, 0, action], us[place, 0, 3] = 1.0, value
    return us


def number(value: float) -> float:
    return torch.sigmoid(torch.tanh(torch.tensor(value, dtype=torch.float64))).item()


def test_it_pushes_pops_and_keeps_like_a_stack() -> None:
    cell, expected = obedient(3), [0.0] * 3
    actions = [(PUSH, 0.5), (KEEP, 9.0), (PUSH, -0.5), (PUSH, 0.1), (PUSH, 0.2), (POP, 0.0), (POP, 0.0)]
    actions += [(POP, 0.0), (POP, 0.0), (PUSH, 0.3)]
    state = cell.initial_state(1, dtype=torch.float64)
    for u, (action, value) in zip(said(actions), actions, strict=True):
        _, state = cell(u, state)
        if action == PUSH:
            expected = [number(value), *expected[:2]]  # the lowest of three is lost
        elif action == POP:
            expected = [*expected[1:], 0.0]
        assert state.stack[0].tolist() == pytest.approx(expected, abs=1e-12)


def test_depth_changes_nothing_until_the_bottom_is_reached() -> None:
    cell = randomise_(ns.StackRNN(3, 5, stack_width=2, depth=12)).double()
    us = torch.randn(10, 4, 3, dtype=torch.float64)
    shallow, _ = ns.scan(cell, us)
    cell.depth = 40
    deep, _ = ns.scan(cell, us)
    assert torch.equal(shallow, deep)
    cell.depth = 2
    assert not torch.allclose(shallow, ns.scan(cell, us)[0])


def test_a_deep_stack_compiles_and_agrees() -> None:
    """Ninety pieces of state in one block: more memory operands than other cells have."""
    cell = randomise_(ns.StackRNN(3, 6, stack_width=8, depth=42))
    us = torch.randn(6, 5, 3)
    found = {}
    for engine in ("cpu", "reference"):
        cell.zero_grad()
        vs, last = ns.scan(cell, us, engine=engine)
        (vs.square().sum() + last.stack.square().sum()).backward()
        found[engine] = [vs, last.stack, *(p.grad for p in cell.parameters())]
    for ours, theirs in zip(*found.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("stack", [torch.zeros(2, 7), torch.zeros(2, 2), torch.zeros(3, 8), None])
def test_a_stack_of_another_form_is_refused(stack: Tensor | None) -> None:
    cell = ns.StackRNN(3, 5, stack_width=2, depth=4)
    with pytest.raises(ns.InputError, match="stack is"):
        cell(torch.zeros(2, 3), (torch.zeros(2, 5), stack))
    with pytest.raises(ns.InputError, match="two cells"):
        ns.StackRNN(3, 5, depth=1)
