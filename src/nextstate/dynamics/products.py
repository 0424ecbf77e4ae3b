"""Products of one-step Jacobians over a lag, and their singular values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from nextstate.cell import Cell
from nextstate.checks import refuse
from nextstate.dynamics.flow import flow
from nextstate.states import Tree


def jacobians(cell: Cell, us: Tree, s0: Tree | None = None) -> Tensor:
    """The derivative of the state after each step by the state before it.

    jacobians : (cell, [u], s0) -> [J],   J_t = d s_{t+1} / d s_t

    Shapes: us [T, B, ...]; the result [T, B, N, N] float64, N the numbers of the full state (h and c of an
    LSTM, side by side), row i the gradient of unit i. Memory: 8 T B N^2 bytes.

    Raises InputError for input that `scan` would refuse.

    >>> from nextstate import FunctionCell
    >>> half = FunctionCell(lambda u, s: (u, s / 2), lambda b, **kw: torch.zeros(b, 2, **kw))
    >>> jacobians(half, torch.ones(3, 1, 1))[-1, 0].tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    return torch.stack(list(flow("jacobians", cell, us, s0).jacobians()))


def lagged_singular_values(
    cell: Cell, us: Tree, lags: Sequence[int], s0: Tree | None = None, *, start: int = 0
) -> Tensor:
    """Logarithms of the singular values of the product of Jacobians over a lag.

    lagged_singular_values : (cell, [u], [k]) -> [log sigma(J_{start+k-1} ... J_start)]

    All 0 where the product is an isometry; their spread, not the spectral radius, says what a gradient loses
    (a non-normal product may grow for a while though its eigenvalues are small).
    Shapes: us [T, B, ...], the result [lags, B, N] float64, largest first, minus infinity for 0. The product
    is kept at norm 1, so lags of any length neither overflow nor vanish; singular values below 1e-15 of the
    largest are rounding, and `lyapunov` resolves them.

    Raises InputError for lags that do not rise, or that start + lag steps are not there for.

    >>> from nextstate import FunctionCell
    >>> half = FunctionCell(lambda u, s: (u, s / 2), lambda b, **kw: torch.zeros(b, 2, **kw))
    >>> found = lagged_singular_values(half, torch.ones(2000, 1, 1), [1, 2000])
    >>> (found / torch.tensor(2.0).log()).round().flatten().tolist()
    [-1.0, -1.0, -2000.0, -2000.0]
    """
    along = flow("lagged_singular_values", cell, us, s0)
    lags, left = list(lags), along.steps - start
    if start < 0 or not lags or lags[0] < 1 or any(b <= a for a, b in pairwise(lags)) or lags[-1] > left:
        refuse(
            "lagged_singular_values",
            f"lags are {lags} from step {start} of {along.steps}; they must rise within 1..{left}",
        )
    product = torch.eye(along.map.size, dtype=torch.float64, device="cpu").expand(along.batch, -1, -1)
    scale = torch.zeros(along.batch, 1, dtype=torch.float64, device="cpu")
    found = []
    for k, jacobian in enumerate(along.jacobians(start, start + lags[-1]), 1):
        product = jacobian @ product
        norm = product.flatten(1).norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
        product, scale = product / norm[:, None, None], scale + norm.log()[:, None]
        if k in lags:
            found.append(torch.linalg.svdvals(product).log() + scale)
    return torch.stack(found)
