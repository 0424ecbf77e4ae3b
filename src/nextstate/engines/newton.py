"""The Newton engines: any cell, all steps at once, if its states are found so and shown to be right."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor, fx

from nextstate import loops
from nextstate.cell import Cell
from nextstate.checks import EngineError
from nextstate.compiler.classify import RANDOM, Classes, check_rowwise, op_name
from nextstate.compiler.trace import Trace, Unsupported
from nextstate.engines.base import Refusal, Request
from nextstate.engines.newton_solver import TOLERANCE, Failure, Implicit, Linear, Newton
from nextstate.engines.parallel_rows import Rows, Steps, Traces, unfit, why_not
from nextstate.lengths import last_valid
from nextstate.states import Tree, leaves, rebuild, tree_map

LARGEST = 2**28
"""Numbers that the Jacobians of all steps may have, dense or diagonal: 1 GiB of float32."""

WATCHED = 500
"""Steps over which the growth of a small difference is measured after a failure."""


@dataclass(frozen=True, slots=True)
class Traced:
    trace: Trace
    classes: Classes


def _traced(trace: Trace, classes: Classes) -> Traced:
    check_rowwise(trace, classes)
    drawn = [op_name(n) for n in trace.module.graph.nodes if op_name(n) in RANDOM]
    if drawn:
        raise Unsupported(
            [f"{name} draws anew whenever the step is evaluated" for name in dict.fromkeys(drawn)]
        )
    kinds = [trace.states[k].meta["val"].dtype for k in classes.moving]
    wrong = [kind for kind in kinds if kind not in TOLERANCE or kind != kinds[0]]
    if wrong:
        raise Unsupported(["states of " + ", ".join(str(kind).removeprefix("torch.") for kind in kinds)])
    return Traced(trace, classes)


@dataclass
class NewtonEngine:
    """Finds the states of all steps by Newton iteration (`nextstate.engines.newton_solver`).

    `dense`: with the whole Jacobian of every step (DEER), else with its diagonal (quasi-DEER). A run that
    does not converge raises EngineError with the number of iterations and the residual; no wrong answer is
    handed back. Used only when asked for by name.
    """

    name: str
    dense: bool
    traces: Traces[Traced] = field(default_factory=lambda: Traces(_traced))

    def refusal(self, request: Request) -> Refusal | None:
        if not request.named:
            return Refusal("an iteration that may fail is used only when asked for by name")
        reason = unfit(request)
        if reason is not None:
            return Refusal(reason)
        found = self.traces.of(request)
        if isinstance(found, Unsupported):
            return Refusal(why_not(found))
        return self._too_large(request, found)

    def _too_large(self, request: Request, found: Traced) -> Refusal | None:
        size = sum(math.prod(leaves(request.s0)[k].shape[1:]) for k in found.classes.moving)
        count = request.steps * request.batch * size * (size if self.dense else 1)
        if count <= LARGEST:
            return None
        shape = f"{request.steps} x {request.batch} x {size}" + (f" x {size}" if self.dense else "")
        hint = "; 'quasi-newton' needs their diagonals only" if self.dense else ""
        return Refusal(
            f"the Jacobians of T x B steps of {size} states are {shape} = {count:.2g} numbers; "
            f"at most {LARGEST:.2g}{hint}"
        )

    def quick(self, cell: Cell, us: Tree, s0: Tree, lengths: Tensor | None) -> tuple[Tree, Tree] | None:
        return None

    def scan(self, request: Request) -> tuple[Tree, Tree]:
        rows = Rows(request.steps, request.batch, request.lengths)
        if not rows.count:
            return loops.scan(request.cell, request.us, request.s0, request.lengths)
        found = self.traces.of(request)
        assert isinstance(found, Traced)
        return Run(self, found, request, rows).result()

    def fold(self, request: Request) -> tuple[Tree, Tree]:
        if not request.steps:
            return loops.fold(request.cell, request.us, request.s0, request.lengths)
        vs, s = self.scan(request)
        return last_valid(vs, request.lengths), s


class Run:
    """One sequence: the moving components of its state as one vector of S numbers."""

    def __init__(self, engine: NewtonEngine, found: Traced, request: Request, rows: Rows) -> None:
        self.engine, self.found, self.request, self.rows = engine, found, request, rows
        starts = leaves(request.s0)
        self.like = [starts[k] for k in found.classes.moving]
        self.sizes = [math.prod(s.shape[1:]) for s in self.like]

    def result(self) -> tuple[Tree, Tree]:
        trace, classes = self.found.trace, self.found.classes
        if not self.like:
            return Steps(trace, classes, self.request, self.rows).outputs({}, {}), self.request.s0
        start = torch.cat([s.flatten(1) for s in self.like], 1)
        with torch.no_grad():
            fixed = Steps(trace, classes, self.request, self.rows)
            newton = Newton(lambda x: self.step(fixed, x), self.rows, start, self.engine.dense)
            found = newton.run()
        if isinstance(found, Failure):
            self.fail(found)
        s, _ = found
        steps = Steps(trace, classes, self.request, self.rows) if torch.is_grad_enabled() else fixed
        if torch.is_grad_enabled():
            made = newton.spread(self.step(steps, newton.before(s, start)), s, start)
            s = Implicit.apply(made, newton, newton.linear(s)) if made.requires_grad else made
        before = self.parts(newton.before(s, start))
        after = {
            node: x
            for node, x in zip(
                (trace.next_states[k] for k in classes.moving),
                self.parts(self.rows.pack(s)).values(),
                strict=True,
            )
            if isinstance(node, fx.Node)
        }
        last = leaves(self.request.s0)
        for k, x in self.parts(s[-1]).items():
            last[k] = x
        return steps.outputs(before, after), rebuild(self.request.s0, last)

    def parts(self, x: Tensor) -> dict[int, Tensor]:
        """A vector [N, S] as the components of the state."""
        pieces = zip(self.found.classes.moving, x.split(self.sizes, 1), self.like, strict=True)
        return {k: piece.reshape(len(x), *like.shape[1:]) for k, piece, like in pieces}

    def step(self, steps: Steps, x: Tensor) -> Tensor:
        """All steps at once: [N, S] before them to [N, S] after them."""
        trace = self.found.trace
        made = steps.values([trace.next_states[k] for k in self.found.classes.moving], self.parts(x))
        whole = [
            (value if isinstance(value, Tensor) else x.new_tensor(value))
            .expand(len(x), *like.shape[1:])
            .flatten(1)
            for value, like in zip(made, self.like, strict=True)
        ]
        return torch.cat(whole, 1)

    def fail(self, failure: Failure) -> NoReturn:
        rate = self.growth()
        chaos = ""
        if rate > 0:
            chaos = (
                f". Its largest Lyapunov exponent is positive, about {rate:.2g} a step: small differences "
                f"double every {math.log(2) / rate:.2g} steps, and the iteration is not for such sequences"
            )
        raise EngineError(
            f"engine {self.engine.name!r} did not converge on {type(self.request.cell).__name__}: "
            f"{failure.iterations} iterations, residual {failure.residual:.1e}; {failure.why}{chaos}"
        )

    def growth(self) -> float:
        """The mean logarithm by which a small difference grows in a step, along the longest row."""
        lengths = self.request.lengths
        row = 0 if lengths is None else int(lengths.argmax())
        steps = self.request.steps if lengths is None else int(lengths[row])
        us = tree_map(lambda u: u[:, row : row + 1].detach(), self.request.us)
        held = [x[row : row + 1].detach() for x in leaves(self.request.s0)]
        x = torch.cat([held[k].flatten(1) for k in self.found.classes.moving], 1)
        direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), device="cpu").to(x)
        logs = []
        for t in range(min(steps, WATCHED)):
            u = tree_map(lambda u: u[t], us)  # noqa: B023  (called at once)
            linear = Linear(lambda x: self.cell(u, held, x), x, dense=True)  # noqa: B023
            x, made = linear.value, linear.product(direction)
            norm = float(made.norm())
            if not 0 < norm < math.inf:
                return -math.inf
            logs.append(math.log(norm))
            direction = made / norm
        settled = logs[len(logs) // 10 :]
        return sum(settled) / max(1, len(settled))

    def cell(self, u: Tree, held: list[Tensor], x: Tensor) -> Tensor:
        """One step of the loop, from the moving components [1, S] to those after it."""
        given = list(held)
        for k, part in self.parts(x).items():
            given[k] = part
        made = leaves(self.request.cell(u, rebuild(self.request.s0, given))[1])
        return torch.cat([made[k].flatten(1) for k in self.found.classes.moving], 1)
