"""The CPU engine: any cell the compiler can take, at the speed of hand-written kernels."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _disable_current_modes

from nextstate import _engine, loops
from nextstate.cell import Cell
from nextstate.checks import InputError
from nextstate.compiler.compiling import compile_step
from nextstate.compiler.trace import Trace, Unsupported
from nextstate.engines.base import Refusal, Request
from nextstate.engines.call import Call, last_from_state
from nextstate.engines.kernel import Kernel
from nextstate.engines.layout import Layout
from nextstate.engines.masked import Masked
from nextstate.engines.operator import Registered
from nextstate.engines.quick import Quick
from nextstate.engines.team import share
from nextstate.engines.watch import Watch, unfit
from nextstate.lengths import first_step, last_valid, valid_steps, zero_padding
from nextstate.states import Tree, leaves, rebuild

Compiled = Registered | Unsupported
MOST_QUICK = 32
"""Shapes of input kept ready at a time for one cell: each holds packed weights."""
HAS_BF16 = bool(_engine.info()["bf16"])


class _Record:
    """What is known of one cell: its steps compiled so far, by what they were specialised on."""

    def __init__(self) -> None:
        self.watch: Watch | None = None
        self.compiled: dict[Any, Compiled] = {}
        self.others: dict[Any, dict[Any, Compiled]] = {}
        self.quick: dict[Any, Quick | None] = {}

    def renew(self, cell: Cell) -> None:
        self.watch = Watch(cell)
        self.compiled = self.others.setdefault(self.watch.fingerprint, {})
        self.quick = {}


class CpuEngine:
    """Compiles a cell's step once for each kind of input, then runs it in C++."""

    name = "cpu"

    def __init__(self) -> None:
        self.known: WeakKeyDictionary[Cell, _Record] = WeakKeyDictionary()
        self._renew_lock()
        share()
        os.register_at_fork(after_in_child=self._renew_lock)

    def _renew_lock(self) -> None:
        """Tracing a step exchanges the weights of its cell for a moment: then no one else may look."""
        self.lock = threading.RLock()

    def record(self, cell: Cell) -> _Record:
        record = self.known.get(cell)
        if record is None:
            record = self.known[cell] = _Record()
        if record.watch is None or not record.watch.unchanged():
            record.renew(cell)
        return record

    def _record_of(self, request: Request) -> _Record:
        """The record of the request's cell, looked at once a request."""
        found = request.memo.get(self.name)
        if found is None:
            found = request.memo[self.name] = self.record(request.cell)
        return found  # type: ignore[return-value]

    def quick(self, cell: Cell, us: Tree, s0: Tree, lengths: Tensor | None) -> tuple[Tree, Tree] | None:
        """The same result by a short cut, if a call without gradients has nothing to prepare; else None."""
        if (
            torch.is_grad_enabled()
            or lengths is not None
            or type(us) is not Tensor
            or us.dtype is not torch.float32
            or barred()
        ):
            return None
        record = self.known.get(cell)
        if record is None or record.watch is None or not record.watch.unchanged():
            return None
        if s0 is None:
            if us.dim() != 3:
                return None
            s0 = cell.initial_state(us.shape[1], device=us.device, dtype=us.dtype)
        key = us.shape, tuple(s.shape for s in leaves(s0))
        if key not in record.quick:
            if len(record.quick) >= MOST_QUICK:
                record.quick.clear()
            record.quick[key] = self._make_quick(record, cell, us, s0)
        found = record.quick[key]
        return None if found is None else found(us, s0)

    def _make_quick(self, record: _Record, cell: Cell, us: Tensor, s0: Tree) -> Quick | None:
        for key, compiled in record.compiled.items():
            plain = (_kinds(us, 2), _kinds(s0, 1), False, False, True, "fp32")
            if isinstance(compiled, Registered) and key == plain:
                return Quick.make(compiled.kernel, cell, us, s0)
        return None

    def refusal(self, request: Request) -> Refusal | None:
        with self.lock:
            return self._refusal(request)

    def _refusal(self, request: Request) -> Refusal | None:
        watch = self._record_of(request).watch
        assert watch is not None
        reason = watch.problem or _unfit(request)
        if reason is not None:
            return Refusal(reason)
        request = _known_rows(request)
        found = self.compile(request, gather=False, keep_outputs=True)
        if isinstance(found, Unsupported):
            # Input that is wrong is refused by the reference engine, in its own words.
            wrong = isinstance(found.__cause__, InputError)
            return Refusal("its step cannot be compiled: " + "; ".join(found.reasons), surprising=not wrong)
        return None

    def scan(self, request: Request) -> tuple[Tree, Tree]:
        return self._scan(_known_rows(request), reverse=False)

    def scan_back(self, request: Request) -> tuple[Tree, Tree]:
        """The same from each row's last step to its first, read where it lies; its lengths have values."""
        return self._scan(request, reverse=True)

    def _scan(self, request: Request, reverse: bool) -> tuple[Tree, Tree]:
        layout = _layout(request, reverse)
        if not layout.rows:
            with self.lock:  # it calls the cell, whose weights another thread may be tracing
                return loops.scan(request.cell, request.us, request.s0, request.lengths)
        with self.lock:
            ready = Call(self._best(request, layout, keep_outputs=True), request, layout)
        return ready.outputs()

    def fold(self, request: Request) -> tuple[Tree, Tree]:
        found = self._fold(request, reverse=False) if _known_rows(request) is request else None
        if found is not None:
            return found
        vs, s = self.scan(request)
        return last_valid(vs, request.lengths), s

    def fold_back(self, request: Request) -> tuple[Tree, Tree]:
        """The same from each row's last step to its first, read where it lies; its lengths have values."""
        found = self._fold(request, reverse=True)
        if found is not None:
            return found
        vs, s = self.scan_back(request)
        return first_step(vs), s

    def _fold(self, request: Request, reverse: bool) -> tuple[Tree, Tree] | None:
        """The last outputs and states, if the last state is all that the last outputs are made of."""
        layout = _layout(request, reverse)
        if not layout.rows:
            return None
        with self.lock:
            step = self._best(request, layout, keep_outputs=True).kernel.step
            from_state = last_from_state(step)
            if from_state is None:
                return None
            ready = Call(self._best(request, layout, keep_outputs=False), request, layout)
        return ready.last(step, from_state)

    def _best(self, request: Request, layout: Layout, keep_outputs: bool) -> Registered:
        """With ids as input and few of them against the rows to compute, products become look-ups."""
        plain = self.compile(request, gather=False, keep_outputs=keep_outputs)
        assert isinstance(plain, Registered)
        if all(u.is_floating_point() for u in leaves(request.us)):
            return plain
        found = self.compile(request, gather=True, keep_outputs=keep_outputs)
        if isinstance(found, Unsupported) or not found.kernel.step.outer.tables:
            return plain
        sizes = [table.meta["val"].shape[0] for table, _ in found.kernel.step.leaves.tables]
        return found if 2 * max(sizes) <= layout.rows else plain

    def compile(self, request: Request, *, gather: bool, keep_outputs: bool) -> Compiled:
        masked = isinstance(request.cell, Masked)
        precision = autocast_precision()
        key = (_kinds(request.us, 2), _kinds(request.s0, 1), masked, gather, keep_outputs, precision)
        known = self._record_of(request).compiled
        if key not in known:
            try:
                with _disable_current_modes():
                    u, s = _example(request.us, 2), _example(request.s0, 1)
                    step = compile_step(
                        request.cell,
                        u,
                        s,
                        gather=gather,
                        keep_outputs=keep_outputs,
                        trace=_traced(known, key),
                    )
                    kernel = Kernel(step, precision)
                    kernel.build()
                known[key] = Registered(kernel)
            except Unsupported as refused:
                known[key] = refused
            except ValueError as error:  # the engine's own check of a program
                known[key] = Unsupported([f"its program is refused: {error}"])
        return known[key]


def _traced(known: dict[Any, Compiled], key: Any) -> Trace | None:
    """The trace of a step that was compiled for the same forms and types, in another way."""
    alike = (found for other, found in known.items() if other[:3] == key[:3])
    return next((found.kernel.step.trace for found in alike if isinstance(found, Registered)), None)


def _known_rows(request: Request) -> Request:
    """While torch.compile traces, lengths have no values: then every row is full and masked step by step."""
    if request.lengths is None or not is_fake(request.lengths):
        return request
    live = valid_steps(request.lengths, request.steps)
    us = zero_padding(request.us, request.lengths)
    return replace(request, cell=Masked(request.cell), us=(us, live), lengths=None)


def _layout(request: Request, reverse: bool) -> Layout:
    lengths = None if request.lengths is None else request.lengths.cpu()
    return Layout.of(request.steps, request.batch, lengths, reverse)


def _kinds(tree: Tree, skip: int) -> Any:
    """What a step is specialised on: the form of a tree, and dtype and features of its tensors.

    `skip` are the dimensions before the features: time and batch, or the batch.
    """
    if isinstance(tree, Tensor):
        return tree.dtype, tuple(map(int, tree.shape[skip:]))
    return type(tree), *(_kinds(part, skip) for part in tree)


def _example(tree: Tree, skip: int) -> Tree:
    """Tensors like those of a tree without their first `skip` dimensions, but one row: real in every mode."""
    return rebuild(
        tree,
        [torch.zeros((1, *map(int, x.shape[skip:])), dtype=x.dtype, device=x.device) for x in leaves(tree)],
    )


def _unfit(request: Request) -> str | None:
    """Why the engine does not even try with this input, if so."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "a torch.func transform is active"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation is active"
    tensors = (*leaves(request.us), *leaves(request.s0))
    return next((found for x in tensors if (found := unfit(x)) is not None), None)


def barred() -> bool:
    """Whether something watches or changes what operators do: then there is no short cut."""
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
        or (torch._C._len_torch_function_stack() > 0 and not _only_a_default_device())
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
    )


def _only_a_default_device() -> bool:
    """`torch.set_default_device` and `with torch.device` change only what is made without saying where."""
    return all(type(mode) is DeviceContext for mode in _get_current_function_mode_stack())


def autocast_precision() -> str:
    """Products in bfloat16 under `torch.autocast("cpu")` where the processor has them; state in float32."""
    wanted = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16
    return "bf16" if wanted and HAS_BF16 else "fp32"
