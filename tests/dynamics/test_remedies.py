"""Every remedy does what it promises, and its absence does not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import nextstate as ns
from nextstate.dynamics import flossing_loss, gates, jacobians, lagged_singular_values, lyapunov, reach
from nextstate.init import chrono_, forget_bias_, identity_, orthogonal_recurrent_
from nextstate.training import (
    Indexed,
    Loss,
    NonFiniteGradient,
    Steps,
    TrainState,
    fit,
    skip,
    stop,
)


def test_an_orthogonal_start_is_an_isometry_over_any_lag() -> None:
    def spread(cell: ns.Elman) -> float:
        return float(lagged_singular_values(cell, torch.zeros(200, 1, 2).double(), [200]).abs().max())

    linear = ns.Elman(2, 12, activation=nn.Identity()).double()
    assert spread(linear) > 10
    assert spread(orthogonal_recurrent_(linear)) < 1e-10


def test_starts_in_sixteen_bits_and_what_they_refuse() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        block = orthogonal_recurrent_(ns.GRU(2, 8).to(dtype)).weight_hh.detach()[:8].float()
        assert torch.allclose(block @ block.T, torch.eye(8), atol=0.05)
    with pytest.raises(ns.InputError, match="value is nan; expected a finite number"):
        forget_bias_(ns.LSTM(2, 8), math.nan)


def test_an_identity_start_passes_gradients_whole() -> None:
    """While no unit is shut: along inputs that add."""
    cell = identity_(ns.Elman(2, 8, activation=torch.relu)).double()
    with torch.no_grad():
        cell.weight_ih.abs_()
    found = reach(cell, torch.rand(100, 3, 2).double())
    assert torch.allclose(found.curve, torch.ones(101).double())
    assert not reach(ns.Elman(2, 8, activation=torch.relu), torch.rand(100, 3, 2)).full()


def only_gates(value: float | None = None, longest: int | None = None) -> ns.LSTM:
    """An LSTM whose gates are its biases."""
    cell = ns.LSTM(2, 200).double()
    for parameter in cell.parameters():
        nn.init.zeros_(parameter)
    if value is not None:
        forget_bias_(cell, value)
    return cell if longest is None else chrono_(cell, longest)


def test_forget_times_are_those_of_the_start() -> None:
    us = torch.randn(5, 2, 2).double()

    def times(cell: ns.LSTM) -> Tensor:
        return next(gate for gate in gates(cell, us) if gate.keeps).forget_times

    assert torch.allclose(times(only_gates()), torch.tensor(1 / math.log(2)).double())
    once = torch.tensor(-1 / math.log(torch.tensor(1.0).sigmoid().item()))
    assert once == pytest.approx(3.19, abs=0.01), "and 7.88 were the bias added to both vectors"
    assert torch.allclose(times(only_gates(1.0)), once.double())
    spread = times(only_gates(longest=100))
    assert float(spread.min()) > 1.4
    assert 90 < float(spread.max()) < 100
    assert 45 < float(spread.mean()) < 55


def test_chrono_start_carries_gradients_over_its_time() -> None:
    us = torch.randn(100, 4, 3)
    plain, timed = ns.GRU(3, 64), chrono_(ns.GRU(3, 64), 100)
    assert reach(plain, us).steps() < 20
    assert reach(timed, us).full()
    assert reach(ns.LSTM(3, 64), us).steps() < 20
    assert reach(chrono_(ns.LSTM(3, 64), 100), us).full()


def gradients_after(
    clip: float | None, scale: float, on_non_finite=stop
) -> tuple[Tensor, Tensor, TrainState]:
    """Of one step of plain descent on scale (2 w1 + w2 + b), two tensors: the move, and the gradient."""
    model = nn.Linear(2, 1)
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    state = TrainState(
        model, torch.optim.SGD(model.parameters(), lr=1.0), Indexed(lambda n: torch.tensor([[2.0, 1.0]]))
    )
    list(
        fit(
            state,
            lambda f, x, carry: Loss(scale * f(x).sum()),
            Steps(1),
            clip=clip,
            schedule=lambda p: 1.0,
            on_non_finite=on_non_finite,
        )
    )
    after = nn.utils.parameters_to_vector(model.parameters()).detach()
    return before - after, scale * torch.tensor([2.0, 1.0, 1.0]), state


def test_clipping_keeps_the_direction_and_does_nothing_below_its_norm() -> None:
    move, gradient, _ = gradients_after(1.0, 10.0)
    assert move.norm() == pytest.approx(1.0, rel=1e-4)
    assert torch.allclose(move / move.norm(), gradient / gradient.norm(), atol=1e-5)
    move, gradient, _ = gradients_after(1.0, 0.1)
    assert torch.allclose(move, gradient, atol=1e-6)
    move, gradient, _ = gradients_after(None, 10.0)
    assert torch.allclose(move, gradient, atol=1e-5)


def test_a_gradient_that_is_not_finite_stops_or_is_skipped() -> None:
    with pytest.raises(NonFiniteGradient, match="norm is nan at step 0"):
        gradients_after(1.0, math.nan)
    move, _, state = gradients_after(1.0, math.nan, skip)
    assert not move.any()
    assert state.skipped == 1


def test_layer_norm_is_blind_to_the_scale_of_recurrent_weights() -> None:
    us = torch.randn(80, 2, 3).double()

    def largest(cell: ns.Cell, scale: float) -> float:
        with torch.no_grad():
            cell.weight_hh.mul_(scale)
        return lyapunov(cell, us, count=1).largest

    torch.manual_seed(0)
    normed, plain = ns.LayerNormGRU(3, 16).double(), ns.GRU(3, 16).double()
    assert largest(normed, 1.0) == pytest.approx(largest(normed, 30.0), abs=5e-3)
    assert abs(largest(plain, 1.0) - largest(plain, 30.0)) > 0.1


def test_flossing_brings_exponents_to_their_target() -> None:
    cell, us = ns.Elman(2, 12), 0.1 * torch.randn(20, 2, 2)
    before = reach(cell, us).steps()
    optimiser = torch.optim.Adam(cell.parameters(), lr=5e-3)
    for number in range(60):
        optimiser.zero_grad()
        flossing_loss(cell, us, count=4, seed=number).backward()
        optimiser.step()
    found = lyapunov(cell, us, count=4, settle=0)
    assert found.exponents.abs().max() < 0.1
    assert before < 15
    assert reach(cell, us).full()


def test_flossing_loss_is_that_of_the_exponents_and_its_gradient_is_right() -> None:
    cell, us = ns.GRU(2, 3).double(), torch.randn(6, 1, 2).double()
    found = lyapunov(cell, us, count=2, settle=0, seed=5).exponents
    loss = flossing_loss(cell, us, count=2, seed=5, target=0.1)
    assert float(loss.detach()) == pytest.approx(float((found - 0.1).square().mean()))
    loss.backward()
    shift = torch.zeros_like(cell.weight_hh)
    shift[1, 2] = 1e-5
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            cell.weight_hh += sign * shift
            values.append(float(flossing_loss(cell, us, count=2, seed=5, target=0.1).detach()))
            cell.weight_hh -= sign * shift
    assert float(cell.weight_hh.grad[1, 2]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)
    with pytest.raises(ns.InputError, match="count is 4; the state has 3"):
        flossing_loss(cell, us, count=4)
    with pytest.raises(ns.InputError, match="settle is 6 and us has 6 steps"):
        flossing_loss(cell, us, count=2, settle=6)


def test_truncation_ends_the_gradient_where_it_says() -> None:
    us = torch.randn(12, 2, 3, requires_grad=True)
    ns.truncated(ns.scan, every=5)(ns.GRU(3, 4), us)[1].sum().backward()
    assert us.grad.abs().sum((1, 2)).ne(0).tolist() == [False] * 10 + [True] * 2


def test_residual_layers_pass_the_gradient_down_a_deep_stack() -> None:
    def first_layer(residual: bool) -> float:
        """The gradient of the output at the input, through 30 layers of one step, against its length."""
        torch.manual_seed(0)
        cells = [ns.GRU(8, 8) for _ in range(30)]
        stack = ns.Stacked(*[ns.Residual(cell) if residual else cell for cell in cells])
        u = torch.randn(1, 1, 8, requires_grad=True)
        ns.scan(stack, u, engine="reference")[0].sum().backward()
        return float(u.grad.norm()) / 8**0.5

    assert first_layer(residual=False) < 1e-10
    assert first_layer(residual=True) > 0.1


def test_latching_and_reaching_exclude_each_other() -> None:
    """A machine in a tanh network: the surer its codes are held, the less gradient is left (Bengio 1994)."""
    from nextstate.machines import DFA, compile

    odd = DFA.table("01", {"e": ["e", "o"], "o": ["o", "e"]}, accepting=["o"])
    exponents = []
    for gain in (4.0, 6.0, 9.0, 14.0):
        net = compile(odd, activation="tanh", gain=gain, dtype=torch.float64)
        word = "1101" * 20
        assert net.run(word).accepted == (word.count("1") % 2 == 1)
        exponents.append(lyapunov(net.cell, net.encode(word), net.start(), count=1).largest)
    assert exponents == sorted(exponents, reverse=True)
    assert exponents[-1] < -5
    assert jacobians(net.cell, net.encode("1"), net.start()).norm() < 0.01
