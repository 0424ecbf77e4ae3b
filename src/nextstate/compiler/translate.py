"""From ATen calls to the intermediate form, for the part of a step that stands inside the loop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from nextstate.compiler.classify import Classes, Depends, op_name, shape
from nextstate.compiler.ir import Builder, Node
from nextstate.compiler.operations import COMPOSITE
from nextstate.compiler.trace import Trace, Unsupported, source_line


@dataclass(frozen=True, slots=True)
class Leaves:
    """The values that enter the loop from outside, as nodes of the trace; a leaf is named by its place."""

    seqs: list[fx.Node] = field(default_factory=list)
    rows: list[fx.Node] = field(default_factory=list)
    vecs: list[fx.Node] = field(default_factory=list)
    weights: list[fx.Node] = field(default_factory=list)
    tables: list[tuple[fx.Node, fx.Node]] = field(default_factory=list)

    @staticmethod
    def place(where: list[Any], value: Any) -> int:
        if value not in where:
            where.append(value)
        return where.index(value)


UNARY = {
    "neg": "neg", "reciprocal": "recip", "abs": "abs", "sign": "sign", "sgn": "sign", "sqrt": "sqrt",
    "rsqrt": "rsqrt", "exp": "exp", "expm1": "expm1", "log": "log", "log1p": "log1p", "tanh": "tanh",
    "sigmoid": "sigmoid", "silu": "silu", "relu": "relu", "erf": "erf", "sin": "sin", "cos": "cos",
    "floor": "floor", "logical_not": "not", "bitwise_not": "not",
}  # fmt: skip
BINARY = {
    "mul": "mul", "div": "div", "maximum": "max", "minimum": "min", "gt": "gt", "ge": "ge", "lt": "lt",
    "le": "le", "eq": "eq", "ne": "ne", "logical_and": "and", "logical_or": "or", "bitwise_and": "and",
    "bitwise_or": "or", "clamp_min": "max", "clamp_max": "min",
}  # fmt: skip
PASS = {"clone", "alias", "_to_copy", "expand", "view", "_unsafe_view", "reshape", "unsqueeze",
        "squeeze", "lift_fresh_copy"}  # fmt: skip
LINEAR = {"mm", "addmm", "add", "slice", "split", "split_with_sizes", "getitem", "cat", "embedding", "select"}


class Translator:
    """Builds the nodes of the loop on demand; every operation it does not know is collected as a reason."""

    def __init__(self, trace: Trace, classes: Classes, gather: bool) -> None:
        self.trace, self.classes, self.gather = trace, classes, gather
        self.build, self.leaves = Builder(), Leaves()
        self.done: dict[fx.Node, int] = {}
        self.reasons: list[str] = []
        self.state_leaf = {trace.states[k]: place for place, k in enumerate(classes.moving)}

    def value(self, node: Any) -> int:
        """The intermediate value of an argument: a node of the trace, or a number."""
        if not isinstance(node, fx.Node):
            return self.build.imm(float(node))
        if node not in self.done:
            self.done[node] = self._translate(node)
        return self.done[node]

    def whole(self, node: Any) -> int:
        """The value with all its features, for what is not elementwise: a number spread over them is one."""
        value, width = self.value(node), self.width(node)
        return value if self.build.width(value) == width else self.build.add(Node("mov", (value,), width))

    def width(self, node: fx.Node) -> int:
        dims = shape(node)
        row = self.classes.depends[node] or dims[:1] == (self.trace.batch,)
        return math.prod(dims[1:] if row else dims)

    def _translate(self, node: fx.Node) -> int:
        depends = self.classes.depends[node]
        if depends == Depends.NOTHING:
            return self._parameter(node)
        width = self.width(node)
        if depends == Depends.CONSTANT:
            if op_name(node) == "cat":
                return self._call(node)
            return self.build.leaf("row", Leaves.place(self.leaves.rows, node), 0, width)
        if not depends & Depends.STATE and not self._linear_in_input(node):
            return self.build.leaf("seq", Leaves.place(self.leaves.seqs, node), 0, width)
        if node in self.state_leaf:
            return self.build.leaf("state", self.state_leaf[node], 0, width)
        return self._call(node)

    def _linear_in_input(self, node: fx.Node) -> bool:
        """Products with the input and their sums are the engine's; all else before the loop is torch's."""
        name = op_name(node)
        if name == "embedding":
            plain = len(node.args) == 2 or node.args[2:] == (-1,)  # every look-up gives its row a gradient
            return self.gather and plain and node.args[1] in self.trace.inputs and len(shape(node)) == 2
        if node.op != "call_function" or (name in PASS and name not in ("view", "expand")):
            return node.op == "call_function" and name == "alias"
        value = node.meta["val"]
        floating = not isinstance(value, torch.Tensor) or value.dtype == torch.float32
        return name in LINEAR and len(shape(node)) <= 2 and floating

    def _parameter(self, node: fx.Node) -> int:
        name = op_name(node)
        if name in ("zeros", "zeros_like", "new_zeros"):
            return self.build.imm(0.0)
        if name in ("ones", "ones_like", "new_ones"):
            return self.build.imm(1.0)
        if name in ("full", "full_like", "new_full", "scalar_tensor"):
            fill = node.args[0] if name == "scalar_tensor" else node.args[2 if name == "new_full" else 1]
            if isinstance(fill, (int, float)):
                return self.build.imm(float(fill))
        dims = shape(node)
        if self.trace.batch in dims:
            # The same for every row: made of parameters, then spread over the batch.
            if name in ("expand", "repeat") and isinstance(node.args[0], fx.Node):
                return self.value(node.args[0])
            if name in UNARY or name in BINARY or name in COMPOSITE:
                return self._call(node)
            return self.refuse(node, "a value made for each row without depending on one")
        while dims[:1] == (1,) and len(dims) > 1:
            dims = dims[1:]
        return self.build.leaf("vec", Leaves.place(self.leaves.vecs, node), 0, math.prod(dims))

    def refuse(self, node: fx.Node, why: str) -> int:
        line = source_line(node)
        self.reasons.append(f"{op_name(node)}: {why}" + (f" ({line})" if line else ""))
        return self.build.imm(0.0)

    def _call(self, node: fx.Node) -> int:
        name = op_name(node)
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.dtype not in (torch.float32, torch.bool):
            return self.refuse(node, f"values of {str(value.dtype).removeprefix('torch.')} inside the loop")
        if name in UNARY:
            return self.build.apply(UNARY[name], self.aligned(node, node.args[0]))
        if name in BINARY:
            a, b = (self.aligned(node, x) for x in node.args[:2])
            if name == "div" and node.kwargs.get("rounding_mode"):
                return self.refuse(node, "division with rounding")
            return self.build.apply(BINARY[name], a, b)
        if name == "detach":
            x = self.aligned(node, node.args[0])
            return self.build.add(Node("detach", (x,), self.build.width(x)))
        if name in PASS:
            return self._pass(node)
        handler = COMPOSITE.get(name)
        if handler is None:
            return self.refuse(node, "not an operation the engine has")
        return handler(self, node)

    def _pass(self, node: fx.Node) -> int:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        inner = self.value(source)
        if self.width(node) != self.width(source) and self.width(source) != 1:
            return self.refuse(node, f"{shape(source)} to {shape(node)}")
        return inner

    def aligned(self, node: fx.Node, argument: Any) -> int:
        """An operand of an elementwise call: a number, one of the same features, or one to broadcast."""
        if isinstance(argument, fx.Node):
            wanted, dims = shape(node)[1:], shape(argument)
            row = self.classes.depends[argument] or dims[:1] == (self.trace.batch,)
            dims = dims[1:] if row else dims
            while len(dims) > len(wanted) or (dims[:1] == (1,) and len(dims) > 1 and not row):
                dims = dims[1:]
            if dims != wanted and math.prod(dims) != 1:
                return self.refuse(node, f"broadcasting features {dims} to {wanted}")
        return self.value(argument)

    def product(self, x: Any, matrix: Any, node: fx.Node) -> int:
        """x [B, K] times a matrix [K, N] of parameters."""
        if self.classes.depends[matrix]:
            return self.refuse(node, "a product of two values that both depend on the sequence")
        k, n = shape(matrix)
        transposed = True
        if op_name(matrix) == "t" or (op_name(matrix) == "permute" and list(matrix.args[1]) == [1, 0]):
            matrix, transposed = matrix.args[0], False
        weight = Leaves.place(self.leaves.weights, matrix)
        return self.build.add(Node("matmul", (self.factor(x),), n, (weight, 0, 0, transposed, k)))

    def factor(self, x: Any) -> int:
        """The left side of a product; before the loop a plain sequence, a table row, or such ones joined."""
        if self.classes.depends[x] & Depends.STATE:
            return self.whole(x)
        name = op_name(x)
        if name == "cat" and self.classes.depends[x]:
            parts = tuple(self.factor(p) for p in x.args[0])
            return self.build.add(Node("concat", parts, self.width(x)))
        if name == "embedding" and self._linear_in_input(x):
            return self.value(x)
        if self.classes.depends[x] & Depends.INPUT:
            return self.build.leaf("seq", Leaves.place(self.leaves.seqs, x), 0, self.width(x))
        return self.whole(x)


def translate(trace: Trace, classes: Classes, gather: bool) -> tuple[Translator, list[int], list[int]]:
    """The nodes of the loop: next states of the moving components, and the values it hands outside.

    Raises Unsupported with every reason at once.
    """
    t = Translator(trace, classes, gather)
    next_states = [t.whole(trace.next_states[k]) for k in classes.moving]
    crossing = [t.whole(node) for node in crossings(trace, classes)]
    for k in classes.moving:
        like = trace.states[k].meta["val"]
        if like.dtype != torch.float32:
            t.reasons.append(f"a state of {str(like.dtype).removeprefix('torch.')}")
        if like.dim() != 2:
            t.reasons.append(f"a state of shape {('B', *like.shape[1:])}: only [B, features]")
    if t.reasons:
        raise Unsupported(list(dict.fromkeys(t.reasons)))
    return t, next_states, crossing


def crossings(trace: Trace, classes: Classes) -> list[fx.Node]:
    """Values of the loop that something after it reads, in order."""
    found: dict[fx.Node, None] = {}
    loop = classes.inside | {trace.states[k] for k in classes.moving}
    for node in trace.module.graph.nodes:
        if node.op == "output" or node in loop or not classes.depends[node] & Depends.STATE:
            continue
        for argument in node.all_input_nodes:
            if argument in loop:
                # A tuple (the result of split) is taken apart after the loop, from what it was made of.
                single = isinstance(argument.meta.get("val"), torch.Tensor)
                found.update(dict.fromkeys([argument] if single else argument.all_input_nodes))
    for output in trace.outputs:
        if output in loop:
            found[output] = None
    return list(found)
