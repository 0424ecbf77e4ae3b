"""Trace one step of a cell to a graph of ATen calls, with fake tensors: nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from nextstate.compiler.rewrite import rewrite
from nextstate.states import Tree, leaves, rebuild


class Unsupported(Exception):
    """A step that cannot be compiled. `reasons` lists every cause found, with its source line."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


@dataclass(frozen=True, slots=True)
class Trace:
    """The ATen graph of one step for a batch of `batch` rows (a number that occurs nowhere else).

    The inputs are, in order, the parameters named in `parameters`, the tensors of u and those of s; the
    outputs are the tensors of v and those of s'.
    """

    module: fx.GraphModule
    batch: int
    parameters: tuple[str, ...]
    inputs: tuple[fx.Node, ...]
    states: tuple[fx.Node, ...]
    weights: tuple[fx.Node, ...]
    outputs: tuple[Any, ...]
    next_states: tuple[Any, ...]
    v_like: Tree


BATCHES = (1009, 1013, 1019, 1021)
"""Primes to choose the traced batch size from, so that a dimension of that size is the batch."""


def trace_step(cell: nn.Module, u: Tree, s: Tree) -> Trace:
    """trace_step : (cell, u, s) -> Trace, where u and s are examples of one step's input and state.

    The step is traced for two batch sizes: a step whose graph depends on the batch size in any other way
    than through shapes is refused. Raises Unsupported if Python cannot run the step on fake tensors.
    """
    named = {**dict(cell.named_parameters()), **dict(cell.named_buffers())}
    taken = {size for x in (*named.values(), *leaves(u), *leaves(s)) for size in x.shape[1:]}
    taken |= {size for x in named.values() for size in x.shape}
    batch, other = [b for b in BATCHES if b not in taken][:2]
    try:
        graph, v_like = _trace(cell, named, u, s, batch)
        in_place = bool(_changes(graph))
        if in_place:
            graph, v_like = _trace(cell, named, u, s, batch, in_place)
        again, _ = _trace(cell, named, u, s, other, in_place, lines=False)
    except Exception as error:  # whatever Python the step is made of: the reason is kept and shown
        raise Unsupported([f"tracing it raised {type(error).__name__}: {error}"]) from error
    if changes := _changes(graph):
        raise Unsupported([f"the step changes a tensor in place ({source_line(n) or n})" for n in changes])
    if _text(graph, batch) != _text(again, other):
        raise Unsupported(["the step depends on the batch size"])
    nodes = [n for n in graph.graph.nodes if n.op == "placeholder"]
    count_u = len(leaves(u))
    weights, rest = nodes[: len(named)], nodes[len(named) :]
    (results,) = next(n for n in graph.graph.nodes if n.op == "output").args
    count_v = len(leaves(v_like))
    return Trace(
        graph,
        batch,
        tuple(named),
        tuple(rest[:count_u]),
        tuple(rest[count_u:]),
        tuple(weights),
        tuple(results[:count_v]),
        tuple(results[count_v:]),
        v_like,
    )


def _trace(
    cell: nn.Module,
    named: dict[str, Tensor],
    u: Tree,
    s: Tree,
    batch: int,
    in_place: bool = False,
    lines: bool = True,
) -> tuple[fx.GraphModule, Tree]:
    """`in_place`: changes of temporary tensors are traced as new ones. `lines`: nodes know their source."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    shown: list[Tree] = []
    places = _places(cell, named)

    def step(weights: list[Tensor], u_leaves: list[Tensor], s_leaves: list[Tensor]) -> list[Tensor]:
        v, s_next = functional_call(
            cell,
            {name: weights[k] for name, k in places.items()},
            (rebuild(u, u_leaves), rebuild(s, s_leaves)),
            tie_weights=False,
        )
        shown.append(v)
        return [*leaves(v), *leaves(s_next)]

    def fake(x: Tensor) -> Tensor:
        return torch.empty((batch, *x.shape[1:]), dtype=x.dtype, device=x.device)

    with mode, torch.no_grad(), torch.autocast("cpu", enabled=False):
        arguments = (
            [torch.empty(p.shape, dtype=p.dtype, device=p.device) for p in named.values()],
            [fake(x) for x in leaves(u)],
            [fake(x) for x in leaves(s)],
        )
        tracer: Callable[..., fx.GraphModule] = make_fx(
            functionalize(step, remove="mutations") if in_place else step,
            tracing_mode="real",
            _allow_non_fake_inputs=True,
            record_stack_traces=lines,
        )
        graph = tracer(*arguments)
        v_like = shown[-1]
    rewrite(graph.graph, batch)
    return graph, v_like


def _changes(graph: fx.GraphModule) -> list[fx.Node]:
    """The calls that write to one of their arguments."""
    calls = [n for n in graph.graph.nodes if isinstance(n.target, torch._ops.OpOverload)]
    return [n for n in calls if n.target._schema.is_mutable]


def _places(cell: nn.Module, named: dict[str, Tensor]) -> dict[str, int]:
    """Every attribute that holds a weight, named once, and which of `named` it holds.

    A weight may stand in two modules, and a module in two places: exchanging an attribute under two names
    would give back the exchanged value.
    """
    index = {id(x): k for k, x in enumerate(named.values())}
    return {
        f"{path}.{name}".lstrip("."): index[id(x)]
        for path, module in cell.named_modules()
        for name, x in (*module._parameters.items(), *module._buffers.items())
        if x is not None
    }


def _text(graph: fx.GraphModule, batch: int) -> list[str]:
    """The calls of a graph with the batch size made anonymous."""

    def plain(value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool) and value == batch:
            return "B"
        return value

    return [
        f"{n.name} {n.target} {fx.node.map_aggregate((n.args, n.kwargs), plain)}" for n in graph.graph.nodes
    ]


def source_line(node: fx.Node) -> str:
    """The user's line that made a node: 'file.py:12: code', or '' if it is not known."""
    trace = node.meta.get("stack_trace") or ""
    frames = [part.strip() for part in trace.split("File ") if part.strip()]
    for frame in reversed(frames):
        head, _, code = frame.partition("\n")
        if "/torch/" in head or "nextstate/compiler/" in head:
            continue
        path, _, rest = head.partition('", line ')
        line = rest.split(",")[0]
        return (
            f"{path.strip(chr(34)).rsplit('/', 1)[-1]}:{line}: {code.strip().splitlines()[0] if code else ''}"
        )
    return ""
