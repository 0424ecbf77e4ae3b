"""Newton iteration for all states of a sequence at once, and what it must show before it is believed.

The states solve s_t = f_t(s_{t-1}). From a guess, with residuals r_t = f_t(s_{t-1}) - s_t, one iteration adds
the solution of the linear recurrence

    d_t = (1 - k) J_t d_{t-1} + r_t

where J_t is the Jacobian of f_t, or its diagonal, and k in [0, 1) damps it. After i iterations the first i
states are those of the loop, whatever J and k are. Source: Lim et al. 2024 (DEER, arXiv 2309.12252); Gonzalez
et al. 2024 (quasi-DEER, attenuated Jacobians, arXiv 2407.19115).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nextstate.checks import EngineError
from nextstate.engines.parallel_rows import Rows
from nextstate.engines.recurrence import solve

ITERATIONS = 100
SWEEPS = 2
"""Plain evaluations s_t = f_t(s_{t-1}) of the first guess, the start at every step."""

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10}
"""What the states may be off by, against the loop, relative to the largest number among them (at least 1)."""

PIECE = 2**24
"""Numbers of a Jacobian computed at a time."""

Step = Callable[[Tensor], Tensor]
"""All steps at once: the states before them as rows [N, S] to the states after them [N, S]."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the iteration is not believed."""

    iterations: int
    residual: float
    why: str


class Linear:
    """The step linearised about the states `x` [N, S] before it: values, products with J and J^T."""

    def __init__(self, step: Step, x: Tensor, dense: bool) -> None:
        with torch.enable_grad():
            self.x = x.detach().requires_grad_()
            self.y = step(self.x)
        self.dense = dense
        self.value = self.y.detach()

    def transposed(self, g: Tensor) -> Tensor:
        """J^T g, row by row."""
        if not self.y.requires_grad:
            return torch.zeros_like(g)
        return _derivative(self.y, self.x, g, retain_graph=True)

    def product(self, d: Tensor) -> Tensor:
        """J d, row by row: the transpose of the transpose."""
        if not self.y.requires_grad:
            return torch.zeros_like(d)
        zero = torch.zeros_like(self.value, requires_grad=True)
        back = _derivative(self.y, self.x, zero, create_graph=True)
        return _derivative(back, zero, d) if back.requires_grad else torch.zeros_like(d)

    def jacobian(self) -> Tensor:
        """J [N, S, S], or its diagonal [N, S]."""
        rows, size = self.value.shape
        found = self.value.new_empty((rows, size, size) if self.dense else (rows, size))
        if not self.y.requires_grad:
            return found.zero_()
        at_once = max(1, PIECE // max(1, rows * size))
        for first in range(0, size, at_once):
            columns = torch.arange(first, min(first + at_once, size), device=found.device)
            ones = torch.zeros(len(columns), rows, size, dtype=found.dtype, device=found.device)
            each = torch.arange(len(columns), device=found.device)
            ones[each, :, columns] = 1
            part = _derivative(self.y, self.x, ones, retain_graph=True, is_grads_batched=True)
            if self.dense:
                found[:, columns] = part.transpose(0, 1)
            else:
                found[:, columns] = part[each, :, columns].T
        return found


def _derivative(y: Tensor, x: Tensor, g: Tensor, **options: bool) -> Tensor:
    """J^T g of y by x; zeros where y needs a gradient, of a weight, but x has no part in it."""
    (found,) = torch.autograd.grad(y, x, g, allow_unused=True, **options)
    return torch.zeros_like(g) if found is None else found


class Newton:
    """The iteration for one sequence: `rows` of it, `start` [B, S], dense or diagonal Jacobians."""

    def __init__(self, step: Step, rows: Rows, start: Tensor, dense: bool) -> None:
        self.step, self.rows, self.start, self.dense = step, rows, start.detach(), dense
        self.tolerance = TOLERANCE[start.dtype]

    def run(self) -> tuple[Tensor, int] | Failure:
        """The states after every step [T, B, S] and the iterations it took, or why there are none."""
        s = self.start.expand(self.rows.steps, *self.start.shape).clone()
        for _ in range(SWEEPS):
            s = self.spread(self.step(self.before(s, self.start)), s, self.start)
        level, change, residual = 0, math.inf, math.inf
        for iteration in range(1, ITERATIONS + 1):
            linear = self.linear(s)
            r = self.spread(linear.value, s, self.start) - s
            scale = max(1.0, largest(s))
            residual = largest(r) / scale
            if residual <= self.tolerance and change <= self.tolerance:
                off = self._off(linear, r, scale)
                if off <= self.tolerance:
                    return s + r, iteration
                why = f"the equations hold, but the loop's own rounding moves its states by about {off:.1e}"
                return Failure(iteration, residual, why)
            d, level = self._correction(self.factors(linear), r, s, level)
            if not math.isfinite(largest(d)):
                return Failure(iteration, residual, "its corrections overflow, however damped")
            s, change = s + d, largest(d) / scale
        return Failure(ITERATIONS, residual, f"the last correction was {change:.1e}")

    def linear(self, s: Tensor) -> Linear:
        return Linear(self.step, self.before(s, self.start), self.dense)

    def before(self, s: Tensor, start: Tensor) -> Tensor:
        """What stands before each step [N, S], given what stands after it [T, B, S]."""
        return self.rows.pack(torch.cat([start.unsqueeze(0), s[:-1]]))

    def spread(self, x: Tensor, s: Tensor, start: Tensor) -> Tensor:
        """Rows [N, S] made by the steps at their places [T, B, S]; after a row's end nothing changes."""
        if self.rows.source is None:
            return self.rows.unpack(x)
        kept = torch.cat([start.unsqueeze(0), s[:-1]]).flatten(0, 1)
        return kept.index_copy(0, self.rows.source, x).unflatten(0, (self.rows.steps, self.rows.batch))

    def factors(self, linear: Linear) -> Tensor:
        """J at every step, the identity after a row's end."""
        jacobian = linear.jacobian()
        if not self.dense or self.rows.source is None:
            return self.rows.unpack(jacobian, 1.0)
        one = torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=jacobian.device)
        whole = one.expand(self.rows.steps * self.rows.batch, *one.shape)
        whole = whole.index_copy(0, self.rows.source, jacobian)
        return whole.unflatten(0, (self.rows.steps, self.rows.batch))

    def _correction(self, factors: Tensor, r: Tensor, s: Tensor, level: int) -> tuple[Tensor, int]:
        """The correction with as little damping, k = 1 - 4^-level, as keeps the states within reach."""
        reach = 1e3 * (1 + largest(s) + largest(r))
        for tried in range(level, level + 8):
            d = solve(factors * 4.0**-tried if tried else factors, r, torch.zeros_like(r[0]))
            if largest(d) <= reach:  # false for NaN
                return d, max(0, tried - 1)
        return torch.full_like(r, math.inf), level

    def _off(self, linear: Linear, r: Tensor, scale: float) -> float:
        """How far the states can be from the loop's: the residuals, and one rounding a step, carried on."""
        draw = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, r.shape, generator=draw, device="cpu").to(r) * 2 - 1
        errors = r + torch.finfo(r.dtype).eps * scale * signs
        factors, nothing = self.factors(linear), torch.zeros_like(r[0])
        if self.dense:
            return largest(solve(factors, errors, nothing)) / scale

        def product(d: Tensor) -> Tensor:
            return self.spread(linear.product(self.before(d, nothing)), d, nothing)

        return largest(self._refined(factors, errors, product)) / scale

    def adjoint(self, linear: Linear, g: Tensor) -> Tensor:
        """The gradients with respect to what each step makes, l_t = g_t + J_{t+1}^T l_{t+1}, [T, B, S].

        The implicit function theorem: a linear scan in reverse. Raises EngineError if diagonal Jacobians
        do not lead to it.
        """
        factors = self.factors(linear)
        later = torch.cat([factors[1:], torch.zeros_like(factors[:1])]).flip(0)
        if self.dense:
            return solve(later.mT, g.flip(0), torch.zeros_like(g[0])).flip(0)

        def product(backward: Tensor) -> Tensor:
            later = backward.flip(0)
            before = linear.transposed(self.rows.pack(later))
            if self.rows.source is not None:  # after its end a row hands its gradient on
                before = later.flatten(0, 1).index_copy(0, self.rows.source, before)
            before = before.unflatten(0, (self.rows.steps, self.rows.batch))
            return torch.cat([before[1:], torch.zeros_like(before[:1])]).flip(0)

        found = self._refined(later, g.flip(0), product).flip(0)
        if not math.isfinite(largest(found)):
            raise EngineError(
                f"engine 'quasi-newton': its gradient is not found in {ITERATIONS} iterations; use 'newton'"
            )
        return found

    def _refined(self, factors: Tensor, g: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
        """d_t = J_t d_{t-1} + g_t by products with J and solutions with its diagonal; else infinities."""
        d = solve(factors, g, torch.zeros_like(g[0]))
        for _ in range(ITERATIONS):
            change = solve(factors, g + product(d) - d, torch.zeros_like(g[0]))
            d = d + change
            if largest(change) <= 0.1 * self.tolerance * largest(d):
                return d
        return torch.full_like(g, math.inf)


def largest(x: Tensor) -> float:
    return float(x.detach().abs().max()) if x.numel() else 0.0


class Implicit(torch.autograd.Function):
    """The states that solve the equations, as a function of what the steps make of them once more."""

    @staticmethod
    def forward(ctx: Any, made: Tensor, newton: Newton, linear: Linear) -> Tensor:
        ctx.newton, ctx.linear = newton, linear
        return made.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        return ctx.newton.adjoint(ctx.linear, g), None, None
