"""The Newton engines: what converges is the loop's, what does not is an error that says so."""

from __future__ import annotations

import re

import pytest
import torch

import laws
import nextstate as ns
from agreement import assert_agree, assert_close, on, outcome
from catalogue import BY_NAME, ROWS, Row, random_state
from nextstate.engines import newton, newton_solver
from nextstate.engines.newton_solver import TOLERANCE, Newton
from nextstate.engines.parallel_rows import Rows
from nextstate.states import Tree

DOUBLE = torch.float64
BOTH = ("newton", "quasi-newton")
engines = pytest.mark.parametrize("engine", BOTH)


def network(gain: float, size: int = 40, dtype: torch.dtype = torch.float32) -> ns.FunctionCell:
    """h' = tanh(W h + u), W random with the spectral radius `gain`: chaotic for long sequences if above 1."""
    weight = torch.randn(size, size, dtype=dtype) * gain / size**0.5
    return ns.FunctionCell(
        lambda u, h: (torch.tanh(h @ weight + u),) * 2, lambda b, **kw: torch.ones(b, size, **kw)
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@engines
def test_the_catalogue_is_the_loop(row: Row, engine: str) -> None:
    """Outputs, states and every gradient, ragged, with a row of no steps."""
    cell, us = row.cell(), row.us(9, 4)
    s0, lengths = random_state(cell, 4), torch.tensor([9, 0, 3, 7])
    assert_agree(outcome(on(engine), cell, us, s0, lengths), outcome(on("reference"), cell, us, s0, lengths))


@pytest.mark.parametrize("name", ["GRU", "LSTM", "ProjectedLSTM"])
@engines
def test_long_sequences_in_both_precisions(name: str, engine: str) -> None:
    for dtype in TOLERANCE:
        cell = BY_NAME[name].cell(dtype=dtype)
        us, s0 = BY_NAME[name].us(200, 2, dtype=dtype), random_state(cell, 2, dtype)
        # 200 steps' gradients of a weight add up: their rounding in float32 is that of the loop too.
        limit = 5e-5 if dtype == torch.float32 else None
        assert_agree(outcome(on(engine), cell, us, s0), outcome(on("reference"), cell, us, s0), limit)


@engines
def test_the_laws_hold(engine: str) -> None:
    cell, us, lengths = BY_NAME["GRU"].cell(), torch.randn(5, 4, 3, dtype=DOUBLE), torch.tensor([3, 0, 5, 1])
    s0 = random_state(cell, 4)
    laws.concatenation(on(engine), cell, us, s0)
    laws.rows_alone(on(engine), cell, us, s0, lengths)
    laws.padding(on(engine), cell, us, s0, lengths)
    laws.last_of_scan(engine, on(engine), cell, us, s0, lengths)


@engines
@pytest.mark.parametrize("batch", [1, 3])
def test_no_steps(engine: str, batch: int) -> None:
    cell = BY_NAME["LSTM"].cell()
    s0 = random_state(cell, batch)
    vs, sT = ns.scan(cell, torch.randn(0, batch, 3, dtype=DOUBLE), s0, engine=engine)
    assert vs.shape == (0, batch, 5)
    assert_close(sT, s0, 1e-30)
    v, sT = ns.fold(cell, torch.randn(0, batch, 3, dtype=DOUBLE), s0, engine=engine)
    assert not v.any()


@engines
@pytest.mark.parametrize("steps", [30, 100])
@pytest.mark.parametrize("gain", [3.0, 5.0])
def test_a_chaotic_cell_is_an_error(engine: str, steps: int, gain: float) -> None:
    """Also where so few steps are left that the equations can be solved, but rounding decides the answer."""
    s0 = torch.randn(1, 40)
    with pytest.raises(
        ns.EngineError, match=r"\d+ iterations, residual .*Lyapunov exponent is positive"
    ) as said:
        ns.scan(network(gain), torch.zeros(steps, 1, 40), s0, engine=engine)
    rate = float(re.search(r"about ([\d.]+) a step", str(said.value)).group(1))
    assert 0.1 < rate < 0.8  # for wide networks .31 at gain 3 and .53 at 5: Engelken et al. 2023


@engines
def test_a_calm_cell_is_not_called_chaotic(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton_solver, "ITERATIONS", 2)
    with pytest.raises(ns.EngineError, match="2 iterations, residual") as said:
        ns.scan(network(0.9), torch.randn(100, 1, 40), engine=engine)
    assert "Lyapunov" not in str(said.value)


def test_newton_needs_few_iterations_where_the_loop_forgets() -> None:
    """And its states do not depend on the guess: residuals of the equations below the tolerance."""
    cell, us = network(0.5, 20, DOUBLE), torch.randn(400, 2, 20, dtype=DOUBLE)
    vs, _ = ns.scan(cell, us, torch.randn(2, 20, dtype=DOUBLE), engine="newton")
    step = lambda h: cell(us[1:].flatten(0, 1), h)[1]  # noqa: E731
    assert (step(vs[:-1].flatten(0, 1)) - vs[1:].flatten(0, 1)).abs().max() < TOLERANCE[DOUBLE]
    solver = Newton(
        lambda h: cell(us.flatten(0, 1), h)[1], Rows(400, 2, None), torch.zeros(2, 20, dtype=DOUBLE), True
    )
    with torch.no_grad():
        found = solver.run()
    assert isinstance(found, tuple)
    assert found[1] <= 8


@pytest.mark.parametrize("dense", [True, False])
def test_a_state_is_exact_after_as_many_iterations_as_steps(
    dense: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the Jacobian: here a quarter of it, as damped once."""
    cell, us = network(0.9, 8, DOUBLE), torch.randn(12, 1, 8, dtype=DOUBLE)
    whole = newton_solver.Linear.jacobian
    monkeypatch.setattr(newton_solver.Linear, "jacobian", lambda self: whole(self) / 4)
    monkeypatch.setattr(newton_solver.Newton, "_off", lambda *given: 0.0)
    solver = Newton(
        lambda h: cell(us.flatten(0, 1), h)[1], Rows(12, 1, None), torch.ones(1, 8, dtype=DOUBLE), dense
    )
    with torch.no_grad():
        found = solver.run()
    assert isinstance(found, tuple)
    assert found[1] <= 14
    assert_close(found[0], ns.scan(cell, us, torch.ones(1, 8, dtype=DOUBLE), engine="reference")[0])


def test_overflow_is_damped() -> None:
    """Factors of 50 a step overflow in 60 steps; damped to 50/64 the corrections stay within reach."""
    solver = Newton(lambda h: h, Rows(60, 1, None), torch.zeros(1, 1), False)
    r = torch.ones(60, 1, 1)
    d, level = solver._correction(50 * r, r, r, 0)
    assert d.abs().max() < 10
    assert level == 2  # one less than was needed is tried next
    d, _ = solver._correction(1e9 * r, r, r, 0)
    assert not d.isfinite().any()
    assert not d.isnan().any()


@pytest.mark.parametrize("name", ["GRU", "LSTM"])
@engines
def test_gradients_by_finite_differences(name: str, engine: str) -> None:
    cell, us = BY_NAME[name].cell(2, 3), torch.randn(4, 2, 2, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda us: ns.scan(cell, us, lengths=torch.tensor([4, 2]), engine=engine)[0], (us,), fast_mode=True
    )


def test_a_second_derivative_is_an_error() -> None:
    cell, us = BY_NAME["GRU"].cell(), torch.randn(4, 2, 3, dtype=DOUBLE, requires_grad=True)
    (first,) = torch.autograd.grad(
        ns.scan(cell, us, engine="newton")[0].square().sum(), us, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@engines
def test_agreement_rejects_a_wrong_adjoint_and_a_wrong_state(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, us = BY_NAME["GRU"].cell(), torch.randn(9, 2, 3, dtype=DOUBLE)
    s0 = random_state(cell, 2)
    expected = outcome(on("reference"), cell, us, s0)
    with monkeypatch.context() as patch:
        patch.setattr(Newton, "adjoint", lambda self, linear, g: g)
        with pytest.raises(AssertionError, match="gradient"):
            assert_agree(outcome(on(engine), cell, us, s0), expected)
    with monkeypatch.context() as patch:
        run = Newton.run
        patch.setattr(Newton, "run", lambda self: (run(self)[0] + 1e-8, 1))  # type: ignore[index]
        with pytest.raises(AssertionError):
            assert_agree(outcome(on(engine), cell, us, s0), expected)


def test_wrong_jacobians_do_not_make_wrong_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What checks the answer is the step itself: Jacobians of noise end in an error."""
    cell, us = BY_NAME["GRU"].cell(), torch.randn(150, 2, 3, dtype=DOUBLE)
    noise = lambda self: torch.randn(*self.value.shape, self.value.shape[1], dtype=DOUBLE)  # noqa: E731
    monkeypatch.setattr(newton_solver.Linear, "jacobian", noise)
    with pytest.raises(ns.EngineError, match="did not converge"):
        ns.scan(cell, us, engine="newton")


@engines
def test_states_that_no_gradient_reaches_are_those_of_the_loop(engine: str) -> None:
    """A step that is flat in its state, though not in its weights, and one that never reads its state."""
    us = torch.randn(60, 2, 3, dtype=DOUBLE)
    rounded = ns.Elman(3, 4, activation=torch.sign).double()
    layer = torch.nn.Linear(3, 4).double()
    blind = ns.FunctionCell(lambda u, s: (s, layer(u)), lambda b, **kw: torch.zeros(b, 4, **kw), layer)
    for cell in (rounded, blind):
        s0 = random_state(cell, 2)
        assert_agree(outcome(on(engine), cell, us, s0), outcome(on("reference"), cell, us, s0))


def refused(engine: str, cell: ns.Cell, us: Tree, reason: str) -> None:
    with pytest.raises(ns.EngineError, match=reason):
        ns.scan(cell, us, engine=engine)


@engines
def test_what_cannot_be_iterated_is_refused(engine: str) -> None:
    us = torch.randn(4, 2, 3)

    def cell(step, dtype: torch.dtype = torch.float32) -> ns.FunctionCell:  # type: ignore[no-untyped-def]
        return ns.FunctionCell(step, lambda b, **kw: torch.zeros(b, 3, dtype=dtype))

    refused(engine, cell(lambda u, s: (u, s + torch.rand_like(u))), us, "draws anew")
    refused(engine, cell(lambda u, s: (u, s - s.mean(0))), us, "mean")
    refused(engine, cell(lambda u, s: (u, s + 1), torch.int64), us, "states of int64")
    refused(engine, cell(lambda u, s: (u, s + 1), torch.bfloat16), us, "states of bfloat16")
    hooked = ns.GRU(3, 5)
    hooked.register_forward_hook(lambda *given: None)
    refused(engine, hooked, us, "hooks")


def test_jacobians_too_large_are_refused_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton, "LARGEST", 1000)
    cell = ns.GRU(3, 5)
    refused(
        "newton",
        cell,
        torch.randn(30, 2, 3),
        r"30 x 2 x 5 x 5 = 1.5e\+03 numbers; at most 1e\+03; 'quasi-newton'",
    )
    ns.scan(cell, torch.randn(30, 2, 3), engine="quasi-newton")
    refused("quasi-newton", cell, torch.randn(300, 2, 3), r"300 x 2 x 5 = 3e\+03 numbers; at most 1e\+03$")


def test_auto_never_takes_it() -> None:
    cell, us = ns.GRU(3, 5).double(), torch.randn(50, 1, 3, dtype=DOUBLE)
    found = ns.explain(cell, us)
    assert found.engine == "reference"
    for name in BOTH:
        assert any(reason.startswith(f"{name}: ") and "by name" in reason for reason in found.reasons)
