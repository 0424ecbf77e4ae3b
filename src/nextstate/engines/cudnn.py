"""cuDNN's loop of one layer, with what torch's call of it lacks.

Beside `torch._VF.gru` on a GPU: gradients in eval mode, second derivatives (of torch's own loop, computed
when they are asked for), and weights laid side by side at every call without a warning at every call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.backends.cudnn import is_acceptable
from torch.backends.cudnn.rnn import get_cudnn_mode

Fused = Callable[..., Sequence[Tensor]]
"""An operator of torch: (input, start, weights, ...) -> (outputs, last states...)."""


def usable(tensors: Sequence[Tensor]) -> bool:
    """Whether cuDNN takes tensors of this kind; a compiler sees torch's own operator instead."""
    if torch.compiler.is_compiling():
        return False
    return all(x.is_cuda and x.dtype == tensors[0].dtype for x in tensors) and is_acceptable(tensors[0])


def plain(fused: Fused, sizes: Tensor | None, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """torch's operator on (input [T, B, I], start..., four weights), or on packed rows and batch sizes."""
    data, *start = tensors[:-4]
    weights, hx = list(tensors[-4:]), tuple(start) if len(start) > 1 else start[0]
    options = (True, 1, 0.0, torch.is_grad_enabled(), False)
    if sizes is None:
        return fused(data, hx, weights, *options, False)
    return fused(data, sizes, hx, weights, *options)


def run(mode: str, fused: Fused, sizes: Tensor | None, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The same by cuDNN, whose name for the cell is `mode`."""
    train = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    found: Sequence[Tensor] = Layer.apply(mode, fused, sizes, train, *tensors)
    return found


class Layer(torch.autograd.Function):
    """(mode, operator, batch sizes, train, input, start..., weights) -> (outputs, states...)."""

    @staticmethod
    def forward(
        ctx: Any, mode: str, fused: Fused, sizes: Tensor | None, train: bool, *tensors: Tensor
    ) -> Any:
        data, h, *cell = tensors[:-4]
        weights = [w.detach() for w in tensors[-4:]]  # flattening moves these, not the parameters
        kind, hidden = get_cudnn_mode(mode), weights[1].shape[1]
        form = (4, data.shape[-1], kind, hidden, 0, 1, False, False)
        block = torch._cudnn_rnn_flatten_weight(weights, *form)
        steps = [] if sizes is None else sizes.tolist()
        options = (kind, hidden, 0, 1, False, 0.0, train, False, steps, None)
        c = cell[0] if cell else None
        vs, hT, cT, reserve, block = torch._cudnn_rnn(data, weights, 4, block, h, c, *options)
        ctx.fused, ctx.sizes, ctx.options = fused, sizes, options
        ctx.save_for_backward(*tensors, *weights, block, vs, reserve)
        return (vs, hT, cT) if cell else (vs, hT)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        *tensors, w0, w1, w2, w3, block, vs, reserve = ctx.saved_tensors
        wanted = ctx.needs_input_grad[4:]
        if torch.is_grad_enabled():
            return None, None, None, None, *differentiable(ctx.fused, ctx.sizes, tensors, grads, wanted)
        data, h, *cell = tensors[:-4]
        c, over = cell[0] if cell else None, [g.contiguous() for g in grads]
        mask = [wanted[0], wanted[1], bool(cell) and wanted[2], any(wanted[-4:])]
        du, dh, dc, dw = torch.ops.aten._cudnn_rnn_backward(
            data, [w0, w1, w2, w3], 4, block, h, c, vs, *over, *(() if cell else (None,)), *ctx.options,
            reserve.clone(), mask,  # cuDNN writes there, and the graph may be kept for another backward pass
        )  # fmt: skip
        found = (du, dh, *((dc,) if cell else ()), *(dw if mask[3] else (None,) * 4))
        return None, None, None, None, *(g if w else None for g, w in zip(found, wanted, strict=True))


def differentiable(
    fused: Fused,
    sizes: Tensor | None,
    tensors: Sequence[Tensor],
    grads: Sequence[Tensor],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients once more, as functions with gradients: cuDNN's have none."""
    # Aliases: an input may depend on another one (a state on the weights), or be the same.
    tensors = [x.view_as(x) for x in tensors]
    chosen = [x for x, w in zip(tensors, wanted, strict=True) if w]
    with _without_cudnn():
        rest = iter(torch.autograd.grad(plain(fused, sizes, tensors), chosen, grads, create_graph=True))
    return [next(rest) if w else None for w in wanted]


@contextmanager
def _without_cudnn() -> Iterator[None]:
    """torch's own loop for what runs within; the switch is that of the whole process."""
    before = torch._C._get_cudnn_enabled()
    torch._C._set_cudnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_cudnn_enabled(before)
