"""What every value of a traced step depends on, and hence where it can be computed.

A value that depends on parameters alone is computed once a call; one that depends on constants of the
sequence too, once a sequence; one that depends on the input but not on the state, for all steps at once
before the loop; one that depends on the state but feeds no next state, for all steps at once after it.
Only the rest has to stand inside the loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import Any

import torch
from torch import fx

from nextstate.compiler.trace import Trace, Unsupported, source_line


class Depends(IntFlag):
    NOTHING = 0
    CONSTANT = 1
    INPUT = 2
    STATE = 4


@dataclass(frozen=True, slots=True)
class Classes:
    """Dependence of every node, the state components that change, and the nodes of the loop itself."""

    depends: dict[fx.Node, Depends]
    moving: tuple[int, ...]
    constant: tuple[int, ...]
    inside: frozenset[fx.Node]


RANDOM = {"rand_like", "randn_like", "bernoulli", "rand", "randn", "native_dropout", "normal_functional"}


def classify(trace: Trace) -> Classes:
    moving = tuple(k for k, s in enumerate(trace.states) if trace.next_states[k] is not s)
    constant = tuple(k for k in range(len(trace.states)) if k not in moving)
    depends: dict[fx.Node, Depends] = {}
    for k, node in enumerate(trace.states):
        depends[node] = Depends.STATE if k in moving else Depends.CONSTANT
    for node in trace.inputs:
        depends[node] = Depends.INPUT
    for node in trace.module.graph.nodes:
        if node.op == "output" or node in depends:
            continue
        depends[node] = _dependence(node, depends)
    inside: set[fx.Node] = set()
    pending = [trace.next_states[k] for k in moving if isinstance(trace.next_states[k], fx.Node)]
    while pending:
        node = pending.pop()
        if node in inside or not depends[node] & Depends.STATE:
            continue
        inside.add(node)
        pending.extend(node.all_input_nodes)
    return Classes(depends, moving, constant, frozenset(inside))


def _dependence(node: fx.Node, depends: dict[fx.Node, Depends]) -> Depends:
    joined = Depends.NOTHING
    for argument in node.all_input_nodes:
        joined |= depends[argument]
    name = op_name(node)
    if name in RANDOM:
        # Fresh numbers at every step. `*_like` reads only the shape of its argument.
        return Depends.INPUT | (joined if not name.endswith("_like") else Depends.NOTHING)
    if name in ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "empty_like"):
        return Depends.NOTHING
    return joined


def op_name(node: fx.Node) -> str:
    """'add' for aten.add.Tensor; 'getitem' for tuple access; the Python op otherwise."""
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.partition("::")[2]
    return getattr(target, "__name__", str(target))


def shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


ROWWISE = {
    "mm", "addmm", "embedding", "cat", "slice", "select", "split", "split_with_sizes", "unbind", "getitem",
    "view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "expand", "sum", "mean", "amax", "amin", "max",
    "var", "native_layer_norm", "_softmax", "_log_softmax", "logsumexp", "linalg_vector_norm", "one_hot",
    "clone", "detach", "alias", "_to_copy", "argmax", "scatter", "index_select", "gather", "arange", "stack",
    "zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full",
    "rand_like", "randn_like", "bernoulli", "rand", "randn", "lift_fresh_copy", "scalar_tensor", "cumsum",
    "native_dropout", "constant_pad_nd", "topk", "sort", "flip", "t", "transpose", "permute", "prod", "any",
    "all", "log_sigmoid_forward", "scatter_add", "index_put", "glu", "repeat",
}  # fmt: skip


def check_rowwise(trace: Trace, classes: Classes) -> None:
    """Refuse a step in which rows may influence each other: it could not be run on other rows at once.

    Every value that depends on the batch must keep the batch as its first dimension.
    """
    reasons = []
    for node in trace.module.graph.nodes:
        if node.op != "call_function":
            continue
        if not (classes.depends[node] or trace.batch in shape(node) or trace.batch in node.args):
            continue
        problem = _row_problem(node, trace.batch, classes)
        if problem:
            reasons.append(f"{op_name(node)} ({problem}) at {source_line(node) or 'unknown line'}")
    if reasons:
        raise Unsupported(reasons)


def _row_problem(node: fx.Node, batch: int, classes: Classes) -> str | None:
    target: Any = node.target
    name = op_name(node)
    pointwise = isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags
    if not pointwise and name not in ROWWISE:
        return "not known to treat rows alone"
    if (pointwise or name in ("arange", "full", "scalar_tensor")) and any(
        type(a) is int and a == batch for a in node.args
    ):
        return "the size of the batch as a number"
    values = node.meta.get("val")
    for value in values if isinstance(values, (tuple, list)) else (values,):
        if isinstance(value, torch.Tensor) and (
            value.dim() == 0 or value.shape[0] != batch or batch in value.shape[1:]
        ):
            if name in ("native_layer_norm", "native_dropout", "log_sigmoid_forward"):
                continue
            return f"its result {tuple(value.shape)} does not keep the batch as its first dimension"
    if name == "embedding" and len(node.args) > 3 and node.args[3]:
        return "gradients scaled by how often an id stands in the batch"
    rank = len(shape(node))
    for argument in node.all_input_nodes:
        dims = shape(argument)
        rowlike = classes.depends[argument] != Depends.NOTHING or batch in dims
        if pointwise and dims and rowlike and len(dims) != rank:
            return f"broadcasting {dims} against {shape(node)} would align the batch with a feature"
    if name in ("mm", "addmm"):
        matrix = node.args[-1]
        if isinstance(matrix, fx.Node) and classes.depends[matrix]:
            return "a product of two values that both depend on the sequence"
    return _dimension_problem(name, node)


def _dimension_problem(name: str, node: fx.Node) -> str | None:
    """Operations along a dimension must leave the batch dimension alone."""
    positions = {"cat": 1, "slice": 1, "select": 1, "split": 2, "split_with_sizes": 2, "unbind": 1, "sum": 1,
                 "mean": 1, "amax": 1, "amin": 1, "max": 1, "var": 1, "_softmax": 1, "_log_softmax": 1,
                 "logsumexp": 1, "linalg_vector_norm": 2, "argmax": 1, "stack": 1, "cumsum": 1, "topk": 2,
                 "sort": 1, "flip": 1, "gather": 1, "scatter": 1, "scatter_add": 1, "glu": 1, "prod": 1,
                 "any": 1, "all": 1, "unsqueeze": 1}  # fmt: skip
    if name in ("t", "transpose", "permute"):
        return None if shape(node)[:1] == shape(node.all_input_nodes[0])[:1] else "moves the batch"
    if name not in positions:
        return None
    place = positions[name]
    default: Any = -1 if name in ("topk", "sort", "glu") else 0 if name in ("cat", "stack") else None
    dims = node.args[place] if len(node.args) > place else node.kwargs.get("dim", default)
    if name in ("split", "split_with_sizes", "unbind") and dims is None:
        dims = 0
    if dims is None:
        return "works over every dimension, the batch included"
    rank = max(len(shape(argument)) for argument in node.all_input_nodes)
    if name in ("unsqueeze", "stack"):
        rank += 1
    dims = dims if isinstance(dims, (list, tuple)) else [dims]
    if name == "slice" and dims == [0] and len(node.args) > 3 and node.args[2] == 0:
        return None if shape(node) == shape(node.all_input_nodes[0]) else "cuts the batch"
    if not dims or any(d % rank == 0 for d in dims if isinstance(d, int)):
        return "works along the batch"
    return None
