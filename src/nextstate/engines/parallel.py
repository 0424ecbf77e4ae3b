"""The scan engine: cells that are linear in their state, all steps at once."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from nextstate import loops
from nextstate.cell import Cell
from nextstate.compiler.affine import LinearStep, Term, linear_step
from nextstate.compiler.evaluate import Env
from nextstate.compiler.trace import Unsupported
from nextstate.engines.base import Refusal, Request
from nextstate.engines.parallel_rows import Rows, Steps, Traces, unfit, why_not
from nextstate.engines.recurrence import Recurrence
from nextstate.lengths import last_valid
from nextstate.states import Tree, leaves, rebuild

LONG, NARROW = 32, 1024
"""`auto` takes this engine, where those before it refuse, for sequences of at least as many steps; on a CPU
for states of at most as many numbers, all rows together: there it was faster (docs/dynamics.md)."""


class ScanEngine:
    """Runs h' = a(u) h + b(u) by a chunked scan: everything else of the step is done for all steps at once.

    What qualifies is read off the traced step (`nextstate.compiler.affine`): any cell, dtype and device.
    """

    name = "scan"

    def __init__(self) -> None:
        self.traces: Traces[LinearStep] = Traces(linear_step)

    def refusal(self, request: Request) -> Refusal | None:
        reason = unfit(request)
        if reason is None and not request.named:
            reason = _unproved(request)
        if reason is not None:
            return Refusal(reason)
        found = self.traces.of(request)
        return Refusal(why_not(found)) if isinstance(found, Unsupported) else None

    def quick(self, cell: Cell, us: Tree, s0: Tree, lengths: Tensor | None) -> tuple[Tree, Tree] | None:
        return None

    def scan(self, request: Request) -> tuple[Tree, Tree]:
        rows = Rows(request.steps, request.batch, request.lengths)
        if not rows.count:
            return loops.scan(request.cell, request.us, request.s0, request.lengths)
        step = self.traces.of(request)
        assert isinstance(step, LinearStep)
        return run(step, request, rows)

    def fold(self, request: Request) -> tuple[Tree, Tree]:
        if not request.steps:
            return loops.fold(request.cell, request.us, request.s0, request.lengths)
        vs, s = self.scan(request)
        return last_valid(vs, request.lengths), s


def _unproved(request: Request) -> str | None:
    """Why `auto` leaves a request to others: it takes this engine where that was measured to be faster."""
    device, numbers = leaves(request.us)[0].device, sum(s.numel() for s in leaves(request.s0))
    known = device.type == "cuda" or (device.type == "cpu" and numbers <= NARROW)
    if known and request.steps >= LONG:
        return None
    return (
        f"{request.steps} steps of {numbers} numbers of state on {device}; unless asked for by name it runs "
        f"from {LONG} steps on, on a GPU or for up to {NARROW} numbers on a CPU: there it is faster"
    )


def run(step: LinearStep, request: Request, rows: Rows) -> tuple[Tree, Tree]:
    """Solve one component of the state after the other, then the outputs."""
    steps = Steps(step.trace, step.classes, request, rows)
    before: dict[int, Tensor] = {}
    after: Env = {}
    last = leaves(request.s0)
    for solved in step.solved:
        start = last[solved.component]
        factor, offset = steps.values([solved.factor, solved.offset], before)
        a, b = _spread(factor, start, rows, 1.0), _spread(offset, start, rows, 0.0)
        hs = Recurrence.apply(a, b, start)
        last[solved.component] = hs[-1]
        before[solved.component] = rows.pack(torch.cat([start.unsqueeze(0), hs[:-1]]))
        following = step.trace.next_states[solved.component]
        if isinstance(following, fx.Node):
            after[following] = rows.pack(hs)
    return steps.outputs(before, after), rebuild(request.s0, last)


def _spread(value: Tensor | Term, start: Tensor, rows: Rows, fill: float) -> Tensor:
    """A coefficient at every step and row [T, B, ...]; after a row's end the state is kept."""
    if not isinstance(value, Tensor):
        value = start.new_tensor(value)
    value = value.to(start.dtype).expand(rows.count, *start.shape[1:])
    return rows.unpack(value, fill)
