"""A whole step as one graph of the compiler's intermediate form: what every export is written from."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from nextstate.cell import tensors_of
from nextstate.checks import InputError, describe, refuse
from nextstate.compiler.classify import Classes, Depends, check_rowwise, classify, op_name, shape
from nextstate.compiler.evaluate import Env, evaluate, order
from nextstate.compiler.hoist import pruned
from nextstate.compiler.ir import Builder
from nextstate.compiler.trace import Trace, Unsupported, trace_step
from nextstate.compiler.translate import PASS, Translator
from nextstate.states import Tree

STATE = Depends.STATE


@dataclass(frozen=True, slots=True)
class StepGraph:
    """One step, rows of features in and out, with the numbers of its parameters.

    The leaves of `build` are `seq` (k of the input's tensors), `state` (k of the state's), `vec` (k of
    `vecs`), `gather` (k of `tables`, whose row is chosen by an id) and `imm`. A product's `weight` is one of
    `weights`. `outputs` and `next_states` are nodes, one for each tensor; `tables` are (matrix, which tensor
    of the input holds the id).
    """

    build: Builder
    outputs: tuple[int, ...]
    next_states: tuple[int, ...]
    weights: tuple[Tensor, ...]
    vecs: tuple[Tensor, ...]
    tables: tuple[tuple[Tensor, int], ...]
    state_widths: tuple[int, ...]
    v_like: Tree

    def constant(self, k: int) -> bool:
        """Whether the step hands on tensor k of the state unchanged."""
        node = self.build[self.next_states[k]]
        return node.op == "state" and node.attr == (k, 0) and node.width == self.state_widths[k]


def frozen(operation: str, module: nn.Module) -> nn.Module:
    """A copy in eval mode on the CPU, whose numbers must be float32."""
    tensors = tuple(tensors_of(module))
    for x in tensors:
        if x.is_meta:
            refuse(operation, f"a parameter is {describe(x)} on meta and has no numbers: load some first")
        if x.is_floating_point() and x.dtype is not torch.float32:
            refuse(operation, f"a parameter is {describe(x)}; the file holds float32: export module.float()")
    return copy.deepcopy(module, {id(x): x.detach().cpu().clone() for x in tensors}).eval()


def step_graph(operation: str, cell: nn.Module, u: Tree, s: Tree) -> StepGraph:
    """step_graph : (cell, u, s) -> StepGraph, for examples of one step's input and state, [B, ...] each.

    Raises InputError with every reason at once if the step cannot be traced or holds an operation without
    an equivalent.
    """
    try:
        trace = trace_step(cell, u, s)
        check_rowwise(trace, classify(trace))
        return _translated(cell, trace)
    except Unsupported as unsupported:
        if isinstance(unsupported.__cause__, InputError):
            raise unsupported.__cause__ from None
        refuse(operation, f"{type(cell).__name__} has no such form: " + "; ".join(unsupported.reasons))


def _whole(trace: Trace) -> Classes:
    """Everything that is made of an input or of a state belongs to the graph; parameters are numbers."""
    found: dict[fx.Node, Depends] = dict.fromkeys(trace.inputs, Depends.INPUT)
    found |= dict.fromkeys(trace.states, STATE)
    known = classify(trace).depends
    for node in trace.module.graph.nodes:
        if node.op != "output" and node not in found:
            found[node] = STATE if known[node] else Depends.NOTHING
    every = tuple(range(len(trace.states)))
    return Classes(found, every, (), frozenset(n for n, kind in found.items() if kind is STATE))


def _translated(cell: nn.Module, trace: Trace) -> StepGraph:
    t = Translator(trace, _whole(trace), gather=True)
    roots = [t.whole(node) for node in (*trace.outputs, *trace.next_states)]
    reasons = [
        f"a state of {str(node.meta['val'].dtype).removeprefix('torch.')}"
        for node in trace.states
        if node.meta["val"].dtype != torch.float32
    ]
    if t.reasons or reasons:
        raise Unsupported(list(dict.fromkeys([*t.reasons, *reasons])))
    build, roots = pruned(t.build, roots)
    inputs = {node: k for k, node in enumerate(trace.inputs)}
    # A leaf of the translator is a node of the trace; here an input is known by its place in the tree.
    build.nodes = [
        replace(n, attr=(inputs[t.leaves.seqs[int(n.attr[0])]], *n.attr[1:])) if n.op == "seq" else n
        for n in build.nodes
    ]
    tables = [(table, _id_of(ids, inputs)) for table, ids in t.leaves.tables]
    values = _values(cell, trace, [*t.leaves.weights, *t.leaves.vecs, *(table for table, _ in tables)])
    count = len(trace.outputs)
    return StepGraph(
        build,
        tuple(roots[:count]),
        tuple(roots[count:]),
        tuple(values[node] for node in t.leaves.weights),
        tuple(values[node].reshape(-1) for node in t.leaves.vecs),
        tuple((values[table].flatten(1), ids) for table, ids in tables),
        tuple(math.prod(shape(node)[1:]) for node in trace.states),
        trace.v_like,
    )


def _id_of(node: Any, inputs: dict[fx.Node, int]) -> int:
    while node not in inputs and op_name(node) in PASS and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    if node not in inputs:
        raise Unsupported([f"ids that are computed ({op_name(node)}) before they are looked up"])
    return inputs[node]


def _values(cell: nn.Module, trace: Trace, wanted: list[fx.Node]) -> Env:
    """What the step computes of its parameters alone."""
    named = {**dict(cell.named_parameters()), **dict(cell.named_buffers())}
    env: Env = {
        node: named[name].detach() for node, name in zip(trace.weights, trace.parameters, strict=True)
    }
    with torch.no_grad():
        evaluate(order(wanted, trace.weights), env, trace.batch, 1)
    return env
