"""The scan engine: linear steps are recognised, and run to what the loop computes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import laws
import nextstate as ns
from agreement import assert_agree, assert_close, on, outcome
from catalogue import BY_NAME, ROWS, Row, random_state, randomise_
from nextstate.engines.recurrence import CHUNK, Recurrence, solve
from nextstate.states import Tree, leaves, tree_map

DOUBLE = torch.float64
QUALIFIED = {"MinGRU", "two lambdas without memory"}


def own(step: Callable[[Tree, Tree], tuple[Tree, Tree]], *sizes: int, weights: nn.Module | None = None):
    """A cell of one step; its state has features `sizes`."""
    return ns.FunctionCell(step, lambda b, **kw: torch.zeros(b, *sizes, **kw), weights)


def pair(step: Callable[[Tree, Tree], tuple[Tree, Tree]], size: int) -> ns.FunctionCell:
    return ns.FunctionCell(step, lambda b, **kw: (torch.zeros(b, size, **kw), torch.zeros(b, size, **kw)))


def two_layers(u: Tensor, s: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The second reads the first, not linearly."""
    one = torch.sigmoid(u) * s[0] + u
    two = torch.tanh(one) * s[1] + s[0] * one
    return two.sum(-1, keepdim=True), (one, two)


LINEAR: dict[str, tuple[ns.Cell, Callable[[int], Tree]]] = {
    "MinGRU": (ns.MinGRU(3, 5), lambda t: torch.randn(t, 4, 3)),
    "two MinGRUs": (ns.Stacked(ns.MinGRU(3, 5), ns.MinGRU(5, 2)), lambda t: torch.randn(t, 4, 3)),
    "residual": (ns.Residual(ns.MinGRU(3, 3)), lambda t: torch.randn(t, 4, 3)),
    "resets": (
        ns.ResetWhen(ns.LearnedStart(ns.MinGRU(3, 5))),
        lambda t: (torch.randn(t, 4, 3), torch.rand(t, 4) < 0.3),
    ),
    "ids": (ns.Embedded(ns.MinGRU(3, 5), 7, 3), lambda t: torch.randint(0, 7, (t, 4))),
    "dropped": (
        ns.Dropped(ns.MinGRU(3, 5), state=0.4, input=0.2, input_size=3),
        lambda t: torch.randn(t, 4, 3),
    ),
    "a filter": (own(lambda u, s: ((s + u) / 2, torch.lerp(s, u, 0.1)), 3), lambda t: torch.randn(t, 4, 3)),
    "growing": (own(lambda u, s: (s, 1.5 * s - u), 3), lambda t: torch.randn(t, 4, 3)),
    "a choice": (
        own(lambda u, s: (s, torch.where(u > 0, -s / (1 + u * u), u + zeros(s))), 3),
        lambda t: torch.randn(t, 4, 3),
    ),
    "outer products": (
        own(lambda u, s: (s.sum(-1), s * torch.sigmoid(u)[..., None] + u[:, :, None] * u[:, None]), 3, 3),
        lambda t: torch.randn(t, 4, 3),
    ),
    "two layers of one cell": (pair(two_layers, 3), lambda t: torch.randn(t, 4, 3)),
    "a delay": (pair(lambda u, s: (s[1], (u, s[0])), 3), lambda t: torch.randn(t, 4, 3)),
}


def zeros(s: Tensor) -> Tensor:
    return torch.zeros_like(2 * s)


NOT_LINEAR: dict[str, tuple[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], str]] = {
    "square": (lambda u, s: (s, s * s + u), "multiplies the state with itself"),
    "tanh": (lambda u, s: (s, torch.tanh(s) + u), "tanh is not linear"),
    "abs": (lambda u, s: (s, 0.5 * s.abs() + u), "abs is not linear"),
    "divisor": (lambda u, s: (s, u / (2 + s)), "div is not linear"),
    "condition": (lambda u, s: (s, torch.where(s > 0, u, s)), "asks a condition of the state"),
    "weight": (lambda u, s: (s, torch.lerp(u, s, s)), "asks a weight of the state"),
    "product": (lambda u, s: (s, s @ torch.eye(3, dtype=s.dtype) + u), "mixes the features of the state"),
    "sum": (lambda u, s: (s, s.sum(-1, keepdim=True) * u), "sum is not linear"),
    "rolled": (lambda u, s: (s, torch.cat([s[:, 1:], s[:, :1]], 1) + u), "is not linear in the state"),
    "rows": (lambda u, s: (s, s + u.sum(0)), "sum"),
    "detached": (lambda u, s: (s, 0.5 * s.detach() + u), "detach is not linear"),
    "rounded": (lambda u, s: (s, s.half().to(s) + u), "into torch.float16"),
}


def linear_case(name: str, steps: int, dtype: torch.dtype = DOUBLE) -> tuple[ns.Cell, Tree, Tree]:
    cell, make = LINEAR[name]
    cell = randomise_(copy.deepcopy(cell)).to(dtype)
    us = tree_map(lambda u: u.to(dtype) if u.is_floating_point() else u, make(steps))
    return cell, us, random_state(cell, 4, dtype)


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_step_is_the_loop(name: str) -> None:
    """For lengths below, at and above a chunk, with rows of no steps."""
    cell, us, s0 = linear_case(name, 3 * CHUNK + 5)
    for lengths in (None, torch.tensor([3 * CHUNK + 5, 0, 3, CHUNK])):
        fast = outcome(on("scan"), cell, us, s0, lengths)
        assert_agree(fast, outcome(on("reference"), cell, us, s0, lengths), 1e-12)
    laws.last_of_scan("scan", on("scan"), cell, us, s0, lengths)


@pytest.mark.parametrize("name", ["MinGRU", "resets", "two layers of one cell"])
def test_the_laws_hold(name: str) -> None:
    cell, us, s0 = linear_case(name, 5)
    lengths = torch.tensor([3, 0, 5, 1])
    laws.concatenation(on("scan"), cell, us, s0)
    laws.batched(on("scan"), cell, us, s0)
    laws.rows_alone(on("scan"), cell, us, s0, lengths)
    if name != "resets":  # a boolean may be wrong, but not NaN
        laws.padding(on("scan"), cell, us, s0, lengths)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_catalogue_qualifies_where_it_is_linear(row: Row) -> None:
    cell, us = row.cell(), row.us(4, 2)
    s0 = random_state(cell, 2)
    if row.name in QUALIFIED:
        reference = outcome(on("reference"), cell, us, s0)
        assert_agree(outcome(on("scan"), cell, us, s0), reference, 1e-12)
        return
    with pytest.raises(ns.EngineError, match=r"'scan' cannot run .*(linear|mixes|itself|one another)"):
        ns.scan(cell, us, s0, engine="scan")


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_what_is_not_linear_is_refused(name: str) -> None:
    step, reason = NOT_LINEAR[name]
    with pytest.raises(ns.EngineError, match=reason):
        ns.scan(own(step, 3), torch.randn(4, 2, 3), engine="scan")


def test_integers_hooks_and_transforms_are_refused() -> None:
    us = torch.randn(4, 2, 3)
    count = ns.FunctionCell(lambda u, s: (u, s + 1), lambda b, **kw: torch.zeros(b, 1, dtype=torch.int64))
    with pytest.raises(ns.EngineError, match="a state of int64"):
        ns.scan(count, us, engine="scan")
    cell = ns.MinGRU(3, 5)
    with pytest.raises(ns.EngineError, match=r"a torch.func transform"):
        torch.func.grad(lambda us: ns.scan(cell, us, engine="scan")[0].sum())(us)
    cell.register_forward_hook(lambda *given: None)
    with pytest.raises(ns.EngineError, match="hooks"):
        ns.scan(cell, us, engine="scan")


def test_agreement_rejects_a_broken_recurrence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start lost between chunks, a factor one step late in the gradient: both are seen."""
    cell, us, s0 = linear_case("MinGRU", 3 * CHUNK + 5)
    expected = outcome(on("reference"), cell, us, s0)
    assert_agree(outcome(on("scan"), cell, us, s0), expected, 1e-12)

    def forgetful(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
        return torch.cat([solve(a[:CHUNK], b[:CHUNK], start), solve(a[CHUNK:], b[CHUNK:], 0 * start)])

    with monkeypatch.context() as patch:
        patch.setattr("nextstate.engines.recurrence.solve", forgetful)
        with pytest.raises(AssertionError):
            assert_agree(outcome(on("scan"), cell, us, s0), expected, 1e-12)

    def late(ctx, gradient):  # type: ignore[no-untyped-def]
        a, h, start = ctx.saved_tensors
        found = Recurrence.apply(a.flip(0), gradient.flip(0), torch.zeros_like(start)).flip(0)
        return found * torch.cat([start[None], h[:-1]]), found, found[0] * a[0]

    with monkeypatch.context() as patch:
        patch.setattr(Recurrence, "backward", staticmethod(late))
        with pytest.raises(AssertionError):
            assert_agree(outcome(on("scan"), cell, us, s0), expected, 1e-12)


@pytest.mark.parametrize("steps", [0, 1, 2, CHUNK - 1, 3 * CHUNK, 3 * CHUNK + 1, CHUNK**2 * 3 + 7])
@pytest.mark.parametrize("kind", ["real", "complex", "matrices"])
def test_solve_is_the_recurrence(steps: int, kind: str) -> None:
    dtype = torch.complex128 if kind == "complex" else DOUBLE
    a, b = torch.randn(steps, 2, 3, dtype=dtype), torch.randn(steps, 2, 3, dtype=dtype)
    if kind == "matrices":
        a = torch.randn(steps, 2, 3, 3, dtype=dtype) / 2
    start = torch.randn(2, 3, dtype=dtype)
    h, expected = start, []
    for factor, offset in zip(a, b, strict=True):
        h = (factor @ h[..., None])[..., 0] + offset if kind == "matrices" else factor * h + offset
        expected.append(h)
    found = solve(a, b, start)
    assert found.shape == b.shape
    if steps:
        scale = torch.stack(expected).abs().max().clamp(min=1)
        assert (found - torch.stack(expected)).abs().max() <= 1e-12 * scale


def test_factors_that_overflow_while_the_states_do_not() -> None:
    """0 times infinity would be NaN: the loop's zeros are found."""
    steps = 4 * CHUNK
    found = solve(torch.full((steps, 1), 1e30), torch.zeros(steps, 1), torch.zeros(1))
    assert torch.equal(found, torch.zeros(steps, 1))


def test_gradients_of_first_and_second_order() -> None:
    a, b, start = (torch.randn(*shape, 2, dtype=DOUBLE, requires_grad=True) for shape in ((50,), (50,), ()))
    assert torch.autograd.gradcheck(Recurrence.apply, (a, b, start), fast_mode=True)
    assert torch.autograd.gradgradcheck(Recurrence.apply, (a, b, start), fast_mode=True)
    a, b, start = (torch.randn_like(x, dtype=torch.complex128, requires_grad=True) for x in (a, b, start))
    assert torch.autograd.gradcheck(Recurrence.apply, (a, b, start), fast_mode=True)


def test_a_complex_diagonal_recurrence() -> None:
    """A linear recurrent unit: h' = lambda h + B u, read out after the loop."""
    factor = torch.polar(torch.rand(4, dtype=DOUBLE), 6 * torch.rand(4, dtype=DOUBLE))
    cell = ns.FunctionCell(
        lambda u, h: (factor * h + u, factor * h + u),
        lambda b, **kw: torch.zeros(b, 4, dtype=torch.complex128),
    )
    us = torch.randn(60, 2, 4, dtype=torch.complex128)
    for one, other in zip(
        ns.scan(cell, us, engine="scan"), ns.scan(cell, us, engine="reference"), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [100, 1000])
def test_errors_in_float32_are_those_of_the_loop(steps: int) -> None:
    """Against float64, L2: outputs, states and their gradients within 1e-6, none worse than the loop's.

    The gradient of a weight is one product over all steps and rows, and torch's matrix product adds them up
    in whatever order it likes: off by no more than a plain sum of as many terms.
    """
    cell, us, s0 = linear_case("MinGRU", steps)
    exact = outcome(on("reference"), cell, us, s0)
    single = copy.deepcopy(cell).float()

    def off(engine: str) -> dict[str, float]:
        found = outcome(on(engine), single, us.float(), s0.float())
        return {k: float((x - exact[k]).detach().norm() / exact[k].detach().norm()) for k, x in found.items()}

    loop = off("reference")
    for name, error in off("scan").items():
        summed = "weight" in name or "bias" in name
        limit = (4 * steps) ** 0.5 * torch.finfo(torch.float32).eps if summed else 1.5 * loop[name] + 1e-7
        assert error < limit, (name, error, loop[name])
        assert error < 1e-6 or summed, (name, error)


@pytest.mark.parametrize("batch", [1, 3])
def test_no_steps(batch: int) -> None:
    cell = BY_NAME["MinGRU"].cell()
    s0 = random_state(cell, batch)
    vs, sT = ns.scan(cell, torch.randn(0, batch, 3, dtype=DOUBLE), s0, engine="scan")
    assert vs.shape == (0, batch, 5)
    assert_close(sT, s0, 1e-30)
    nothing = torch.zeros(batch, dtype=torch.int64)
    vs, sT = ns.scan(cell, torch.randn(4, batch, 3, dtype=DOUBLE), s0, lengths=nothing, engine="scan")
    assert not vs.any()
    assert_close(sT, s0, 1e-30)


def test_every_step_draws_anew() -> None:
    cell = own(lambda u, s: (s, (torch.rand_like(u) < 0.5) * s + u), 50)
    vs, _ = ns.scan(cell, torch.ones(40, 3, 50), torch.ones(3, 50), engine="scan")
    assert len({tuple(row) for row in vs[1:].flatten(0, 1).tolist()}) == 39 * 3


def test_results_are_the_callers_to_change() -> None:
    cell, us = own(lambda u, s: (s + u, s + u), 3), torch.randn(40, 2, 3, requires_grad=True)
    vs, sT = ns.scan(cell, us, engine="scan")
    kept = sT.detach().clone()
    vs.data.zero_()
    assert torch.equal(sT, kept)
    sT.sum().backward()
    assert torch.equal(us.grad, torch.ones_like(us))


def test_auto_takes_it_where_it_was_faster() -> None:
    """Long and narrow, where the kernels do not run; a changed cell is seen."""
    cell = ns.MinGRU(3, 5)
    assert ns.explain(cell, torch.zeros(1000, 1, 3)).engine == "cpu"
    cell = cell.double()
    assert ns.explain(cell, torch.zeros(1000, 1, 3, dtype=DOUBLE)).engine == "scan"
    assert ns.explain(cell, torch.zeros(8, 1, 3, dtype=DOUBLE)).engine == "reference"
    assert ns.explain(cell, torch.zeros(1000, 500, 3, dtype=DOUBLE)).engine == "reference"
    assert ns.explain(ns.GRU(3, 5).double(), torch.zeros(1000, 1, 3, dtype=DOUBLE)).engine == "reference"
    us = torch.randn(40, 2, 3, dtype=DOUBLE)
    for _ in range(2):
        assert_close(ns.scan(cell, us)[0], ns.scan(cell, us, engine="reference")[0], 1e-12)
        randomise_(cell)


def test_no_warning_where_it_stands_in_for_the_kernels() -> None:
    cell, make = LINEAR["outer products"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vs, _ = ns.scan(cell, make(40))
    assert vs.shape == (40, 4, 3)


def test_a_step_that_changes_is_traced_again() -> None:
    us, cell = torch.randn(40, 2, 3), own(lambda u, s: (s, 0.5 * s + u), 3)
    first, _ = ns.scan(cell, us, engine="scan")
    cell.step = lambda u, s: (s, 0.25 * s + u)
    second, _ = ns.scan(cell, us, engine="scan")
    assert not torch.allclose(first, second)
    assert_close(second, ns.scan(cell, us, engine="reference")[0])
    cell.step = lambda u, s: (s, F.relu(s) + u)
    with pytest.raises(ns.EngineError, match="relu is not linear"):
        ns.scan(cell, us, engine="scan")
    assert len(leaves(second)) == 1
