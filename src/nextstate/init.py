"""Starts for the parameters of a cell, each applied once, by name, to a cell as it is.

Every function here changes the cell in place and gives it back. All take the cells of this library by
their declared `gates`; a cell without the part in question is refused.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from nextstate.cell import Cell
from nextstate.cells import GRU, Elman
from nextstate.checks import refuse

AnyCell = TypeVar("AnyCell", bound=Cell)


def orthogonal_recurrent_(cell: AnyCell, *, generator: torch.Generator | None = None) -> AnyCell:
    """Every gate's recurrent matrix a random orthogonal one; nothing else changes.

    orthogonal_recurrent_ : Cell -> Cell,  U_gate U_gate' = 1

    A projected cell, whose blocks are [H, P], gets orthonormal rows or columns.
    Raises InputError if the cell has no recurrent weights. Source: Saxe et al. 2014 (arXiv 1312.6120).

    >>> from nextstate import GRU
    >>> cell = orthogonal_recurrent_(GRU(3, 4))
    >>> block = cell.weight_hh[:4]
    >>> torch.allclose(block @ block.T, torch.eye(4), atol=1e-6)
    True
    """
    weight = _parameter("orthogonal_recurrent_", cell, "weight_hh")
    for block in weight.detach().chunk(len(_gates("orthogonal_recurrent_", cell))):
        wide = block if block.element_size() >= 4 else block.float()  # torch has no QR of 16 bits
        block.copy_(nn.init.orthogonal_(wide, generator=generator))
    return cell


def forget_bias_(cell: AnyCell, value: float = 1.0) -> AnyCell:
    """The gate that keeps the state starts with the bias `value`: how open it is before any training.

    forget_bias_ : (Cell, b) -> Cell

    The gate is f in an LSTM, z in a GRU, i in a CoupledLSTM and z in a MinGRU; where an open gate writes
    (the last two) the bias is -value, so that a positive `value` means keeping in every cell. It goes into
    bias_ih; the same block of bias_hh becomes 0, since their sum is what counts.
    Raises InputError if the cell has no such gate or `value` is not finite.
    Source: Gers et al. 2000; Jozefowicz et al. 2015.

    >>> from nextstate import LSTM
    >>> cell = forget_bias_(LSTM(3, 2), 1.0)
    >>> cell.bias_ih[2:4].tolist(), cell.bias_hh[2:4].tolist()
    ([1.0, 1.0], [0.0, 0.0])
    """
    keep, sign = _keep("forget_bias_", cell)
    _check_finite("forget_bias_", "value", value)
    _set_bias(cell, keep, torch.tensor(sign * float(value)))
    return cell


def chrono_(cell: AnyCell, longest: int, *, generator: torch.Generator | None = None) -> AnyCell:
    """The keeping gate starts with time constants spread over 1..longest steps.

    chrono_ : (Cell, T) -> Cell,  b_keep ~ log U(1, T - 1)

    A unit with this bias forgets over about exp(b) + 1 steps. In an LSTM the input gate gets -b_keep. As in
    `forget_bias_`, the bias goes into bias_ih, its twin becomes 0, and its sign is the one that keeps.
    Raises InputError for longest < 3 or a cell without such a gate.
    Source: Tallec and Ollivier 2018 (arXiv 1804.11188).

    >>> from nextstate import LSTM
    >>> cell = chrono_(LSTM(3, 2), longest=100)
    >>> bool((cell.bias_ih[:2] == -cell.bias_ih[2:4]).all())
    True
    """
    keep, sign = _keep("chrono_", cell)
    if not isinstance(longest, int) or longest < 3:
        refuse("chrono_", f"longest is {longest!r}; expected an integer >= 3, the steps to remember over")
    gates = _gates("chrono_", cell)
    bias = _parameter("chrono_", cell, "bias_ih")
    rows = bias.shape[0] // len(gates)
    b = torch.empty(rows, dtype=bias.dtype, device=bias.device).uniform_(1, longest - 1, generator=generator)
    _set_bias(cell, keep, sign * b.log())
    if "i" in gates and keep == "f":
        _set_bias(cell, "i", -b.log())
    return cell


def identity_(cell: Elman, scale: float = 1.0) -> Elman:
    """An Elman network that starts by holding its state: U = scale times the identity, biases 0 (IRNN).

    identity_ : (Elman, a) -> Elman,  U = a 1

    With activation=torch.relu, scale 1 and no input, any state >= 0 stays as it is for ever.
    Raises InputError for another cell or a scale that is not finite.
    Source: Le, Jaitly and Hinton 2015 (arXiv 1504.00941).

    >>> from nextstate import Elman
    >>> identity_(Elman(3, 2, activation=torch.relu)).weight_hh.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if not isinstance(cell, Elman):
        refuse("identity_", f"expected an Elman cell, got {type(cell).__name__}")
    _check_finite("identity_", "scale", scale)
    nn.init.eye_(cell.weight_hh)
    with torch.no_grad():
        cell.weight_hh.mul_(scale)
    nn.init.zeros_(cell.bias_ih)
    nn.init.zeros_(cell.bias_hh)
    return cell


def integrator_(cell: GRU, *, generator: torch.Generator | None = None) -> GRU:
    """A GRU that starts near an integrator of its input: for counting, and for sums over a sequence.

    integrator_ : GRU -> GRU

        U_n = 1,  U_r = U_z = 0.1 times a random orthogonal matrix,  b_r = 2,  b_z = b_n = 0,
        W ~ N(0, 0.05^2)

    About a small state, h' = h + (0.5 W_n u - 0.06 h) + ...: each step adds a part of its input and the
    leak is small. Biases go into bias_ih, bias_hh becomes 0.
    Raises InputError for another cell.

    >>> from nextstate import GRU
    >>> cell = integrator_(GRU(3, 2))
    >>> cell.bias_ih.tolist(), cell.weight_hh[4:].tolist()
    ([2.0, 2.0, 0.0, 0.0, 0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
    """
    if not isinstance(cell, GRU):
        refuse("integrator_", f"expected a GRU, got {type(cell).__name__}")
    nn.init.normal_(cell.weight_ih, std=0.05, generator=generator)
    u_r, u_z, u_n = cell.weight_hh.detach().chunk(3)
    for gate in (u_r, u_z):
        nn.init.orthogonal_(gate, gain=0.1, generator=generator)
    nn.init.eye_(u_n)
    nn.init.zeros_(cell.bias_ih)
    nn.init.zeros_(cell.bias_hh)
    _set_bias(cell, "r", torch.tensor(2.0))
    return cell


def _check_finite(operation: str, name: str, number: float) -> None:
    if not isinstance(number, int | float) or not math.isfinite(number):
        refuse(operation, f"{name} is {number!r}; expected a finite number")


def _gates(operation: str, cell: Cell) -> tuple[str, ...]:
    gates = getattr(cell, "gates", None)
    if not isinstance(gates, tuple):
        refuse(operation, f"{type(cell).__name__} names no gates; apply this to a cell of nextstate.cells")
    return gates


def _keep(operation: str, cell: Cell) -> tuple[str, int]:
    keeps = getattr(cell, "keeps", None)
    if not isinstance(keeps, tuple):
        refuse(operation, f"{type(cell).__name__} has no gate that keeps its state")
    return keeps


def _parameter(operation: str, cell: Cell, name: str) -> nn.Parameter:
    parameter = getattr(cell, name, None)
    if not isinstance(parameter, nn.Parameter):
        refuse(operation, f"{type(cell).__name__} has no {name}")
    return parameter


@torch.no_grad()
def _set_bias(cell: Cell, gate: str, value: Tensor) -> None:
    """The bias of one gate becomes `value`: in bias_ih, with 0 in bias_hh where the cell has both."""
    index = _gates("init", cell).index(gate)
    for name, number in (("bias_ih", value), ("bias_hh", torch.zeros(()))):
        parameter = dict(cell.named_parameters(recurse=False)).get(name)
        if parameter is not None:
            parameter.chunk(len(_gates("init", cell)))[index].copy_(number)
