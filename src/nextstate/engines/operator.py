"""The compiled scan as one pair of torch operators, with shapes for fake tensors and a gradient.

    nextstate::scan_forward   (tensors, handle, steps, batch, lengths, wanted) -> outputs, last states, kept
    nextstate::scan_backward  (gradients, tensors, kept, ...) -> gradients of the tensors wanted

`handle` names a kernel; `lengths` are sorted, longest first, or None. The kernel lives as long as its cell.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from nextstate.compiler.program import padded
from nextstate.engines.kernel import Kernel
from nextstate.engines.layout import Layout

KERNELS: WeakValueDictionary[int, Any] = WeakValueDictionary()
_handles = itertools.count(1)


class Registered:
    """A kernel with a handle; weakly known to the operators."""

    __slots__ = ("__weakref__", "handle", "kernel")

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.handle = kernel, next(_handles)
        KERNELS[self.handle] = self


def _kernel(handle: int) -> Kernel:
    found = KERNELS.get(handle)
    if found is None:
        raise RuntimeError("the cell of this scan no longer exists")
    return found.kernel


_recent: dict[int, tuple[weakref.ref[Tensor], Layout]] = {}


def _layout(steps: int, batch: int, lengths: Tensor | None) -> Layout:
    """The layout of sorted lengths; the backward run finds the one its forward run made."""
    if lengths is None:
        return Layout.of(steps, batch, None)
    known = _recent.get(id(lengths))
    if known is not None and known[0]() is lengths:
        return known[1]
    layout = Layout.of(steps, batch, lengths)
    key = id(lengths)
    _recent[key] = (weakref.ref(lengths, lambda _: _recent.pop(key, None)), layout)
    return layout


library = torch.library.Library("nextstate", "DEF")
library.define(
    "scan_forward(Tensor[] tensors, int handle, SymInt steps, SymInt batch, Tensor? lengths, int wanted) "
    "-> Tensor[]"
)
library.define(
    "scan_backward(Tensor?[] gradients, Tensor[] tensors, Tensor[] kept, int handle, SymInt steps, "
    "SymInt batch, Tensor? lengths, int wanted) -> Tensor[]"
)


def _forward(
    tensors: list[Tensor], handle: int, steps: int, batch: int, lengths: Tensor | None, wanted: int
) -> list[Tensor]:
    return _kernel(handle).forward(list(tensors), _layout(steps, batch, lengths), wanted)


def _backward(
    gradients: list[Tensor | None], tensors: list[Tensor], kept: list[Tensor], handle: int, steps: int,
    batch: int, lengths: Tensor | None, wanted: int,
) -> list[Tensor]:  # fmt: skip
    found = _kernel(handle).backward(
        list(gradients), list(tensors), list(kept), _layout(steps, batch, lengths), wanted
    )
    return [g for g in found if g is not None]


library.impl("scan_forward", _forward, "CPU")
library.impl("scan_backward", _backward, "CPU")


@torch.library.register_fake("nextstate::scan_forward", lib=library)
def _fake_forward(tensors, handle, steps, batch, lengths, wanted):  # type: ignore[no-untyped-def]
    kernel = _kernel(handle)
    shapes, like = kernel.step.shapes, tensors[0]
    rows = tensors[kernel.first_sequence].shape[0] if kernel.first_sequence is not None else steps * batch
    made = [
        like.new_empty(rows, w, dtype=torch.float32) for w in shapes.outputs[: len(kernel.step.loop.outputs)]
    ]
    made += [like.new_empty(batch, w, dtype=torch.float32) for w in shapes.states]
    if wanted:
        made += [like.new_empty(batch + rows + 1, padded(w), dtype=torch.float32) for w in shapes.states]
        made.append(like.new_empty(1, kernel.saved_size(rows, wanted), dtype=torch.float32))
        made.append(like.new_empty((), dtype=torch.int64))
    return made


@torch.library.register_fake("nextstate::scan_backward", lib=library)
def _fake_backward(gradients, tensors, kept, handle, steps, batch, lengths, wanted):  # type: ignore[no-untyped-def]
    return [torch.empty_like(t) for bit, t in enumerate(tensors) if wanted >> bit & 1]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    tensors, handle, steps, batch, lengths, wanted = inputs
    found = KERNELS.get(handle)
    count = 0 if found is None else found.kernel.results
    ctx.registered = found
    ctx.arguments = (handle, steps, batch, wanted)
    ctx.sizes = (len(tensors), len(output) - count, count)
    ctx.save_for_backward(*tensors, *output[count:], *(() if lengths is None else (lengths,)))
    ctx.set_materialize_grads(False)


def _autograd(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    handle, steps, batch, wanted = ctx.arguments
    inputs, kept_count, count = ctx.sizes
    everything = list(ctx.saved_tensors)
    tensors, kept = everything[:inputs], everything[inputs : inputs + kept_count]
    lengths = everything[inputs + kept_count] if len(everything) > inputs + kept_count else None
    given = list(grads[:count])
    if torch.is_grad_enabled() and ctx.registered is not None:
        found = ctx.registered.kernel.differentiable_backward(
            given, tensors, _layout(steps, batch, lengths), wanted
        )
    else:
        found = torch.ops.nextstate.scan_backward(given, tensors, kept, handle, steps, batch, lengths, wanted)
    rest = iter(found)
    return [next(rest) if wanted >> bit & 1 else None for bit in range(inputs)], None, None, None, None, None


torch.library.register_autograd("nextstate::scan_forward", _autograd, setup_context=_setup, lib=library)


class EagerScan(torch.autograd.Function):
    """The same pair outside of compilation, without the cost of the operator's machinery."""

    @staticmethod
    def forward(ctx: Any, registered: Registered, layout: Layout, wanted: int, *tensors: Tensor) -> Any:
        kernel = registered.kernel
        found = kernel.forward(tensors, layout, wanted)
        count = kernel.results
        ctx.registered, ctx.layout, ctx.wanted = registered, layout, wanted
        ctx.inputs = len(tensors)
        ctx.save_for_backward(*tensors, *found[count:])
        ctx.set_materialize_grads(False)
        return tuple(found[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        saved = ctx.saved_tensors
        tensors, kept = saved[: ctx.inputs], saved[ctx.inputs :]
        kernel: Kernel = ctx.registered.kernel
        if torch.is_grad_enabled():
            rest = iter(kernel.differentiable_backward(list(grads), list(tensors), ctx.layout, ctx.wanted))
            found = [next(rest) if ctx.wanted >> bit & 1 else None for bit in range(ctx.inputs)]
            return None, None, None, *found
        return None, None, None, *kernel.backward(grads, tensors, kept, ctx.layout, ctx.wanted)


def run(registered: Registered, tensors: list[Tensor], layout: Layout, wanted: int) -> Sequence[Tensor]:
    """Outputs and last states of a loop, by the operator where something looks at operators."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0:
        found: Sequence[Tensor] = torch.ops.nextstate.scan_forward(
            tensors, registered.handle, layout.steps, layout.batch, layout.lengths, wanted
        )
        return found[: registered.kernel.results]
    if wanted:
        return EagerScan.apply(registered, layout, wanted, *tensors)
    return registered.kernel.forward(tensors, layout, 0)
