"""Lyapunov exponents: how fast a small change of the state grows or dies, direction by direction."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nextstate.cell import Cell
from nextstate.checks import refuse
from nextstate.dynamics.flow import Flow, flow
from nextstate.states import Tree, leaves

BLOCKS = 16
"""Parts of the time from which the standard errors are taken."""

SPREAD = 1e-8
"""Least ratio of growths within one QR decomposition; below it fewer steps are taken together."""

MOST_TOGETHER = 16

ROUNDING = 4
"""A direction that grows less than this many times the rounding of its product is wiped out."""

EPS, TINY = torch.finfo(torch.float64).eps, torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Spectrum:
    """Lyapunov exponents in nats a step, largest first, and what follows from them.

    >>> found = Spectrum(torch.tensor([0.5, -1.0]).double(), torch.zeros(2), log_det=-0.5, steps=100)
    >>> found.entropy, found.dimension, found.horizon
    (0.5, 1.5, inf)
    """

    exponents: Tensor
    """[K] float64; minus infinity for a direction that a step wipes out"""
    errors: Tensor
    """[K] standard errors, from blocks of time and the rows of the batch"""
    log_det: float | None
    """time mean of log|det J|, computed apart; None where not all N exponents were asked for"""
    steps: int

    @property
    def largest(self) -> float:
        return float(self.exponents[0])

    @property
    def sum_rule(self) -> float | None:
        """sum of the exponents - mean log|det J|: 0 up to rounding; None if not all exponents are known.

        0 too where a step wipes a direction out: the sum is minus infinity, and so is log|det J| but for
        rounding.
        """
        if self.log_det is None:
            return None
        total = float(self.exponents.sum())
        return 0.0 if total == -math.inf else total - self.log_det

    @property
    def horizon(self) -> float:
        """Steps over which a small change falls to 1/e: -1/lambda_1; infinite if it does not."""
        return math.inf if self.largest >= 0 else -1 / self.largest

    def reach(self, share: float = 0.01) -> float:
        """Steps after which a share of a change of the state is left: log(share) / lambda_1."""
        return math.inf if self.largest >= 0 else math.log(share) / self.largest

    @property
    def entropy(self) -> float:
        """Kolmogorov-Sinai entropy in nats a step by Pesin's formula: the sum of the positive exponents."""
        return float(self.exponents.clamp(min=0).sum())

    @cached_property
    def dimension(self) -> float | None:
        """Kaplan-Yorke dimension k + sum_{i<=k} lambda_i / |lambda_{k+1}|; None if K exponents are too few.

        Source: Kaplan and Yorke 1979.
        """
        total = 0.0
        for k, value in enumerate(self.exponents.tolist()):
            if total + value < 0:
                return k + total / abs(value)
            total += value
        return float(len(self.exponents)) if self.log_det is not None else None


def lyapunov(
    cell: Cell,
    us: Tree,
    s0: Tree | None = None,
    *,
    count: int | None = None,
    settle: int | None = None,
    seed: int = 0,
) -> Spectrum:
    """The Lyapunov spectrum of a cell driven by an input.

    lyapunov : (cell, [u], s0) -> Spectrum

        Q_t R_t = J_t Q_{t-1},     lambda_i = mean over t and rows of log |(R_t)_ii|

    J_t is the derivative of the full state (h and c of an LSTM) after step t by that before it, from
    `torch.func` on the step itself. Shapes: us [T, B, ...], time first; a cell that reads nothing still gets
    [T, B, 1]. The first `settle` steps (a tenth of T unless said) bring state and Q to where they stay, and
    do not count.

    `count` asks for the largest few only, by carrying as many tangent vectors; None for all N, with the sum
    rule sum lambda_i = mean log|det J| checked. Rows are averages over the same dynamics.

    Raises InputError for input that `scan` would refuse or a `count` or `settle` out of range,
    ArithmeticError if the sum rule fails.
    Source: Benettin et al. 1980; for recurrent networks Engelken, Wolf and Abbott 2023 (arXiv 2006.02427).

    >>> import math
    >>> from nextstate import FunctionCell
    >>> def cat_map(u, s):
    ...     s = s @ torch.tensor([[2.0, 1.0], [1.0, 1.0]], dtype=s.dtype)
    ...     return s, s.remainder(1)
    >>> cell = FunctionCell(cat_map, lambda b, **kw: torch.rand(b, 2, **kw))
    >>> [round(x, 4) for x in lyapunov(cell, torch.zeros(200, 1, 1)).exponents.tolist()]
    [0.9624, -0.9624]
    """
    along = flow("lyapunov", cell, us, s0)
    size = along.map.size
    count = size if count is None else count
    settle = along.steps // 10 if settle is None else settle
    if not 1 <= count <= size:
        refuse("lyapunov", f"count is {count}; the state has {size} dimensions")
    if not 0 <= settle < along.steps:
        refuse("lyapunov", f"settle is {settle}; us has {along.steps} steps, of which some must be left")
    q = frame(along.batch, size, count, seed).to(leaves(along.states)[0].device)
    taken, logs, determinants = zip(*(_all if count == size else _leading)(along, q, settle), strict=True)
    weights, total = torch.tensor(taken, dtype=torch.float64, device="cpu"), torch.stack(logs)
    exponents = total.sum(0).mean(0) / weights.sum()
    log_det = float(torch.stack(determinants).sum(0).mean() / weights.sum()) if count == size else None
    order = exponents.argsort(descending=True, stable=True)
    found = Spectrum(exponents[order], _errors(total, weights)[order], log_det, int(weights.sum()))
    gap = found.sum_rule
    scale = 1 if log_det is None or math.isinf(log_det) else 1 + abs(log_det)
    if gap is not None and not abs(gap) <= 1e-6 * size * scale:
        raise ArithmeticError(
            f"lyapunov: the exponents sum to {found.exponents.sum():.9g}, mean log|det J| is {log_det:.9g}; "
            "they must agree"
        )
    return found


def frame(batch: int, size: int, count: int, seed: int) -> Tensor:
    """Random orthonormal tangent vectors [B, N, K], float64, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(batch, size, count, generator=generator, dtype=torch.float64, device="cpu")
    return torch.linalg.qr(drawn)[0]


Growth = tuple[int, Tensor, Tensor]
"""Steps taken together, log R_ii [B, K] over them, log|det J| [B] over them."""


def _all(along: Flow, q: Tensor, settle: int) -> Iterator[Growth]:
    """Every exponent, from the Jacobians; QR after as many steps as their condition allows."""
    together, pending = 1, []
    for t, jacobian in enumerate(along.jacobians(), 1):
        pending.append(jacobian)
        if len(pending) < together and t not in (settle, along.steps):
            continue
        q, logs, ratio = _orthonormalise(pending, q)
        if t > settle:
            yield len(pending), logs, torch.linalg.slogdet(torch.stack(pending))[1].sum(0)
        if ratio < SPREAD:
            together = max(1, together // 2)
        elif ratio > SPREAD**0.25:
            together = min(2 * together, MOST_TOGETHER)
        pending = []


def _orthonormalise(pending: list[Tensor], q: Tensor) -> tuple[Tensor, Tensor, float]:
    """Q and log R_ii after some steps, and the smallest growth over the largest.

    If that ratio is too small to be resolved, the steps are taken in two halves.
    """
    product = q
    for jacobian in pending:
        product = jacobian @ product
    new, r = torch.linalg.qr(product)
    size = r.diagonal(dim1=1, dim2=2).abs()
    ratio = float((size.amin(1) / size.amax(1).clamp(min=TINY)).amin())
    if ratio >= SPREAD:
        return new, size.log(), ratio
    if len(pending) == 1:
        noise = ROUNDING * EPS * (pending[0].abs() @ q.abs()).norm(dim=1)
        return new, size.where(size > noise, 0).log(), ratio
    half = len(pending) // 2
    middle, first, _ = _orthonormalise(pending[:half], q)
    new, second, _ = _orthonormalise(pending[half:], middle)
    return new, first + second, ratio


def _leading(along: Flow, q: Tensor, settle: int) -> Iterator[Growth]:
    """The largest exponents, from as many tangent vectors.

    Where a direction falls below the precision of the cell in one step, that step's Jacobian resolves it.
    """
    none = torch.zeros(along.batch, dtype=torch.float64, device="cpu")
    for t in range(along.steps):
        with torch.no_grad():
            _, pushed = along.map.push(*along.row(t), q)
        new, r = torch.linalg.qr(pushed.double())
        size = r.diagonal(dim1=1, dim2=2).abs()
        logs = size.log()
        if (size.amin(1) <= 1e2 * torch.finfo(pushed.dtype).eps * size.amax(1)).any():
            new, logs, _ = _orthonormalise([*along.jacobians(t, t + 1)], q)
        q = new
        if t >= settle:
            yield 1, logs, none


def _errors(logs: Tensor, weights: Tensor) -> Tensor:
    """Standard errors [K] from blocks of time and rows; 0 for minus infinity, infinite for a single block."""
    blocks = min(BLOCKS, len(weights))
    rates = torch.cat(
        [
            part.sum(0) / taken.sum()
            for part, taken in zip(logs.tensor_split(blocks), weights.tensor_split(blocks), strict=True)
        ]
    )
    if len(rates) < 2:
        return torch.full_like(rates[0], math.inf)
    return (rates.std(0) / len(rates) ** 0.5).nan_to_num(0.0)
