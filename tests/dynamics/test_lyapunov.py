"""Lyapunov spectra against systems whose spectrum is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import nextstate as ns
from nextstate.dynamics import (
    flossing_loss,
    jacobians,
    lagged_singular_values,
    lyapunov,
    mean_field,
    reach,
)


def autonomous(step, start: Tensor) -> ns.FunctionCell:
    """A map of states [B, N] as a cell that reads nothing."""
    return ns.FunctionCell(lambda u, s: (step(s),) * 2, lambda b, **kw: start.expand(b, *start.shape[1:]))


def nothing(steps: int, rows: int = 1) -> Tensor:
    return torch.zeros(steps, rows, 1, dtype=torch.float64)


def matrix(size: int, gain: float) -> Tensor:
    return gain * torch.randn(size, size, dtype=torch.float64) / size**0.5


def henon(s: Tensor) -> Tensor:
    x, y = s.unbind(1)
    return torch.stack([1 - 1.4 * x * x + y, 0.3 * x], 1)


def near(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> bool:
    return bool(((found - expected).abs() < tolerance).all())


def test_orthogonal() -> None:
    q = torch.linalg.qr(matrix(12, 1.0))[0]
    found = lyapunov(autonomous(lambda s: 0.8 * s @ q.T, torch.randn(1, 12).double()), nothing(20))
    assert near(found.exponents, torch.full((12,), math.log(0.8), dtype=torch.float64))
    assert near(found.errors, torch.zeros(12).double())
    assert found.horizon == pytest.approx(-1 / math.log(0.8))
    assert found.reach(0.01) == pytest.approx(math.log(0.01) / math.log(0.8))
    permutation = torch.eye(7).double()[torch.randperm(7)]
    found = lyapunov(autonomous(lambda s: s @ permutation, torch.randn(1, 7).double()), nothing(20))
    assert near(found.exponents, torch.zeros(7).double())
    assert found.horizon == math.inf


@pytest.mark.parametrize("activation", ["linear", "tanh"])
def test_a_decaying_network_has_the_logarithms_of_its_eigenvalues(activation: str) -> None:
    w = torch.diag(torch.tensor([0.9, -0.6, 0.3]).double()) + matrix(3, 0.05)
    expected = torch.linalg.eigvals(w).abs().log().sort(descending=True).values
    squash = (lambda s: s) if activation == "linear" else torch.tanh
    found = lyapunov(
        autonomous(lambda s: squash(s) @ w.T, torch.rand(1, 3).double()), nothing(600), settle=300
    )
    assert near(found.exponents, expected, 1e-6)


def test_fresh_gaussian_matrices_have_newmans_exponents() -> None:
    size, gain = 8, 1.3
    us = gain * torch.randn(1500, 4, size, size).double() / size**0.5
    cell = ns.FunctionCell(
        lambda w, s: (torch.einsum("bij,bj->bi", w, s),) * 2, lambda b, **kw: torch.zeros(b, size, **kw)
    )
    order = torch.arange(size, 0, -1).double()
    expected = 0.5 * (math.log(2 * gain**2 / size) + torch.special.digamma(order / 2))
    assert expected[0] == pytest.approx(0.1973, abs=1e-4)
    found = lyapunov(cell, us)
    assert near(found.exponents, expected, 0.05)
    assert ((found.exponents - expected).abs() < 4.5 * found.errors).all()


def test_a_large_gaussian_matrix_has_ginibres_exponents() -> None:
    size, gain, found = 100, 0.9, []
    for _ in range(2):
        w = matrix(size, gain)
        cell = autonomous(lambda s, w=w: s @ w.T, torch.randn(1, size).double())
        spectrum = lyapunov(cell, nothing(300), settle=100)
        assert spectrum.log_det == pytest.approx(float(torch.linalg.slogdet(w)[1]))
        found.append(spectrum.exponents)
    share = (torch.arange(size) + 0.5) / size
    expected = math.log(gain) + 0.5 * (1 - share).log()
    mean = torch.stack(found).mean(0)
    assert near(mean[5:90], expected[5:90], 0.1)
    assert float(mean.mean()) == pytest.approx(math.log(gain) - 0.5, abs=0.03)


def test_henon_and_logistic_map() -> None:
    found = lyapunov(autonomous(henon, torch.tensor([[0.1, 0.1]]).double()), nothing(6000), settle=200)
    assert float(found.exponents.sum()) == pytest.approx(math.log(0.3), abs=1e-9)
    assert found.largest == pytest.approx(0.4192, abs=0.015)
    assert found.dimension == pytest.approx(1.258, abs=0.01)
    assert found.entropy == found.largest
    logistic = autonomous(lambda s: 4 * s * (1 - s), torch.rand(64, 1).double())
    assert lyapunov(logistic, nothing(200, 64)).largest == pytest.approx(math.log(2), abs=0.01)


def test_cat_map() -> None:
    """Its derivative is one matrix with the eigenvalues (3 +- sqrt 5) / 2, wherever it stands."""
    a = torch.tensor([[2.0, 1.0], [1.0, 1.0]]).double()
    cell = autonomous(lambda s: (s @ a).remainder(1), torch.rand(1, 2).double())
    found = lyapunov(cell, nothing(300), settle=60)
    expected = math.log((3 + 5**0.5) / 2)
    assert expected == pytest.approx(0.9624237, abs=1e-7)
    assert near(found.exponents, torch.tensor([expected, -expected], dtype=torch.float64))
    assert found.dimension == 2


def test_a_wrong_derivative_is_seen() -> None:
    def wrong(s: Tensor) -> Tensor:
        x, y = s.unbind(1)
        return torch.stack([1 - 1.4 * x * x + y, 0.3 * x.detach() + 0.1 * (x - x.detach())], 1)

    found = lyapunov(autonomous(wrong, torch.tensor([[0.1, 0.1]]).double()), nothing(300))
    assert abs(float(found.exponents.sum()) - math.log(0.3)) > 0.5


def test_a_broken_sum_rule_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    module = sys.modules["nextstate.dynamics.lyapunov"]
    real = module._orthonormalise

    def broken(pending: list[Tensor], q: Tensor) -> tuple[Tensor, Tensor, float]:
        new, logs, ratio = real(pending, q)
        return new, logs + 0.01, ratio

    cell = autonomous(henon, torch.tensor([[0.1, 0.1]]).double())
    assert abs(lyapunov(cell, nothing(100)).sum_rule) < 1e-9
    monkeypatch.setattr(module, "_orthonormalise", broken)
    with pytest.raises(ArithmeticError, match="they must agree"):
        lyapunov(cell, nothing(100))


def test_minus_infinity_where_it_is_and_never_nan() -> None:
    from nextstate.machines import DFA, compile

    odd = compile(DFA.table("1", {0: [1], 1: [0]}, accepting=[1]), activation="tanh", dtype=torch.float64)
    found = lyapunov(odd.cell, torch.ones(30, 1, 1).double())
    assert (found.exponents == -math.inf).all(), "a saturated network forgets at once"
    assert found.sum_rule == 0
    dead = autonomous(lambda s: torch.relu(s @ matrix_with_dead_unit), torch.rand(1, 4).double())
    found = lyapunov(dead, nothing(50))
    assert (found.exponents == -math.inf).tolist() == [False, False, True, True]
    integrator = ns.init.forget_bias_(ns.LSTM(1, 3), 60.0).double()
    for weight in (integrator.weight_ih, integrator.weight_hh):
        torch.nn.init.zeros_(weight)
    found_lstm = lyapunov(integrator, torch.randn(40, 2, 1).double())
    assert near(found_lstm.exponents[:3], torch.zeros(3).double(), 0.01)
    assert (found_lstm.exponents[3:] == -math.inf).all()
    for one in (found, found_lstm):
        assert not one.exponents.isnan().any()
        assert not one.errors.isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_direction_that_is_wiped_out_is_counted(dtype: torch.dtype) -> None:
    """Also among many units, where rounding leaves something of it."""
    size = 128
    alive = (torch.arange(size) % 3 > 0).to(dtype)
    w = matrix(size, 1.2).to(dtype)
    cell = autonomous(lambda s: torch.tanh(s @ w) * alive, torch.randn(1, size).to(dtype))
    found = lyapunov(cell, nothing(60).to(dtype))
    lost = int((alive == 0).sum())
    assert (found.exponents[-lost:] == -math.inf).all()
    assert found.exponents[-lost - 1] > -10


def test_few_exponents_are_found_below_the_precision_of_the_cell() -> None:
    """A direction that falls by 1e-9 in a step of float32."""
    scale = torch.tensor([1.0, 1e-3, 1e-9, 1e-12])
    q = torch.linalg.qr(torch.randn(4, 4))[0]
    cell = autonomous(lambda s: scale * (s @ q.T), torch.randn(1, 4))
    everything, few = (lyapunov(cell, nothing(40).float(), count=k) for k in (4, 3))
    assert near(few.exponents, everything.exponents[:3], 1e-3)
    assert everything.exponents[2] < -15


matrix_with_dead_unit = torch.tensor(
    [[0.5, 0.2, -1, -1], [0.3, 0.6, -1, -1], [0.1, 0.1, -1, -1], [0.1, 0.1, -1, -1]]
).double()


def test_default_start_of_torch_forgets_in_two_steps() -> None:
    cell = ns.nn.RNN(1, 400).cells()[0]
    with torch.no_grad():
        cell.bias_ih.zero_()
        cell.bias_hh.zero_()
    found = lyapunov(cell, torch.zeros(120, 1, 1), 1e-3 * torch.randn(1, 400), count=1, settle=60)
    assert found.largest == pytest.approx(-0.5493, abs=0.03)
    assert found.horizon == pytest.approx(1.8, abs=0.15)
    assert found.dimension == 0


TABLE = {
    (1.2, 0.0): (0.24951, 0.01648, -0.5431, 0.00024, 0.056, (-0.043, -0.147, -0.377, -0.766)),
    (1.5, 0.0): (0.79335, 0.06522, -0.7144, 0.0028, 0.166, (-0.013, -0.151, -0.466, -1.025)),
    (2.0, 0.0): (2.12147, 0.15472, -1.1490, 0.0107, 0.259, (0.042, -0.167, -0.689, -1.700)),
    (3.0, 0.0): (6.30539, 0.31025, -2.2728, 0.0252, 0.289, (0.121, -0.272, -1.416, -3.540)),
    (5.0, 0.0): (20.6994, 0.53243, -4.9068, 0.0391, 0.246, (0.166, -0.780, -3.526, -7.667)),
    (10.0, 0.0): (91.7051, 0.85644, -12.161, 0.0442, 0.166, (-0.124, -3.121, -9.590, -18.51)),
    (2.0, 1.0): (3.44807, 0.04598, -1.7127, 0.0008, 0.069, None),
    (3.0, 1.0): (7.50877, 0.26852, -2.6190, 0.0177, 0.236, None),
    (1.5, 0.25): (1.21821, -0.01673, -0.9718, 0.0, 0.0, None),
}
"""q, lambda_1, mean lambda, h/N, D/N, lambda at 0.1, 0.25, 0.5, 0.75."""


@pytest.mark.parametrize(("gain", "noise"), TABLE)
def test_mean_field_values(gain: float, noise: float) -> None:
    found = mean_field(gain, noise)
    q, first, mean, entropy, dimension, shares = TABLE[gain, noise]
    assert found.variance == pytest.approx(q, rel=1e-4)
    assert found.largest == pytest.approx(first, abs=1e-4)
    assert found.mean == pytest.approx(mean, abs=1e-3)
    if (gain, noise) == (2.0, 0.0):  # the slow ones once
        assert found.entropy() == pytest.approx(entropy, abs=1e-4)
        assert found.dimension() == pytest.approx(dimension, abs=2e-3)
    for share, value in zip((0.1, 0.25, 0.5, 0.75), shares or (), strict=False):
        assert found.exponent(share) == pytest.approx(value, abs=2e-3)


def random_tanh(size: int, gain: float, noise: float = 0.0) -> ns.FunctionCell:
    w = matrix(size, gain).float()
    return ns.FunctionCell(
        lambda u, h: (torch.tanh(h) @ w.T + noise * u,) * 2, lambda b, **kw: torch.randn(b, size, **kw)
    )


@pytest.mark.parametrize(
    ("gain", "noise", "size", "tolerance"),
    [
        (1.5, 0.0, 500, 0.03),
        (2, 0.0, 500, 0.02),
        (3, 0.0, 500, 0.02),
        (5, 0.0, 500, 0.02),
        (10, 0.0, 1000, 0.02),
        (2, 1.0, 500, 0.02),
    ],
)
def test_random_tanh_networks_have_the_mean_field_exponent(
    gain: float, noise: float, size: int, tolerance: float
) -> None:
    """Within 0.02; near the onset of chaos the networks of this size scatter more."""
    us = torch.randn(260, 2, size) if noise else torch.zeros(260, 2, 1)
    found = lyapunov(random_tanh(size, gain, noise), us, count=1, settle=60)
    assert found.largest == pytest.approx(mean_field(gain, noise**2).largest, abs=tolerance)


def test_the_whole_spectrum_of_a_random_tanh_network() -> None:
    size, expected = 100, mean_field(2.0)
    found = [lyapunov(random_tanh(size, 2.0), torch.zeros(300, 1, 1), settle=100) for _ in range(3)]
    assert all(abs(one.sum_rule) < 1e-6 for one in found)
    mean = torch.stack([one.exponents for one in found]).mean(0)
    assert float(mean.mean()) == pytest.approx(expected.mean, abs=0.05)
    for i in (25, 50, 75):
        assert float(mean[i - 1 : i + 1].mean()) == pytest.approx(expected.exponent(i / size), abs=0.05)
    assert sum(one.dimension for one in found) / 3 / size == pytest.approx(0.239, abs=0.03)


def test_a_few_exponents_are_the_largest_of_all() -> None:
    cell, us = ns.LSTM(2, 4).double(), torch.randn(300, 2, 2).double()
    everything, few = lyapunov(cell, us), lyapunov(cell, us, count=3)
    assert len(everything.exponents) == 8, "h and c"
    assert near(few.exponents, everything.exponents[:3], 0.02)
    assert few.sum_rule is None
    assert few.dimension == 0


def test_a_complex_state_counts_as_its_real_and_imaginary_parts() -> None:
    """A linear recurrent unit h' = a h + u: ln |a| twice for each a, and the gradient falls by |a| a step."""
    factor = torch.polar(torch.tensor([0.9, 0.5]).double(), torch.tensor([1.0, 2.0]).double())
    cell = ns.FunctionCell(
        lambda u, h: ((factor * h + u).real, factor * h + u),
        lambda b, **kw: torch.zeros(b, 2, dtype=torch.complex128),
    )
    us = torch.randn(120, 3, 2).double()
    expected = factor.abs().log().repeat_interleave(2)
    for found in (lyapunov(cell, us, settle=100), lyapunov(cell, us, count=3, settle=100)):
        assert near(found.exponents, expected[: len(found.exponents)])
    assert flossing_loss(cell, us, count=4, settle=100).item() == pytest.approx(
        float(expected.square().mean())
    )
    lags = torch.arange(41).double()
    mean = ((0.9 ** (2 * lags) + 0.5 ** (2 * lags)) / 2).sqrt()
    assert near(reach(cell, us[:40].repeat(1, 2000, 1)).curve, mean, 0.02)
    [part] = ns.inspect(cell, us).parts
    assert part.size == 4
    assert part.spectrum.largest == pytest.approx(math.log(0.9), abs=0.01)


def test_jacobians_are_those_of_autograd() -> None:
    cell, us = ns.Stacked(ns.LSTM(2, 3), ns.Dropped(ns.GRU(3, 2), state=0.5)).double(), torch.randn(4, 2, 2)
    us, s0 = us.double(), cell.initial_state(2, dtype=torch.float64)
    found = jacobians(cell, us, s0)
    assert found.shape == (4, 2, 8, 8), "the masks are no dimensions"
    state = s0
    for t in range(4):

        def step(x: Tensor, t: int = t, state: tuple = state) -> Tensor:
            _, dropped = state
            h, c, g = x.split([3, 3, 2], 1)
            after = cell(us[t], (ns.LSTMState(h, c), dropped._replace(cell=g)))[1]
            return torch.cat([*after[0], after[1].cell], 1)

        x = torch.cat([*state[0], state[1].cell], 1)
        whole = torch.autograd.functional.jacobian(step, x)
        assert near(found[t], torch.stack([whole[b, :, b] for b in range(2)]), 1e-12)
        state = cell(us[t], state)[1]


def test_singular_values_of_a_lag() -> None:
    cell, us = ns.GRU(2, 5).double(), torch.randn(9, 1, 2).double()
    steps = jacobians(cell, us)[:, 0]
    found = lagged_singular_values(cell, us, [1, 4], start=3)[:, 0]
    assert near(found[0], torch.linalg.svdvals(steps[3]).log())
    assert near(found[1], torch.linalg.svdvals(steps[6] @ steps[5] @ steps[4] @ steps[3]).log())
    assert not near(found[1], torch.linalg.svdvals(steps[3] @ steps[4] @ steps[5] @ steps[6]).log())


@pytest.mark.parametrize(
    ("attempt", "told"),
    [
        (lambda: lyapunov(ns.GRU(2, 3), torch.zeros(5, 1, 2), count=4), "count is 4; the state has 3"),
        (lambda: lyapunov(ns.GRU(2, 3), torch.zeros(5, 1, 2), settle=5), "settle is 5; us has 5 steps"),
        (lambda: lyapunov(ns.GRU(2, 3), torch.zeros(0, 1, 2)), "us has 0 steps"),
        (lambda: lyapunov(autonomous(lambda s: 1e200 * s, torch.ones(1, 1).double()), nothing(5)), "finite"),
        (lambda: lyapunov(autonomous(lambda s: s, torch.zeros(1, 2)), nothing(5)), "no floating state"),
        (lambda: lagged_singular_values(ns.GRU(2, 3), torch.zeros(5, 1, 2), [4, 2]), "they must rise"),
        (lambda: mean_field(-1.0), "gain is -1.0"),
        (lambda: mean_field(math.inf), "gain is inf"),
    ],
)
def test_refusals(attempt, told: str) -> None:
    with pytest.raises(ns.InputError, match=told):
        attempt()
