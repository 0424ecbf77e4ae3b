"""Gradient flossing: Lyapunov exponents pushed to a target by gradient descent on the parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from nextstate.cell import Cell
from nextstate.checks import refuse
from nextstate.dynamics.flow import step_map
from nextstate.dynamics.lyapunov import frame
from nextstate.run import request_for
from nextstate.states import Tree, tree_map


def flossing_loss(
    cell: Cell,
    us: Tree,
    s0: Tree | None = None,
    *,
    count: int,
    target: float = 0.0,
    settle: int = 0,
    seed: int = 0,
) -> Tensor:
    """The mean square distance of the largest exponents from a target, differentiable in the parameters.

    flossing_loss : (cell, [u], s0) -> 1/K sum_i (lambda_i - target)^2

    lambda_i as in `lyapunov`, over a short sequence, with the gradient taken through the states, the
    Jacobians and the QR decompositions. With target 0 a descent on it, before training or now and then during
    it, makes the gradient neither vanish nor explode in K directions.
    Shapes: us [T, B, ...], time first; one number. `settle` steps at the start do not count.

    Raises InputError for input that `scan` would refuse, or `count` or `settle` out of range.
    Source: Engelken 2023 (Gradient flossing, NeurIPS).

    >>> from nextstate import Elman
    >>> cell, us = Elman(2, 6), torch.zeros(10, 1, 2)
    >>> flossing_loss(cell, us, count=3).backward()
    >>> bool(cell.weight_hh.grad.abs().sum() > 0)
    True
    """
    request = request_for("flossing_loss", cell, us, s0)
    if not request.steps or not 0 <= settle < request.steps:
        refuse("flossing_loss", f"settle is {settle} and us has {request.steps} steps; some must be left")
    step = step_map("flossing_loss", cell, us, request.s0)
    if not 1 <= count <= step.size:
        refuse("flossing_loss", f"count is {count}; the state has {step.size} dimensions")
    state = request.s0
    q = frame(request.batch, step.size, count, seed).to(step.join(state))
    logs = torch.zeros(request.batch, count, dtype=q.dtype, device=q.device)
    for t in range(request.steps):
        state, pushed = step.push(tree_map(lambda u: u[t], us), state, q)  # noqa: B023  (called at once)
        q, r = torch.linalg.qr(pushed)
        if t >= settle:
            logs = logs + r.diagonal(dim1=1, dim2=2).abs().log()
    exponents = logs.mean(0) / (request.steps - settle)
    return (exponents - target).square().mean()
