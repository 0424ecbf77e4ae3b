"""RNN, LSTM and GRU of `torch.nn`, to the letter, on this library's engines."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from nextstate.cell import Cell
from nextstate.cells import LSTMState
from nextstate.checks import FallbackWarning
from nextstate.engines.registry import MissingCpuEngine
from nextstate.nn.views import GIVEN, activation_of, cells_of
from nextstate.run import ENGINES, scan, scan_back

MARK = "_accelerated"
"""An attribute of the layers that `nextstate.accelerate` changed: copies and pickles can be undone too."""
COMPILED = not isinstance(ENGINES["cpu"], MissingCpuEngine)
THEIRS: tuple[Any, ...] = (nn.GRU, nn.LSTM, nn.RNN)
"""torch's own layers, whatever these names mean later: `torch.nn.GRU = nextstate.nn.GRU` moves them."""


class RNN(nn.RNN):
    """`torch.nn.RNN` with its kernels replaced: Elman layers, tanh or relu.

    RNN : (input, h_0) -> (output, h_n)

    Arguments, shapes, state_dict, initial values and errors are those of `torch.nn.RNN`, of which this is a
    subclass: code that asks `isinstance(m, torch.nn.RNN)` goes on working. See `GRU` for what runs where.

    >>> layer = RNN(3, 5, num_layers=2, nonlinearity="relu", batch_first=True)
    >>> output, h_n = layer(torch.ones(2, 7, 3))
    >>> output.shape, h_n.shape
    (torch.Size([2, 7, 5]), torch.Size([2, 2, 5]))
    """

    def forward(self, input: Any, hx: Tensor | None = None) -> Any:
        if torch.compiler.is_dynamo_compiling() and isinstance(input, Tensor):
            return place(self, input, hx)
        return call(self, input, hx)

    def __prepare_scriptable__(self) -> nn.Module:
        return scriptable(self)

    def cells(self) -> tuple[Cell, ...]:
        """The `nextstate.Elman` cells of this layer; see `GRU.cells`."""
        return cells_of(self, GIVEN)


class GRU(nn.GRU):
    """`torch.nn.GRU` with its kernels replaced.

    GRU : (input, h_0) -> (output, h_n)

    Arguments, shapes, state_dict, initial values and errors are those of `torch.nn.GRU`, of which this is a
    subclass: code that asks `isinstance(m, torch.nn.GRU)` goes on working.

    What runs: float32 on a CPU, the compiled engine; torch.func transforms and forward-mode derivatives, the
    reference engine; everything else (a GPU, other dtypes, autocast, tracing, export, one step with a
    gradient, input that torch refuses), the code of `torch.nn.GRU` itself.

    >>> layer = GRU(3, 5, bidirectional=True)
    >>> output, h_n = layer(torch.ones(7, 2, 3))
    >>> output.shape, h_n.shape, isinstance(layer, torch.nn.GRU)
    (torch.Size([7, 2, 10]), torch.Size([2, 2, 5]), True)
    """

    def forward(self, input: Any, hx: Tensor | None = None) -> Any:
        if torch.compiler.is_dynamo_compiling() and isinstance(input, Tensor):
            return place(self, input, hx)
        return call(self, input, hx)

    def __prepare_scriptable__(self) -> nn.Module:
        return scriptable(self)

    def cells(self) -> tuple[Cell, ...]:
        """The cells of this layer, in torch's order (l0, l0_reverse, l1, ...), with its very parameters.

        The way from a drop-in to everything that `torch.nn` lacks: a wrapper around such a cell, an initial
        value from `nextstate.init`, a `Session`. They hold the parameters that the layer has at the moment:
        where others take their place (`load_state_dict(assign=True)`), ask again.

        >>> import nextstate as ns
        >>> layer = GRU(3, 5)
        >>> cell = ns.Zoneout(layer.cells()[0], 0.1)
        >>> cell.cell.weight_ih is layer.weight_ih_l0
        True
        """
        return cells_of(self, GIVEN)


class LSTM(nn.LSTM):
    """`torch.nn.LSTM` with its kernels replaced, projections included.

    LSTM : (input, (h_0, c_0)) -> (output, (h_n, c_n))

    Arguments, shapes, state_dict, initial values and errors are those of `torch.nn.LSTM`, of which this is a
    subclass: code that asks `isinstance(m, torch.nn.LSTM)` goes on working. See `GRU` for what runs where.

    >>> layer = LSTM(3, 5, proj_size=2)
    >>> output, (h_n, c_n) = layer(torch.ones(7, 3))
    >>> output.shape, h_n.shape, c_n.shape
    (torch.Size([7, 2]), torch.Size([1, 2]), torch.Size([1, 5]))
    """

    def forward(self, input: Any, hx: tuple[Tensor, Tensor] | None = None) -> Any:
        if torch.compiler.is_dynamo_compiling() and isinstance(input, Tensor):
            return place(self, input, hx)
        return call(self, input, hx)

    def __prepare_scriptable__(self) -> nn.Module:
        return scriptable(self)

    def cells(self) -> tuple[Cell, ...]:
        """The `nextstate.LSTM` (or `ProjectedLSTM`) cells of this layer; see `GRU.cells`."""
        return cells_of(self, GIVEN)


@torch._disable_dynamo  # torch.compiler.disable imports the compiler, half of the start of a command
def call(layer: nn.RNNBase, input: Any, hx: Any) -> Any:
    """A call of a layer: ours if it is well formed and of a kind we run, else torch's own code."""
    if isinstance(input, fx.Proxy):
        return recorded(layer, input, hx)
    starts = hx if hx is None or isinstance(layer, nn.LSTM) else (hx,)
    if fits(layer, input, starts):
        return _run(layer, input, starts)
    if isinstance(input, PackedSequence):  # torch.nn.LSTM does not look, and oneDNN then reads past the end
        layer.check_input(input.data, input.batch_sizes)
        if hx is not None:
            layer.check_forward_args(input.data, hx, input.batch_sizes)
    return next(kind for kind in THEIRS if isinstance(layer, kind)).forward(layer, input, hx)


def recorded(layer: nn.Module, input: fx.Proxy, hx: Any) -> fx.Proxy:
    """A call while `torch.fx` traces: one node, which is what it makes of the layers of `torch.nn`."""
    tracer: Any = input.tracer
    arguments = (input,) if hx is None else (input, hx)
    return tracer.create_proxy("call_module", tracer.path_of_module(layer), arguments, {})


def scriptable(layer: nn.Module) -> nn.Module:
    """torch's own layer on the same parameters, for TorchScript: our code is not of its language.

    `torch.jit.script` puts it into the model that it is given, too.
    """
    twin = copy.copy(layer)
    twin.__class__ = next(kind for kind in type(layer).__mro__ if kind.__module__ == THEIRS[0].__module__)
    vars(twin).pop(MARK, None)
    kind = twin.__class__.__name__
    warnings.warn(
        f"torch.jit.script turned a {kind} back into torch.nn.{kind}", FallbackWarning, stacklevel=2
    )
    return twin


def place(layer: nn.RNNBase, input: Tensor, hx: Any) -> Any:
    """The same as one opaque call in dynamo's graph."""
    _prepare()
    assert _placed is not None
    return _placed(layer, input, [] if hx is None else [hx] if isinstance(hx, Tensor) else [*hx])


_placed: Callable[..., Any] | None = None


def _traced(layer: nn.RNNBase, input: Tensor, starts: list[Tensor]) -> Any:
    return call(layer, input, None if not starts else starts[0] if len(starts) == 1 else tuple(starts))


def _prepare() -> None:
    """Register the opaque call. Dynamo runs this as Python, while it traces."""
    global _placed
    if _placed is None:
        _placed = torch._dynamo.nonstrict_trace(_traced)


_prepare._dynamo_marked_constant = True  # type: ignore[attr-defined]


def transformed() -> bool:
    """Whether a torch.func transform or forward-mode differentiation is active."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def ours(*tensors: Tensor) -> bool:
    """Whether tensors of this kind are run by this library rather than by torch's own code."""
    if transformed():
        return True
    plain = all(not _overrides(x) and x.dtype is torch.float32 and x.is_cpu for x in tensors)
    return COMPILED and plain and not torch.is_autocast_enabled("cpu")


def _overrides(x: Tensor) -> bool:
    """Whether a tensor is of a class that has a say in what torch's functions do: ours do not ask it."""
    kind = type(x)
    return kind is not Tensor and kind.__torch_function__ is not torch._C._disabled_torch_function_impl


def fits(layer: nn.RNNBase, input: Any, hx: tuple[Tensor, ...] | None) -> bool:
    """Whether a call is well formed and ours to run; torch's own code does the rest, refusals included."""
    if torch._C._get_tracing_state() is not None or torch.compiler.is_exporting():
        return False  # first of all: a look at shapes would be recorded
    packed = isinstance(input, PackedSequence)
    data = input.data if packed else input
    if not isinstance(data, Tensor) or data.dim() not in ((2,) if packed else (2, 3)):
        return False
    if data.shape[-1] != layer.input_size or not data.numel():
        return False
    if torch.is_grad_enabled() and not transformed() and _steps(layer, input) == 1:
        return False  # one node of the graph for every step costs more than the kernels of a step
    if hx is not None and not (isinstance(hx, tuple | list) and all(isinstance(h, Tensor) for h in hx)):
        return False
    if isinstance(layer, nn.RNN) and activation_of(layer) is None:
        return False
    weights = [getattr(layer, name) for name in layer._flat_weights_names]
    if not ours(data, *weights, *(hx or ())) or data.dtype != weights[0].dtype:
        return False
    return hx is None or _right_start(layer, input, data, hx)


def _steps(layer: nn.RNNBase, input: Any) -> int:
    if isinstance(input, PackedSequence):
        return len(input.batch_sizes)
    return input.shape[1 if layer.batch_first and input.dim() == 3 else 0]


def _right_start(layer: nn.RNNBase, input: Any, data: Tensor, hx: tuple[Tensor, ...]) -> bool:
    if isinstance(input, PackedSequence):
        batch: tuple[int, ...] = (int(input.batch_sizes[0]),)
    else:
        batch = () if data.dim() == 2 else (data.shape[0 if layer.batch_first else 1],)
    first = layer.num_layers * (1 + layer.bidirectional), *batch
    widths = [layer.proj_size or layer.hidden_size]
    if isinstance(layer, nn.LSTM):
        widths.append(layer.hidden_size)
    return [tuple(h.shape) for h in hx] == [(*first, width) for width in widths]


def _run(layer: nn.RNNBase, input: Any, hx: tuple[Tensor, ...] | None) -> Any:
    if isinstance(input, PackedSequence):
        return _run_packed(layer, input, hx)
    batched = input.dim() == 3
    if not batched:
        input = input.unsqueeze(1)
        hx = hx if hx is None else tuple(h.unsqueeze(1) for h in hx)
    elif layer.batch_first:
        input = input.transpose(0, 1)
    output, ends = _stack(layer, input, hx, None)
    if not batched:
        output, ends = output.squeeze(1), tuple(end.squeeze(1) for end in ends)
    elif layer.batch_first:
        output = output.transpose(0, 1)
    return output, ends if len(ends) == 2 else ends[0]


def _run_packed(layer: nn.RNNBase, input: PackedSequence, hx: tuple[Tensor, ...] | None) -> Any:
    data, sizes, order, inverse = input
    if hx is not None and order is not None:
        hx = tuple(h.index_select(1, order) for h in hx)
    output, ends = _stack(layer, data, hx, sizes)
    if inverse is not None:
        ends = tuple(end.index_select(1, inverse) for end in ends)
    return PackedSequence(output, sizes, order, inverse), ends if len(ends) == 2 else ends[0]


def _stack(
    layer: nn.RNNBase, x: Tensor, hx: tuple[Tensor, ...] | None, sizes: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All layers and directions: x [T, B, I], or packed rows [N, I] where step t has `sizes[t]` rows."""
    cells = cells_of(layer)
    directions = 1 + layer.bidirectional
    padding = None if sizes is None else _Padding(sizes, x.device)
    lengths = None if padding is None else padding.lengths
    ends: list[tuple[Tensor, ...]] = []
    for k in range(0, len(cells), directions):
        if k and layer.dropout and layer.training:
            x = F.dropout(x, layer.dropout, True)
        us = x if padding is None else padding.spread(x)
        read = []
        for d in range(directions):
            s0 = None if hx is None else tuple(h[k + d] for h in hx)
            start = None if s0 is None else LSTMState(*s0) if len(s0) == 2 else s0[0]
            vs, end = (scan_back if d else scan)(cells[k + d], us, start, lengths=lengths)
            read.append(vs)
            ends.append(end if isinstance(end, tuple) else (end,))
        x = read[0] if directions == 1 else torch.cat(read, -1)
        if padding is not None:
            x = padding.gather(x)
    return x, tuple(torch.stack(parts) for parts in zip(*ends, strict=True))


class _Padding:
    """Between the rows of a packed sequence, longest first, and a padded batch."""

    def __init__(self, sizes: Tensor, device: torch.device) -> None:
        self.steps, self.batch = len(sizes), int(sizes[0])
        live = torch.arange(self.batch, device=sizes.device) < sizes[:, None]
        self.lengths = live.sum(0).to(device)
        self.rows = live.flatten().nonzero()[:, 0].to(device)

    def spread(self, rows: Tensor) -> Tensor:
        padded = rows.new_zeros(self.steps * self.batch, rows.shape[1]).index_copy(0, self.rows, rows)
        return padded.unflatten(0, (self.steps, self.batch))

    def gather(self, us: Tensor) -> Tensor:
        return us.flatten(0, 1).index_select(0, self.rows)
