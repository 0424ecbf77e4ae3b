"""Sets of states as boxes, and boxes that surely hold the image of a box: for Elman, GRU and LSTM."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nextstate.cell import Cell
from nextstate.cells import GRU, LSTM, Elman
from nextstate.cells.lstm_state import LSTMState

_ACTIVATION_ERROR = 4
"""Error allowed to tanh, sigmoid and each following operation, in units of the last place."""


class Box(NamedTuple):
    """All points between two corners [N, H], in float64."""

    low: Tensor
    high: Tensor


def image(cell: Cell) -> Callable[[Tensor, Box], Box] | None:
    """(u, boxes) -> boxes that hold every state after one step, rounding included; None for other cells.

    The state of an LSTM is one row (h, c). Each operation widens its box by what rounding in the dtype of the
    weights may add: (n + 4) u for a sum of n products, 4 u for tanh, sigmoid and what follows.
    Source: interval arithmetic (Moore 1966).

    >>> cell = Elman(1, 1)
    >>> point = torch.zeros(1, 1, dtype=torch.float64)
    >>> low, high = image(cell)(torch.ones(1, 1), Box(point, point))
    >>> v, _ = cell(torch.ones(1, 1), torch.zeros(1, 1))
    >>> bool(low <= v <= high), bool(high - low < 1e-5)
    (True, True)
    """
    if type(cell) is Elman and cell.activation is torch.tanh:
        return lambda u, box: _tanh(_linear(cell, u, box), cell)
    if type(cell) is GRU:
        return lambda u, box: _gru(cell, u, box)
    if type(cell) is LSTM:
        return lambda u, box: _lstm(cell, u, box)
    return None


def as_point(state: Tensor | LSTMState) -> Tensor:
    """A batch of states as rows [N, H] of float64."""
    return (torch.cat([state.h, state.c], -1) if isinstance(state, LSTMState) else state).double()


def _linear(cell: Elman | GRU | LSTM, u: Tensor, box: Box) -> Box:
    return _sum(_heard(cell, u), _recurrent(cell, box), cell)


def _heard(cell: Elman | GRU | LSTM, u: Tensor) -> Box:
    weight, bias = cell.weight_ih.double(), cell.bias_ih.double()
    exact = u.double() @ weight.T + bias
    slack = _roundoff(cell) * (u.shape[-1] + 4) * (u.double().abs() @ weight.T.abs() + bias.abs())
    return Box(exact - slack, exact + slack)


def _recurrent(cell: Elman | GRU | LSTM, box: Box) -> Box:
    weight, bias = cell.weight_hh.double(), cell.bias_hh.double()
    centre, radius = (box.low + box.high) / 2, (box.high - box.low) / 2
    largest = torch.maximum(box.low.abs(), box.high.abs())
    exact, spread = centre @ weight.T + bias, radius @ weight.T.abs()
    rounding = _roundoff(cell) * (weight.shape[1] + 4) * (largest @ weight.T.abs() + bias.abs())
    slack = spread + rounding
    return Box(exact - slack, exact + slack)


def _gru(cell: GRU, u: Tensor, box: Box) -> Box:
    heard, recurrent = _heard(cell, u), _recurrent(cell, box)
    hr, hz, hn = _thirds(heard)
    sr, sz, sn = _thirds(recurrent)
    r = _sigmoid(_sum(hr, sr, cell), cell)
    z = _sigmoid(_sum(hz, sz, cell), cell)
    n = _tanh(_sum(hn, _product(r, sn, cell), cell), cell)
    # (1 - z) n + z h rises in n and in h, and is linear in z: its extremes lie at the ends of z
    low = torch.minimum(n.low + z.low * (box.low - n.low), n.low + z.high * (box.low - n.low))
    high = torch.maximum(n.high + z.low * (box.high - n.high), n.high + z.high * (box.high - n.high))
    return _widened(low, high, cell)


def _lstm(cell: LSTM, u: Tensor, box: Box) -> Box:
    size = cell.hidden_size
    h, c = Box(box.low[:, :size], box.high[:, :size]), Box(box.low[:, size:], box.high[:, size:])
    gates = _linear(cell, u, h)
    i, f, g, o = (Box(a, b) for a, b in zip(gates.low.chunk(4, -1), gates.high.chunk(4, -1), strict=True))
    kept = _product(_sigmoid(f, cell), c, cell)
    c = _sum(kept, _product(_sigmoid(i, cell), _tanh(g, cell), cell), cell)
    h = _product(_sigmoid(o, cell), _tanh(c, cell), cell)
    return Box(torch.cat([h.low, c.low], -1), torch.cat([h.high, c.high], -1))


def _thirds(box: Box) -> list[Box]:
    return [Box(a, b) for a, b in zip(box.low.chunk(3, -1), box.high.chunk(3, -1), strict=True)]


def _sum(a: Box, b: Box, cell: Cell) -> Box:
    return _widened(a.low + b.low, a.high + b.high, cell)


def _product(a: Box, b: Box, cell: Cell) -> Box:
    corners = torch.stack([a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high])
    return _widened(corners.amin(0), corners.amax(0), cell)


def _tanh(box: Box, cell: Cell) -> Box:
    low, high = _widened(torch.tanh(box.low), torch.tanh(box.high), cell)
    return Box(low.clamp(min=-1), high.clamp(max=1))


def _sigmoid(box: Box, cell: Cell) -> Box:
    low, high = _widened(torch.sigmoid(box.low), torch.sigmoid(box.high), cell)
    return Box(low.clamp(min=0), high.clamp(max=1))


def _widened(low: Tensor, high: Tensor, cell: Cell) -> Box:
    slack = _ACTIVATION_ERROR * _roundoff(cell)
    return Box(low - slack * low.abs() - slack * 1e-6, high + slack * high.abs() + slack * 1e-6)


def _roundoff(cell: Cell) -> float:
    return torch.finfo(next(cell.parameters()).dtype).eps
