"""torch's own fused kernels (cuDNN on a GPU), for the cells that have one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from nextstate.cell import Cell
from nextstate.cells import GRU, LSTM, Elman
from nextstate.cells.lstm_state import LSTMState
from nextstate.engines import cudnn
from nextstate.engines.base import Refusal, Request
from nextstate.lengths import last_valid
from nextstate.states import Tree, leaves


def peer(cell: Cell) -> tuple[str, cudnn.Fused] | None:
    """cuDNN's name and torch's operator for a cell."""
    if type(cell) is GRU:
        return "GRU", torch._VF.gru
    if type(cell) is LSTM:
        return "LSTM", torch._VF.lstm
    if type(cell) is Elman:
        found: dict[Any, tuple[str, cudnn.Fused]] = {
            torch.tanh: ("RNN_TANH", torch._VF.rnn_tanh),
            torch.relu: ("RNN_RELU", torch._VF.rnn_relu),
        }
        return found.get(cell.activation)
    return None


class TorchEngine:
    """Runs `GRU`, `LSTM` and `Elman` (tanh, relu) on the devices where torch has fused kernels for them."""

    name = "torch"

    def __init__(self, devices: tuple[str, ...] = ("cuda",)) -> None:
        self.devices = devices

    def quick(self, cell: Cell, us: Tree, s0: Tree, lengths: Tensor | None) -> tuple[Tree, Tree] | None:
        return None

    def refusal(self, request: Request) -> Refusal | None:
        device = leaves(request.us)[0].device
        if device.type not in self.devices:
            return Refusal(
                f"the input is on {device}; torch's fused kernels are used on {', '.join(self.devices)}"
            )
        if peer(request.cell) is None:
            return Refusal(
                f"this engine calls torch's fused kernels for GRU, LSTM and Elman (tanh, relu) only, "
                f"not for {type(request.cell).__name__}"
            )
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return Refusal("a torch.func transform is active")
        if forward_ad._current_level >= 0:
            return Refusal("forward-mode differentiation is active")
        if not isinstance(request.us, Tensor) or request.us.dim() != 3 or not request.steps * request.batch:
            return Refusal("there is nothing for the fused kernel to run")
        cell: Any = request.cell
        sizes = [s.shape[1] for s in leaves(request.s0) if s.dim() == 2]
        if request.us.shape[2] != cell.input_size or sizes != [cell.hidden_size] * len(leaves(request.s0)):
            return Refusal("the input or the state has another size than the cell")
        return None

    def scan(self, request: Request) -> tuple[Tree, Tree]:
        if request.lengths is None:
            return self._run(request.cell, request.us, request.s0, None)
        return self._ragged(request, request.lengths)

    def fold(self, request: Request) -> tuple[Tree, Tree]:
        vs, s = self.scan(request)
        return last_valid(vs, request.lengths), s

    def _run(self, cell: Any, data: Tensor, s0: Tree, sizes: Tensor | None) -> tuple[Tensor, Tree]:
        start = [s.unsqueeze(0).contiguous() for s in leaves(s0)]
        tensors = [data.contiguous(), *start, cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
        found = peer(cell)
        assert found is not None
        mode, fused = found
        if data.is_cuda and torch.is_autocast_enabled("cuda") and data.dtype is not torch.float64:
            tensors = [x.to(torch.get_autocast_dtype("cuda")) for x in tensors]
        if cudnn.usable(tensors):
            vs, *last = cudnn.run(mode, fused, sizes, tensors)
        else:
            vs, *last = cudnn.plain(fused, sizes, tensors)
        states = [s.squeeze(0) for s in last]
        return vs, LSTMState(*states) if isinstance(s0, LSTMState) else states[0]

    def _ragged(self, request: Request, lengths: Tensor) -> tuple[Tree, Tree]:
        """Rows of length 0 keep their start; the others go as a packed sequence, longest first."""
        order = torch.argsort(lengths, descending=True, stable=True)
        order = order[: int((lengths > 0).sum())]
        shape = (request.steps, request.batch, leaves(request.s0)[0].shape[1])
        if not len(order):
            return request.us.new_zeros(shape), request.s0
        start = [s.index_select(0, order) for s in leaves(request.s0)]
        s0 = LSTMState(*start) if isinstance(request.s0, LSTMState) else start[0]
        packed = pack_padded_sequence(request.us.index_select(1, order), lengths[order].cpu())
        data, last = self._run(request.cell, packed.data, s0, packed.batch_sizes)
        outputs, _ = pad_packed_sequence(PackedSequence(data, packed.batch_sizes), total_length=request.steps)
        vs = outputs.new_zeros(shape).index_copy(1, order, outputs)  # of another dtype under autocast
        states = [
            whole.to(part.dtype).index_copy(0, order, part)
            for whole, part in zip(leaves(request.s0), leaves(last), strict=True)
        ]
        return vs, LSTMState(*states) if isinstance(request.s0, LSTMState) else states[0]
