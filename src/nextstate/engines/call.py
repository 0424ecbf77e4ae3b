"""One call of a compiled step over a sequence: what torch computes around the loop in C++."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from nextstate.compiler.classify import Depends
from nextstate.compiler.compiling import CompiledStep
from nextstate.compiler.evaluate import Env, Expressions, evaluate
from nextstate.compiler.ir import Node
from nextstate.engines.base import Request
from nextstate.engines.kernel import Kernel
from nextstate.engines.layout import Layout
from nextstate.engines.operator import Registered, run
from nextstate.states import Tree, leaves, rebuild, select, zeros_like


def last_from_state(step: CompiledStep) -> list[int] | None:
    """The state component that each value handed outside is, if the last output needs nothing else."""
    found = []
    for pieces in step.loop.outputs:
        if pieces not in step.loop.states:
            return None
        found.append(step.loop.states.index(pieces))
    known = {*step.split.crossing, *step.split.after, *step.split.parameters, *step.trace.weights}
    needed = {a for node in step.split.after for a in node.all_input_nodes} | set(step.trace.outputs)
    return found if needed <= known and step.loop.states else None


class Call:
    """One call of a compiled step: torch before the loop, the operator, torch after it."""

    def __init__(self, registered: Registered, request: Request, layout: Layout) -> None:
        self.registered, self.request, self.layout = registered, request, layout
        self.kernel: Kernel = registered.kernel
        self.step: CompiledStep = registered.kernel.step
        self.env: Env = {}
        self.expressions: Expressions | None = None
        self.state_rows = [layout.sort(s) for s in leaves(request.s0)]
        self._before()

    def _before(self) -> None:
        step, env, layout = self.step, self.env, self.layout
        trace = step.trace
        for node, name in zip(trace.weights, trace.parameters, strict=True):
            env[node] = _named(self.request.cell, name)
        for node, u in zip(trace.inputs, leaves(self.request.us), strict=True):
            env[node] = layout.pack(u)
        for k in step.classes.constant:
            env[trace.states[k]] = self.state_rows[k]
        evaluate(step.split.parameters, env, trace.batch, 1)
        evaluate(step.split.constants, env, trace.batch, layout.batch)
        self._evaluate_rows(step.split.before)

    def _evaluate_rows(self, nodes: tuple[fx.Node, ...]) -> None:
        """Evaluate with one row a step; constants of the sequence are spread over their steps."""
        constant = [
            argument
            for node in nodes
            for argument in node.all_input_nodes
            if self.step.classes.depends[argument] == Depends.CONSTANT
        ]
        kept = {node: self.env[node] for node in constant}
        for node in kept:
            self.env[node] = self.layout.spread(kept[node])
        evaluate(nodes, self.env, self.step.trace.batch, self.layout.rows)
        self.env.update(kept)

    def outputs(self) -> tuple[Tree, Tree]:
        step, layout = self.step, self.layout
        found = self._loop() if step.loop.states else []
        count = len(step.loop.outputs)
        for node, value in zip(step.split.crossing, found[:count], strict=True):
            self.env[node] = value.view(layout.rows, *node.meta["val"].shape[1:])
        self._evaluate_rows(tuple(n for n in step.split.after if n not in self.env))
        outputs, made = step.trace.outputs, {*step.split.crossing, *step.split.after}
        vs = [self._output(v) for v in outputs]
        # An output is the caller's to change: no part of the input, of a parameter or of another output.
        vs = [
            x if v in made and v not in outputs[:k] else x.clone(memory_format=torch.contiguous_format)
            for k, (v, x) in enumerate(zip(outputs, vs, strict=True))
        ]
        states = list(self.state_rows)
        for place, k in enumerate(step.classes.moving):
            states[k] = found[count + place]
        s = [layout.unsort(x) for x in states]
        return rebuild(step.trace.v_like, vs), rebuild(self.request.s0, s)

    def _loop(self) -> Sequence[Tensor]:
        """Outputs and last states of the loop itself."""
        layout = self.layout
        tensors = [self._slot(kind, place) for kind, place in self.kernel.slots]
        if self.kernel.precision != "fp32":  # what torch made under autocast
            tensors = [x.float() if x.is_floating_point() else x for x in tensors]
        wanted = 0
        if torch.is_grad_enabled():
            wanted = sum(1 << bit for bit, x in enumerate(tensors) if x.requires_grad)
        return run(self.registered, tensors, layout, wanted)

    def last(self, step: CompiledStep, from_state: list[int]) -> tuple[Tree, Tree]:
        """The outputs of each row's last step, which `step` makes of the state alone, and that state."""
        states, layout = list(self.state_rows), self.layout
        for k, value in zip(step.classes.moving, self._loop(), strict=True):
            states[k] = value
        states = [layout.unsort(x) for x in states]
        env: Env = dict(zip(step.trace.weights, (self.env[n] for n in self.step.trace.weights), strict=True))
        evaluate(step.split.parameters, env, step.trace.batch, 1)
        for node, place in zip(step.split.crossing, from_state, strict=True):
            value = states[step.classes.moving[place]]
            env[node] = value.view(layout.batch, *node.meta["val"].shape[1:])
        evaluate(step.split.after, env, step.trace.batch, layout.batch)
        vs = [env[v] for v in step.trace.outputs]
        if self.request.lengths is not None:
            vs = select(self.request.lengths > 0, tuple(vs), zeros_like(tuple(vs)))
        return rebuild(step.trace.v_like, vs), rebuild(self.request.s0, states)

    def _output(self, v: Any) -> Tensor:
        value = self.env[v]
        depends = self.step.classes.depends[v]
        if depends == Depends.NOTHING:
            value = value.expand(self.layout.rows, *value.shape[1:])
        elif depends == Depends.CONSTANT:
            value = self.layout.spread(value)
        return self.layout.unpack(value, self.request.steps)

    def _slot(self, kind: str, place: int) -> Tensor:
        step, env = self.step, self.env
        if kind in ("seq", "flag"):
            place, column = (place, None) if kind == "seq" else step.outer.flags[place]
            value = env[step.leaves.seqs[place]].to(torch.float32).reshape(self.layout.rows, -1)
            return value if column is None else value[:, column].contiguous()
        if kind == "state":
            return self.state_rows[step.classes.moving[place]]
        if kind == "weight":
            return env[step.leaves.weights[place]]
        if kind == "ids":
            ids = list(dict.fromkeys(node for _, node in step.leaves.tables))
            return env[ids[place]].to(torch.int64).contiguous()
        if kind == "table":
            derived, _ = step.outer.tables[place]
            return self._derived(derived.index, derived.width, -1)
        source, leaf, width = (step.externals.vecs if kind == "vec" else step.externals.rows)[place]
        if source == "leaf":
            value = env[(step.leaves.vecs if kind == "vec" else step.leaves.rows)[leaf]]
            return value.reshape(-1) if kind == "vec" else value.flatten(1)
        return self._derived(leaf, width, 1 if kind == "vec" else self.layout.batch)

    def _derived(self, index: int, width: int, rows: int) -> Tensor:
        """A value of the normalised form, computed by torch; rows = 1 gives a vector."""
        if self.expressions is None:
            self.expressions = self._expressions()
        value = self.expressions.value(index)
        if rows == 1:
            return value.expand(1, width).reshape(width)
        return value.expand(len(value), width).contiguous()

    def _expressions(self) -> Expressions:
        """What torch computes of weights and constants before the loop, all of it together."""
        step, env = self.step, self.env

        def leaf(node: Node) -> Tensor:
            place, column = int(node.attr[0]), int(node.attr[1])
            if node.op == "gather":
                source = env[step.leaves.tables[place][0]]
            elif node.op == "vec":
                source = env[step.leaves.vecs[place]].reshape(1, -1)
            else:
                source = env[step.leaves.rows[place]].flatten(1)
            return source.narrow(-1, column, node.width)

        wanted = [derived.index for derived, _ in step.outer.tables]
        wanted += [
            index for source, index, _ in (*step.externals.vecs, *step.externals.rows) if source != "leaf"
        ]
        return Expressions(step.outer.source, wanted, leaf, lambda place: env[step.leaves.weights[place]])


def _named(cell: nn.Module, name: str) -> Tensor:
    path, _, last = name.rpartition(".")
    module = cell.get_submodule(path)
    found = module._parameters.get(last)
    return found if found is not None else module._buffers[last]  # type: ignore[return-value]
