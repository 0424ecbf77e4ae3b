"""Linear recurrences over time by a chunked scan: few operations of torch, each on many steps.

    h_t = a_t h_{t-1} + b_t

`a` [T, ...] is elementwise, or [T, ..., S, S] a matrix for each h [T, ..., S]. Three sweeps: every chunk of L
steps is reduced to one step, the reduced recurrence is solved (by the same method), and every chunk is run
from its own start. So a state is what the loop makes of the state at its chunk's start, and only those starts
are rounded differently. Source: Blelloch 1990, reduce-then-scan; Martin and Cundy 2018 for networks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 16
"""Steps that one operation after another runs through; log T / log 16 levels."""

WIDE = 4096
"""Numbers in one step from which on a chunked scan of a sequence has nothing to gain from fewer calls."""


def solve(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """Every h_t [T, ...] from h_{-1} = `start`; no gradient.

    A chunk whose factors overflow although the states do not is run step by step.

    >>> solve(torch.full((4, 1), 2.0), torch.ones(4, 1), torch.zeros(1)).flatten().tolist()
    [1.0, 3.0, 7.0, 15.0]
    """
    out = torch.empty_like(b)
    if len(b) < 3 * CHUNK or b[0].numel() > WIDE:
        return _in_order(a, b, start, out)
    whole = len(b) // CHUNK * CHUNK
    first, rest = _chunks(a[:whole]), _chunks(b[:whole])
    factor, offset, dense = first[:, 0], rest[:, 0], a.dim() > b.dim()
    for step in range(1, CHUNK):
        factor = first[:, step] @ factor if dense else first[:, step] * factor
        offset = _next(first[:, step], offset, rest[:, step])
    ends = solve(factor, offset, start)
    if not bool(ends.isfinite().all()):
        return _in_order(a, b, start, out)
    h, shown = torch.cat([start.unsqueeze(0), ends[:-1]]), _chunks(out[:whole])
    for step in range(CHUNK):
        h = _next(first[:, step], h, rest[:, step], shown[:, step])
    _in_order(a[whole:], b[whole:], ends[-1], out[whole:])
    return out


def _chunks(x: Tensor) -> Tensor:
    return x.unflatten(0, (-1, CHUNK))


def _in_order(a: Tensor, b: Tensor, h: Tensor, out: Tensor) -> Tensor:
    for step, (factor, offset) in enumerate(zip(a.unbind(), b.unbind(), strict=True)):
        h = _next(factor, h, offset, out[step])
    return out


def _next(a: Tensor, h: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    if a.dim() == h.dim():
        return torch.addcmul(b, a, h, out=out)
    found = (a @ h.unsqueeze(-1)).squeeze(-1)
    return torch.add(found, b, out=out)


class Recurrence(torch.autograd.Function):
    """solve with gradients of any order, for elementwise factors: the backward run is a linear scan too.

    g_t = (d L / d h_t) + conj(a_{t+1}) g_{t+1},   d b_t = g_t,   d a_t = g_t conj(h_{t-1})
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, start: Tensor) -> Tensor:
        h = solve(a, b, start)
        ctx.save_for_backward(a, h, start)
        return h

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        a, h, start = ctx.saved_tensors
        later = torch.cat([a[1:], torch.zeros_like(a[:1])]).conj().flip(0).resolve_conj()
        found: Tensor = Recurrence.apply(later, gradient.flip(0), torch.zeros_like(start)).flip(0)
        wants_a, wants_b, wants_start = ctx.needs_input_grad
        return (
            found * torch.cat([start.unsqueeze(0), h[:-1]]).conj() if wants_a else None,
            found if wants_b else None,
            found[0] * a[0].conj() if wants_start else None,
        )
