"""Blueprints into the cells of the library: Elman networks, gated recurrent units, LSTMs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nextstate.cell import Cell
from nextstate.cells import GRU, LSTM, Elman
from nextstate.cells.lstm_state import LSTMState
from nextstate.checks import refuse
from nextstate.machines.compiling.blueprint import ALIVE, Blueprint, Form
from nextstate.machines.compiling.bodies import Code
from nextstate.states import Tree


def heaviside(x: Tensor) -> Tensor:
    """1 where x > 0, else 0.

    >>> heaviside(torch.tensor([-1.0, 0.0, 2.0])).tolist()
    [0.0, 0.0, 1.0]
    """
    return (x > 0).to(x.dtype)


def saturated_linear(x: Tensor) -> Tensor:
    """x cut off at 0 and 1.

    >>> saturated_linear(torch.tensor([-1.0, 0.25, 2.0])).tolist()
    [0.0, 0.25, 1.0]
    """
    return x.clamp(0, 1)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "heaviside": heaviside,
    "saturated": saturated_linear,
    "relu": torch.relu,
    "tanh": torch.tanh,
}
CARRIES = {
    "threshold": ("heaviside", "saturated", "relu", "tanh"),
    "saturated": ("saturated", "relu"),
    "relu": ("relu",),
}
"""Which activations carry a blueprint of each kind to the same values."""

_LEGAL: dict[str, Callable[[Tensor], Tensor]] = {
    "threshold": lambda x: (x == 0) | (x == 1),
    "saturated": lambda x: (x >= 0) & (x <= 1),
    "relu": lambda x: (x >= 0) & (x == x.round()),
}
"""The values that the units of a blueprint of each kind can have."""

_GAIN = {torch.float16: 16.0, torch.float32: 20.0, torch.float64: 40.0}
"""tanh(gain / 2) rounds to 1."""
_SHUT = {torch.float16: 128.0, torch.float32: 128.0, torch.float64: 800.0}
"""sigmoid(-shut) rounds to 0 and sigmoid(shut) to 1."""
_TANH1 = math.tanh(1.0)


class Carried:
    """A cell with the weights of a blueprint, the code of its states, and how its output shows a unit."""

    def __init__(self, cell: Cell, code: Code, shown: Callable[[Form], tuple[list[float], float]]) -> None:
        self.cell, self.code, self.shown = cell, code, shown


def lower(
    blueprint: Blueprint, cell: str, activation: str, dtype: torch.dtype, gain: float | None, slack: float
) -> Carried:
    """A cell whose states stand for the values of the units; `slack` is the error allowed in a code of ±1."""
    if cell != "elman" or activation == "tanh":
        return _signed(blueprint, cell, dtype, gain, slack)
    if activation == "relu" and blueprint.kind == "saturated":
        return _doubled(blueprint, dtype)
    return _plain(blueprint, activation, dtype)


def _plain(blueprint: Blueprint, activation: str, dtype: torch.dtype) -> Carried:
    names = tuple(blueprint.rows)
    recurrent, heard, bias = _matrices(blueprint)
    cell = Elman(heard.shape[1], len(names), activation=ACTIVATIONS[activation])
    _fill(cell, heard, recurrent, bias, dtype)
    legal = _LEGAL[blueprint.kind]

    def read(state: Tensor) -> Tensor | None:
        return state if bool(legal(state).all()) else None

    return Carried(cell, Code(names, lambda row: row[None], read), lambda form: _weights(names, form))


def _doubled(blueprint: Blueprint, dtype: torch.dtype) -> Carried:
    """clip(z) = ReLU(z) - ReLU(z - 1): two units for each."""
    names = tuple(blueprint.rows)
    n = len(names)
    recurrent, heard, bias = _matrices(blueprint)
    pairs = torch.cat([torch.cat([recurrent, -recurrent], 1)] * 2)
    cell = Elman(heard.shape[1], 2 * n, activation=torch.relu)
    _fill(cell, torch.cat([heard, heard]), pairs, torch.cat([bias, bias - 1]), dtype)

    def read(state: Tensor) -> Tensor | None:
        low, high = state[..., :n], state[..., n:]
        legal = (high == 0) & (low >= 0) & (low <= 1) | (high > 0) & (low - high == 1)
        return low - high if bool(legal.all()) else None

    def shown(form: Form) -> tuple[list[float], float]:
        row, constant = _weights(names, form)
        return row + [-w for w in row], constant

    return Carried(cell, Code(names, lambda row: torch.cat([row, row * 0])[None], read), shown)


def _signed(blueprint: Blueprint, cell: str, dtype: torch.dtype, gain: float | None, slack: float) -> Carried:
    """Units of value u as codes s = 2u - 1 under tanh, `alive` as itself; the zero state still starts it."""
    names = tuple(blueprint.rows)
    recurrent, heard, bias = _matrices(blueprint)
    at = names.index(ALIVE)
    halves = recurrent / 2
    halves[:, at] = recurrent[:, at] + halves.sum(1) - halves[:, at]
    k = _GAIN[dtype] if gain is None else gain
    recurrent, heard, bias = k * halves, k * heard, k * (bias - 0.5)
    recurrent[at], bias[at] = 0, 40.0
    n, inputs = len(names), heard.shape[1]
    made: Cell
    zeros = torch.zeros(n, n, dtype=torch.float64)
    empty, shut = torch.zeros(n, inputs, dtype=torch.float64), torch.full((n,), _SHUT[dtype])
    if cell == "elman":
        made = Elman(inputs, n)
        _fill(made, heard, recurrent, bias, dtype)
    elif cell == "gru":
        made = GRU(inputs, n)
        _fill(
            made,
            torch.cat([empty, empty, heard]),
            torch.cat([zeros, zeros, recurrent]),
            torch.cat([shut, -shut, bias]),
            dtype,
        )
    else:
        made = LSTM(inputs, n)
        _fill(
            made,
            torch.cat([empty, empty, heard, empty]),
            torch.cat([zeros, zeros, recurrent / _TANH1, zeros]),
            torch.cat([shut, -shut, bias, shut]),
            dtype,
        )

    def write(row: Tensor) -> Tree:
        code = 2 * row - 1
        code[at] = row[at]
        return LSTMState(torch.tanh(code)[None], code[None]) if cell == "lstm" else code[None]

    def read(state: Tree) -> Tensor | None:
        code = state.c if isinstance(state, LSTMState) else state
        if not bool(code.any()):
            return torch.zeros_like(code)
        near = code.sign()
        if bool(((near - code).abs() > slack).any()) or not bool(near.all()) or bool(near[..., at] < 0):
            return None
        row = (near + 1) / 2
        row[..., at] = 1
        return row

    def shown(form: Form) -> tuple[list[float], float]:
        row, constant = _weights(names, form)
        alive = row[at] + sum(w / 2 for i, w in enumerate(row) if i != at)
        row = [w / 2 for w in row]
        row[at] = alive
        return [w / _TANH1 for w in row] if cell == "lstm" else row, constant

    return Carried(made, Code(names, write, read), shown)


def certified_slack(blueprint: Blueprint, gain: float, dtype: torch.dtype) -> float | None:
    """The error eps such that codes within eps of ±1 stay within eps for ever; None if there is none.

        tanh( gain/2 (1 - r eps) - rounding ) - rounding >= 1 - eps

    r is the largest sum of |weights| of the state in a row. The smallest solution is the bound the states
    keep; the proof is induction over the steps. LSTM outputs tanh(c) / tanh(1) keep it too, since the slope
    of tanh between 1 - eps and 1 is below tanh(1) for eps <= 1/2.
    """
    r, unit_roundoff = load(blueprint), torch.finfo(dtype).eps / 2
    before = (r + 8) * unit_roundoff * gain * (r + 4)
    grid = (i / 4096 / max(r, 2) for i in range(1, 4096))
    return next(
        (e for e in grid if math.tanh(gain / 2 * (1 - r * e) - before) - 8 * unit_roundoff >= 1 - e), None
    )


def load(blueprint: Blueprint) -> float:
    """r, the largest sum of |weights| between a unit and the units it reads (without `alive`).

    For a finite machine it is the largest number of transitions that enter one state.
    """
    return max(
        sum(abs(float(w)) for name, w in form.units.items() if name != ALIVE)
        for form in blueprint.rows.values()
    )


def smallest_gain(r: float) -> float:
    """K*, the gain above which a tanh network of load r latches for ever: min over eps of the certificate.

    >>> [round(smallest_gain(r), 3) for r in (2, 3, 5, 10, 30, 100)]
    [3.589, 4.181, 4.863, 5.733, 7.044, 8.429]
    """
    low, high = 1e-9, 1 / max(r, 1e-9) - 1e-9
    high = min(high, 1 - 1e-9)

    def gain(eps: float) -> float:
        return 2 * math.atanh(1 - eps) / (1 - r * eps)

    for _ in range(200):  # golden section would do as well: the function has one minimum
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if gain(a) < gain(b) else (a, high)
    return gain((low + high) / 2)


def _matrices(blueprint: Blueprint) -> tuple[Tensor, Tensor, Tensor]:
    names = {name: i for i, name in enumerate(blueprint.rows)}
    letters = {a: i for i, a in enumerate(blueprint.letters)}
    recurrent = torch.zeros(len(names), len(names), dtype=torch.float64)
    heard = torch.zeros(len(names), max(len(letters), 1), dtype=torch.float64)
    bias = torch.zeros(len(names), dtype=torch.float64)
    for name, form in blueprint.rows.items():
        row = names[name]
        bias[row] = float(form.constant)
        for source, w in form.units.items():
            recurrent[row, names[source]] = float(w)
        for a, w in form.letters.items():
            heard[row, letters[a]] = float(w)
    return recurrent, heard, bias


def _fill(cell: Any, heard: Tensor, recurrent: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
    """Cast once; exact weights that do not survive the cast are refused (tanh gains may be rounded)."""
    cell.to(dtype)
    with torch.no_grad():
        for parameter, value in (
            (cell.weight_ih, heard),
            (cell.weight_hh, recurrent),
            (cell.bias_ih, bias),
            (cell.bias_hh, torch.zeros_like(bias)),
        ):
            parameter.copy_(value)
            if getattr(cell, "activation", torch.tanh) is not torch.tanh and not bool(
                (parameter.double() == value).all()
            ):
                refuse("compile", f"a weight has no exact value in {dtype}; take a wider dtype or less depth")


def _weights(names: tuple[Any, ...], form: Form) -> tuple[list[float], float]:
    return [float(form.units.get(name, 0)) for name in names], float(form.constant)
