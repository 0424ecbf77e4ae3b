"""Gradients at every state, how far they reach, and gates: against plain autograd and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import nextstate as ns
from catalogue import BY_NAME
from nextstate.combine.wrapper import Wrapper
from nextstate.dynamics import gates, gradient_norms, jacobians, observed, reach
from nextstate.states import leaves, rebuild, select


def by_hand(cell, us, loss, s0, lengths: Tensor, moving) -> Tensor:
    """The same norms from a plain loop in which every state is kept."""
    kept, s, last = [], s0, None
    for t in range(len(us)):
        parts = [
            x.detach().requires_grad_() if t == 0 and k in moving else x for k, x in enumerate(leaves(s))
        ]
        s = rebuild(s, [x.clone() if k in moving else x for k, x in enumerate(parts)])
        kept.append([leaves(s)[k] for k in moving])
        for x in kept[-1]:
            x.retain_grad()
        v, after = cell(us[t], s)
        live = t < lengths
        last = v if last is None else select(live, v, last)
        s = select(live, after, s)
    loss(last, s).backward()
    grads = [[torch.zeros_like(x) if x.grad is None else x.grad for x in parts] for parts in kept]
    return torch.stack([torch.cat([g.flatten(1) for g in row], 1).norm(dim=1) for row in grads])


class Cut(Wrapper):
    """A cell whose state loses half of its gradient on the way through a step."""

    def forward(self, u, s):
        v, s = self.cell(u, s)
        return v, rebuild(s, [0.5 * x + 0.5 * x.detach() if x.is_floating_point() else x for x in leaves(s)])


@pytest.mark.parametrize(
    ("name", "moving"),
    [("GRU", (0,)), ("LSTM", (0, 1)), ("Stacked GRU LSTM", (0, 1, 2)), ("Dropped GRU", (0,))],
)
def test_norms_are_those_of_autograd(name: str, moving: tuple[int, ...]) -> None:
    row = BY_NAME[name]
    cell, us, lengths = row.cell(), row.us(6, 3), torch.tensor([6, 2, 5])
    s0 = cell.initial_state(3, dtype=torch.float64)
    weight = torch.randn(3, leaves(s0)[0].shape[1]).double()

    def of_state(_, s) -> Tensor:
        return (leaves(s)[0] * weight).sum()

    found = gradient_norms(cell, us, of_state, s0, lengths=lengths)
    expected = by_hand(cell, us, of_state, s0, lengths, moving)
    for b, n in enumerate(lengths):
        assert torch.allclose(found[:n, b], expected[:n, b])
        assert not found[n:, b].any()
    cut = gradient_norms(Cut(cell), us, of_state, s0, lengths=lengths)
    assert not torch.allclose(cut, found), "a gradient that is cut must not pass"


def test_norms_run_on_the_engine_and_leave_parameters_alone() -> None:
    cell, us = ns.GRU(3, 8), torch.randn(9, 2, 3)

    def total(vs: Tensor, _: Tensor) -> Tensor:
        return vs.square().sum()

    fast = gradient_norms(cell, us, total)
    with ns.engine("reference"):
        plain = gradient_norms(cell, us, total)
    assert torch.allclose(fast, plain, rtol=1e-4)
    assert all(parameter.grad is None for parameter in cell.parameters())


def test_reach_is_the_norm_of_the_product_of_jacobians() -> None:
    cell, us = ns.LSTM(2, 3).double(), torch.randn(7, 1, 2).double()
    steps = jacobians(cell, us)[:, 0]
    found = reach(cell, us.expand(7, 4000, 2)).curve
    product = torch.eye(6).double()
    for k in range(1, 8):
        product = product @ steps[7 - k]
        assert found[k] == pytest.approx(float(product.norm()) / 6**0.5, rel=0.04)
    assert found[7] != pytest.approx(float(found[6]), rel=0.04)


def test_reach_of_known_decay() -> None:
    q = torch.linalg.qr(torch.randn(5, 5).double())[0]

    def cell(gain: float) -> ns.FunctionCell:
        return ns.FunctionCell(lambda u, s: (gain * s @ q.T,) * 2, lambda b, **kw: torch.zeros(b, 5, **kw))

    us = torch.zeros(40, 3, 1).double()
    lengths = torch.tensor([40, 0, 17])
    half = reach(cell(0.5), us, lengths=lengths)
    assert torch.allclose(half.curve, 0.5 ** torch.arange(41).double())
    assert (half.steps(0.01), half.steps(0.6), half.full()) == (6, 0, False)
    assert half.rate == pytest.approx(math.log(0.5))
    whole = reach(cell(1.0), us)
    assert (whole.steps(), whole.full(), whole.most) == (40, True, pytest.approx(1))
    assert reach(cell(1.2), us).most == pytest.approx(1.2**40)
    assert reach(cell(0.0), us).rate == -math.inf


def test_a_gradient_that_overflows_or_is_lost_is_not_taken_for_one_that_arrives() -> None:
    wild = ns.FunctionCell(lambda u, s: (1e3 * s,) * 2, lambda b, **kw: torch.zeros(b, 2, **kw))
    found = reach(wild, torch.zeros(40, 1, 1))
    assert found.most == math.inf
    lost = reach(ns.GRU(2, 3), torch.full((5, 1, 2), math.nan))
    assert (lost.steps(), lost.full(), lost.most) == (0, False, math.inf)


def test_measuring_moves_no_random_generator_and_no_flag() -> None:
    cell, us = ns.Zoneout(ns.GRU(2, 4), 0.3), torch.randn(5, 2, 2)
    before = torch.get_rng_state()
    reach(cell, us)
    assert torch.equal(before, torch.get_rng_state())
    assert float(torch.tensor(1e-39) * 1.0) > 0, "subnormal numbers are as they were"


@pytest.mark.parametrize(
    ("name", "names", "keeps"),
    [
        ("Elman", ["h"], {}),
        ("GRU", ["r", "z", "n"], {"z": 1}),
        ("ResetBeforeGRU", ["r", "z", "n"], {"z": 1}),
        ("LayerNormGRU", ["r", "z", "n"], {"z": 1}),
        ("MinGRU", ["z"], {"z": -1}),
        ("LSTM", ["f", "g", "i", "o"], {"f": 1}),
        ("PeepholeLSTM", ["f", "g", "i", "o"], {"f": 1}),
        ("ProjectedLSTM", ["f", "g", "i", "o"], {"f": 1}),
        ("CoupledLSTM", ["g", "i", "o"], {"i": -1}),
        ("LayerNormLSTM", ["f", "g", "i", "o"], {"f": 1}),
        ("MogrifierLSTM", ["f", "g", "i", "o", *(f"sigmoid{k}" for k in range(1, 6))], {"f": 1}),
        ("two lambdas", ["tanh1"], {}),
    ],
)
def test_gates_are_found_by_name(name: str, names: list[str], keeps: dict[str, int]) -> None:
    row = BY_NAME[name]
    found = gates(row.cell(), row.us(4, 2))
    assert sorted(gate.name for gate in found) == sorted(names)
    assert {gate.name: gate.keeps for gate in found if gate.keeps} == keeps
    assert all(gate.values.shape[:2] == (4, 2) for gate in found)


def test_values_of_gates() -> None:
    cell, us = ns.GRU(3, 5).double(), torch.randn(4, 2, 3).double()
    found = {gate.name: gate for gate in gates(cell, us, lengths=torch.tensor([4, 1]))}
    states, _ = ns.scan(cell, us, engine="reference")
    before = torch.cat([torch.zeros(1, 2, 5).double(), states[:-1]])
    both = torch.nn.functional.linear(us, cell.weight_ih, cell.bias_ih)
    both = both + torch.nn.functional.linear(before, cell.weight_hh, cell.bias_hh)
    r, z, _ = both.sigmoid().chunk(3, -1)
    valid = torch.tensor([[1, 1], [1, 0], [1, 0], [1, 0]]).bool()
    for name, expected in (("r", r), ("z", z)):
        assert torch.allclose(found[name].values[valid], expected[valid])
    assert found["z"].shut == float((z[valid] < 0.1).double().mean())
    assert torch.allclose(found["z"].forget_times, -1 / z[valid].log().mean(0))


def test_stacked_gates_are_named_by_their_cell() -> None:
    found = gates(ns.Stacked(ns.GRU(3, 4), ns.Residual(ns.LSTM(4, 4))), torch.randn(3, 2, 3))
    assert {gate.name for gate in found} >= {"cells.0 z", "cells.1.cell f"}


def test_an_observer_changes_nothing_and_keeps_a_forced_engine() -> None:
    cell, us = ns.GRU(3, 5), torch.randn(6, 2, 3)
    plain = ns.scan(cell, us)[0]
    with observed() as sequences:
        assert torch.equal(ns.scan(cell, us)[0], plain)
        assert torch.equal(ns.fold(cell, us)[0], plain[-1])
        ns.unfold(ns.GRU(5, 5), torch.zeros(2, 5), torch.zeros(2, 5), steps=2, feed=lambda v: v)
    assert [s.request.steps for s in sequences] == [6, 6]
    with ns.engine("reference"), observed():
        reference = ns.scan(cell.double(), us.double())[0]
    assert torch.allclose(reference.float(), plain, atol=1e-6)
    opaque = ns.FunctionCell(lambda u, s: (u, (s + u).remainder(2)), lambda b, **kw: torch.zeros(b, 3, **kw))
    with ns.engine("cpu"), observed(), pytest.raises(ns.EngineError):
        ns.scan(opaque, us)


COUNTER = ns.FunctionCell(lambda u, s: (u, s + 1), lambda b, **kw: torch.zeros(b, 1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("attempt", "told"),
    [
        (lambda: gradient_norms(ns.GRU(2, 3), torch.zeros(5, 1, 2), lambda vs, s: vs), "expected one number"),
        (lambda: gradient_norms(ns.GRU(2, 3), torch.zeros(5, 1, 2), lambda vs, s: 1.0), "the loss is float"),
        (lambda: gradient_norms(ns.GRU(2, 3), torch.zeros(0, 1, 2), lambda vs, s: s.sum()), "us has 0 steps"),
        (
            lambda: gradient_norms(COUNTER, torch.zeros(5, 1, 1), lambda vs, s: vs.sum()),
            "FunctionCell has no floating state",
        ),
        (lambda: reach(ns.GRU(2, 3), torch.zeros(5, 1, 2), lengths=torch.tensor([0])), "none of which"),
        (
            lambda: reach(BY_NAME["two lambdas without memory"].make(2, 3), torch.zeros(5, 1, 2)),
            "no floating",
        ),
    ],
)
def test_refusals(attempt, told: str) -> None:
    with pytest.raises(ns.InputError, match=told):
        attempt()
