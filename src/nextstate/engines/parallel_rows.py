"""A traced step on all steps of a sequence at once: what the engines that run in parallel over time share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import is_fake
from torch.autograd import forward_ad

from nextstate.cell import Cell
from nextstate.checks import InputError
from nextstate.compiler.affine import depends_on_rows
from nextstate.compiler.classify import Classes, Depends, classify
from nextstate.compiler.evaluate import Env, evaluate, order
from nextstate.compiler.trace import Trace, Unsupported, trace_step
from nextstate.engines.base import Request
from nextstate.engines.watch import fingerprint
from nextstate.lengths import valid_steps
from nextstate.states import Tree, leaves, rebuild

Found = TypeVar("Found")


class Rows:
    """The steps that belong to a row of the batch, as rows of one large batch, in order of time.

    >>> rows = Rows(2, 2, torch.tensor([2, 1]))
    >>> rows.pack(torch.tensor([[1, 3], [2, 0]])).tolist()
    [1, 3, 2]
    >>> rows.unpack(torch.tensor([1, 3, 2]), fill=7).tolist()
    [[1, 3], [2, 7]]
    """

    def __init__(self, steps: int, batch: int, lengths: Tensor | None) -> None:
        self.steps, self.batch = steps, batch
        self.source = None
        if lengths is not None:
            self.source = valid_steps(lengths, steps).flatten().nonzero().squeeze(1)
        self.count = steps * batch if self.source is None else len(self.source)

    def pack(self, x: Tensor) -> Tensor:
        """[T, B, ...] to [N, ...]."""
        flat = x.flatten(0, 1)
        return flat if self.source is None else flat.index_select(0, self.source)

    def unpack(self, x: Tensor, fill: float = 0.0) -> Tensor:
        """[N, ...] to [T, B, ...], with `fill` after each row's end."""
        if self.source is not None:
            whole = x.new_full((self.steps * self.batch, *x.shape[1:]), fill)
            x = whole.index_copy(0, self.source, x)
        return x.unflatten(0, (self.steps, self.batch))

    def spread(self, s: Tensor) -> Tensor:
        """[B, ...], the same at every step, to [N, ...]."""
        return self.pack(s.expand(self.steps, *s.shape))


class Steps:
    """A traced step with the input of all steps at hand, to be evaluated for states at all steps."""

    def __init__(self, trace: Trace, classes: Classes, request: Request, rows: Rows) -> None:
        self.trace, self.classes, self.rows = trace, classes, rows
        self.by_row = depends_on_rows(trace.module.graph.nodes, trace, classes)
        named = {**dict(request.cell.named_parameters()), **dict(request.cell.named_buffers())}
        self.env: Env = {
            node: named[name] for node, name in zip(trace.weights, trace.parameters, strict=True)
        }
        for node, u in zip(trace.inputs, leaves(request.us), strict=True):
            self.env[node] = rows.pack(u)
        for k, (node, s) in enumerate(zip(trace.states, leaves(request.s0), strict=True)):
            if k in classes.constant:
                self.env[node] = rows.spread(s)
            else:  # its shape alone may be asked for, by `zeros_like`
                self.env[node] = s.new_zeros(()).expand(rows.count, *s.shape[1:])
        self._keep_free_of_state()

    def _keep_free_of_state(self) -> None:
        """Evaluate once what does not depend on the state, of all that a step computes."""
        free = [
            n for n in self._needed([*self.trace.next_states, *self.trace.outputs], self.env) if self._free(n)
        ]
        env = self._with(self.env, free)
        self.env = {node: x for node, x in env.items() if self._free(node) or node in self.env}

    def _free(self, node: fx.Node) -> bool:
        return not self.classes.depends[node] & Depends.STATE

    def _needed(self, wanted: Iterable[Any], env: Env) -> tuple[fx.Node, ...]:
        return order(wanted, env)

    def _with(self, env: Env, wanted: Iterable[Any]) -> Env:
        env = dict(env)
        for node in self._needed(wanted, env):
            evaluate((node,), env, self.trace.batch, self.rows.count if self.by_row[node] else 1)
        return env

    def values(self, wanted: list[Any], states: dict[int, Tensor], known: Env | None = None) -> list[Any]:
        """Values of nodes, given the components of the state [N, ...] before each step; numbers stay."""
        given = {self.trace.states[k]: x for k, x in states.items()}
        env = self._with({**self.env, **given, **(known or {})}, wanted)
        return [env[w] if isinstance(w, fx.Node) else w for w in wanted]

    def outputs(self, states: dict[int, Tensor], known: Env) -> Tree:
        """The outputs [T, B, ...] of all steps; each a tensor of its own."""
        trace, rows = self.trace, self.rows
        found = [
            x.expand(rows.count, *x.shape[1:]) if not self.by_row[node] else x
            for node, x in zip(trace.outputs, self.values([*trace.outputs], states, known), strict=True)
        ]
        entry = {*trace.weights, *trace.inputs, *trace.states}
        own = [
            rows.unpack(x.clone() if node in entry or node in trace.outputs[:k] or x._is_view() else x)
            for k, (node, x) in enumerate(zip(trace.outputs, found, strict=True))
        ]
        return rebuild(trace.v_like, own)


@dataclass(frozen=True, slots=True)
class Known(Generic[Found]):
    """What is known of one cell: by what its step was specialised on, what was made of it, or why not."""

    found: dict[Any, Found | Unsupported]


class Traces(Generic[Found]):
    """Steps traced once for each kind of input, and what `make` made of them."""

    def __init__(self, make: Callable[[Trace, Classes], Found]) -> None:
        self.make = make
        self.known: WeakKeyDictionary[Cell, Known[Found]] = WeakKeyDictionary()
        self.lock = threading.RLock()

    def of(self, request: Request) -> Found | Unsupported:
        with self.lock:
            cell = request.cell
            record = self.known.setdefault(cell, Known({}))
            weights = tuple((p.dtype, p.device, p.shape) for p in (*cell.parameters(), *cell.buffers()))
            key = (fingerprint([*cell.modules()]), weights, _kinds(request.us, 2), _kinds(request.s0, 1))
            if key not in record.found:
                record.found[key] = self._make(request)
            return record.found[key]

    def _make(self, request: Request) -> Found | Unsupported:
        try:
            trace = trace_step(request.cell, _example(request.us, 2), _example(request.s0, 1))
            return self.make(trace, classify(trace))
        except Unsupported as refused:
            refused.__traceback__ = None
            return refused


def unfit(request: Request) -> str | None:
    """Why no engine that works on a traced step tries this request, if so."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "a torch.func transform is active"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation is active"
    for module in request.cell.modules():
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{type(module).__name__} has hooks, which must run at every step"
    if torch.compiler.is_compiling() or any(is_fake(x) for x in (*leaves(request.us), *leaves(request.s0))):
        return "torch.compile traces it"
    return None


def why_not(refused: Unsupported) -> str:
    wrong = isinstance(refused.__cause__, InputError)
    return "its step cannot be traced: " + str(refused) if wrong else "; ".join(refused.reasons)


def _kinds(tree: Tree, skip: int) -> Any:
    if isinstance(tree, Tensor):
        return tree.dtype, tree.device, tuple(tree.shape[skip:])
    return type(tree), *(_kinds(part, skip) for part in tree)


def _example(tree: Tree, skip: int) -> Tree:
    return rebuild(tree, [x.new_zeros((1, *x.shape[skip:])) for x in leaves(tree)])
