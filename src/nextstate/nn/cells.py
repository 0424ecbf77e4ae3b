"""RNNCell, LSTMCell and GRUCell of `torch.nn`, to the letter, on this library's engines."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from nextstate.cell import Cell
from nextstate.cells import LSTMState
from nextstate.nn.layers import ours, recorded, scriptable, transformed
from nextstate.nn.views import GIVEN, activation_of, cell_of
from nextstate.run import scan


class RNNCell(nn.RNNCell):
    """`torch.nn.RNNCell` with its kernels replaced: one step of an Elman network.

    RNNCell : (input, h) -> h'

    Arguments, shapes, state_dict, initial values and errors are those of `torch.nn.RNNCell`, of which this is
    a subclass. See `GRUCell` for what runs where.

    >>> RNNCell(3, 5)(torch.ones(2, 3)).shape
    torch.Size([2, 5])
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if not torch.compiler.is_compiling() and isinstance(input, fx.Proxy):
            return recorded(self, input, hx)
        if torch.compiler.is_compiling() or not fits(self, input, None if hx is None else (hx,)):
            return super().forward(input, hx)
        return _step(self, input, None if hx is None else (hx,))[0]

    def __prepare_scriptable__(self) -> nn.Module:
        return scriptable(self)

    def cell(self) -> Cell:
        """The `nextstate.Elman` with the parameters of this one."""
        return cell_of(self, GIVEN)


class GRUCell(nn.GRUCell):
    """`torch.nn.GRUCell` with its kernels replaced: one step of a GRU.

    GRUCell : (input, h) -> h'

    Arguments, shapes, state_dict, initial values and errors are those of `torch.nn.GRUCell`, of which this is
    a subclass. float32 on a CPU without gradients runs on the compiled engine, torch.func transforms on the
    reference engine, everything else in torch's own code. For a loop over time use `nextstate.scan` with
    `cell()`, for a stream `nextstate.Session`: a loop of single steps cannot be fast.

    >>> GRUCell(3, 5)(torch.ones(2, 3)).shape
    torch.Size([2, 5])
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if not torch.compiler.is_compiling() and isinstance(input, fx.Proxy):
            return recorded(self, input, hx)
        if torch.compiler.is_compiling() or not fits(self, input, None if hx is None else (hx,)):
            return super().forward(input, hx)
        return _step(self, input, None if hx is None else (hx,))[0]

    def __prepare_scriptable__(self) -> nn.Module:
        return scriptable(self)

    def cell(self) -> Cell:
        """The `nextstate.GRU` with the parameters of this one."""
        return cell_of(self, GIVEN)


class LSTMCell(nn.LSTMCell):
    """`torch.nn.LSTMCell` with its kernels replaced: one step of an LSTM.

    LSTMCell : (input, (h, c)) -> (h', c')

    Arguments, shapes, state_dict, initial values and errors are those of `torch.nn.LSTMCell`, of which this
    is a subclass. See `GRUCell` for what runs where.

    >>> h, c = LSTMCell(3, 5)(torch.ones(2, 3))
    >>> h.shape, c.shape
    (torch.Size([2, 5]), torch.Size([2, 5]))
    """

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        if not torch.compiler.is_compiling() and isinstance(input, fx.Proxy):
            return recorded(self, input, hx)
        if torch.compiler.is_compiling() or not fits(self, input, hx):
            return super().forward(input, hx)
        h, c = _step(self, input, hx)
        return h, c

    def __prepare_scriptable__(self) -> nn.Module:
        return scriptable(self)

    def cell(self) -> Cell:
        """The `nextstate.LSTM` with the parameters of this one."""
        return cell_of(self, GIVEN)


def fits(cell: nn.RNNCellBase, input: Tensor, hx: tuple[Tensor, ...] | None) -> bool:
    """Whether a step is well formed and ours to run; torch's own code does the rest, refusals included.

    A single step with a gradient stays with torch: a graph node for every step costs more than its kernels.
    """
    if torch._C._get_tracing_state() is not None or torch.compiler.is_exporting():
        return False
    if torch.is_grad_enabled() and not transformed():
        return False
    if not isinstance(input, Tensor) or input.dim() not in (1, 2) or not input.numel():
        return False
    if not cell.hidden_size:  # torch allows it
        return False
    if hx is not None and not (isinstance(hx, tuple | list) and all(isinstance(h, Tensor) for h in hx)):
        return False
    weights = [x for x in (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh) if x is not None]
    if input.shape[-1] != cell.input_size or not ours(input, *weights, *(hx or ())):
        return False
    if input.dtype != weights[0].dtype:
        return False
    if isinstance(cell, nn.RNNCell) and activation_of(cell) is None:
        return False
    count = 2 if isinstance(cell, nn.LSTMCell) else 1
    shape = (*input.shape[:-1], cell.hidden_size)
    return hx is None or (len(hx) == count and all(tuple(h.shape) == shape for h in hx))


@torch._disable_dynamo  # as in layers.py
def _step(cell: nn.RNNCellBase, input: Tensor, hx: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
    batched = input.dim() == 2
    us = input.unsqueeze(0) if batched else input[None, None]
    start = None
    if hx is not None:
        rows = [h if batched else h.unsqueeze(0) for h in hx]
        start = LSTMState(*rows) if len(rows) == 2 else rows[0]
    _, end = scan(cell_of(cell), us, start)
    ends = end if isinstance(end, tuple) else (end,)
    return tuple(ends) if batched else tuple(x.squeeze(0) for x in ends)
