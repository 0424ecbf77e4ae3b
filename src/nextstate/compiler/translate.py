"""From ATen calls to the intermediate form, for the part of a step that stands inside the loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from nextstate.compiler.classify import Classes, Depends, op_name, shape
from nextstate.compiler.ir import Builder, Node
from nextstate.compiler.trace import Trace, Unsupported, source_line


@dataclass(slots=True)
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
PASS = {"clone", "detach", "alias", "_to_copy", "expand", "view", "_unsafe_view", "reshape", "unsqueeze",
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
        """Products with the input, and sums of them, are the engine's; the rest of the input side is torch's."""
        name = op_name(node)
        if name == "embedding":
            return self.gather and node.args[1] in self.trace.inputs and len(shape(node)) == 2
        if node.op != "call_function" or (name in PASS and name not in ("view", "expand")):
            return node.op == "call_function" and name in ("detach", "alias")
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
            return self._refuse(node, "a value made for each row without depending on one")
        while dims[:1] == (1,) and len(dims) > 1:
            dims = dims[1:]
        return self.build.leaf("vec", Leaves.place(self.leaves.vecs, node), 0, math.prod(dims))

    def _refuse(self, node: fx.Node, why: str) -> int:
        line = source_line(node)
        self.reasons.append(f"{op_name(node)}: {why}" + (f" ({line})" if line else ""))
        return self.build.imm(0.0)

    def _call(self, node: fx.Node) -> int:
        name = op_name(node)
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.dtype not in (torch.float32, torch.bool):
            return self._refuse(node, f"values of {str(value.dtype).removeprefix('torch.')} inside the loop")
        if name in UNARY:
            return self.build.apply(UNARY[name], self._aligned(node, node.args[0]))
        if name in BINARY:
            a, b = (self._aligned(node, x) for x in node.args[:2])
            if name == "div" and node.kwargs.get("rounding_mode"):
                return self._refuse(node, "division with rounding")
            return self.build.apply(BINARY[name], a, b)
        if name in PASS:
            return self._pass(node)
        handler = COMPOSITE.get(name)
        if handler is None:
            return self._refuse(node, "not an operation the engine has")
        return handler(self, node)

    def _pass(self, node: fx.Node) -> int:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        inner = self.value(source)
        if self.width(node) != self.width(source) and self.width(source) != 1:
            return self._refuse(node, f"{shape(source)} to {shape(node)}")
        return inner

    def _aligned(self, node: fx.Node, argument: Any) -> int:
        """An operand of an elementwise call: a number, one of the same features, or one to broadcast."""
        if isinstance(argument, fx.Node):
            wanted, dims = shape(node)[1:], shape(argument)
            row = self.classes.depends[argument] or dims[:1] == (self.trace.batch,)
            dims = dims[1:] if row else dims
            while len(dims) > len(wanted) or (dims[:1] == (1,) and len(dims) > 1 and not row):
                dims = dims[1:]
            if dims != wanted and math.prod(dims) != 1:
                return self._refuse(node, f"broadcasting features {dims} to {wanted}")
        return self.value(argument)

    def product(self, x: Any, matrix: Any, node: fx.Node) -> int:
        """x [B, K] times a matrix [K, N] of parameters."""
        if self.classes.depends[matrix]:
            return self._refuse(node, "a product of two values that both depend on the sequence")
        k, n = shape(matrix)
        transposed = True
        if op_name(matrix) == "t" or (op_name(matrix) == "permute" and list(matrix.args[1]) == [1, 0]):
            matrix, transposed = matrix.args[0], False
        weight = Leaves.place(self.leaves.weights, matrix)
        return self.build.add(Node("matmul", (self.factor(x),), n, (weight, 0, 0, transposed, k)))

    def factor(self, x: Any) -> int:
        """The left side of a product; on the input side a plain sequence, a table row, or such ones joined."""
        if self.classes.depends[x] & Depends.STATE:
            return self.value(x)
        name = op_name(x)
        if name == "cat" and self.classes.depends[x]:
            parts = tuple(self.factor(p) for p in x.args[0])
            return self.build.add(Node("concat", parts, self.width(x)))
        if name == "embedding" and self._linear_in_input(x):
            return self.value(x)
        if self.classes.depends[x] & Depends.INPUT:
            return self.build.leaf("seq", Leaves.place(self.leaves.seqs, x), 0, self.width(x))
        return self.value(x)


def _addmm(t: Translator, node: fx.Node) -> int:
    bias, x, matrix = node.args
    if node.kwargs.get("beta", 1) != 1 or node.kwargs.get("alpha", 1) != 1:
        return t._refuse(node, "addmm with beta or alpha")
    return t.build.total([t._aligned(node, bias), t.product(x, matrix, node)], t.width(node))


def _add(t: Translator, node: fx.Node, sign: float = 1.0) -> int:
    a, b = (t._aligned(node, x) for x in node.args[:2])
    alpha = float(node.kwargs.get("alpha", 1)) * sign  # type: ignore[arg-type]
    if alpha == -1.0:
        return t.build.apply("sub", a, b)
    if alpha != 1.0:
        b = t.build.apply("mul", b, t.build.imm(alpha))
    return t.build.total([a, b], t.width(node))


def _rsub(t: Translator, node: fx.Node) -> int:
    a, b = (t._aligned(node, x) for x in node.args[:2])
    return t.build.apply("sub", b, a)


def _slice(t: Translator, node: fx.Node) -> int:
    dim = node.args[1] if len(node.args) > 1 else 0
    start = node.args[2] if len(node.args) > 2 else 0
    step = node.args[4] if len(node.args) > 4 else 1
    source = node.args[0]
    if shape(node) == shape(source):  # type: ignore[arg-type]
        return t.value(source)
    if dim not in (1, -1) or step != 1 or len(shape(node)) != 2:
        return t._refuse(node, "only plain slices of features")
    start = start + t.width(source) if start < 0 else start  # type: ignore[operator, arg-type]
    return t.build.add(Node("slice", (t.value(source),), t.width(node), (int(start),)))


def _getitem(t: Translator, node: fx.Node) -> int:
    parent, index = node.args
    assert isinstance(parent, fx.Node)
    name, source = op_name(parent), parent.args[0]
    if name == "native_layer_norm":
        return _layer_norm(t, parent) if index == 0 else t._refuse(node, "statistics of a layer norm")
    if name == "log_sigmoid_forward" and index == 0:
        return _log_sigmoid(t, parent)
    if name not in ("split", "split_with_sizes", "unbind"):
        return t._refuse(node, f"a part of {name}")
    parts = parent.meta["val"]
    start = sum(math.prod(part.shape[1:]) for part in parts[:index])
    return t.build.add(Node("slice", (t.value(source),), t.width(node), (start,)))


def _select(t: Translator, node: fx.Node) -> int:
    source, dim, index = node.args
    rank, dims = len(shape(source)), shape(source)  # type: ignore[arg-type]
    if dim % rank != 1:  # type: ignore[operator]
        return t._refuse(node, "only the first feature dimension can be selected from")
    index = index % dims[1]  # type: ignore[operator]
    return t.build.add(Node("slice", (t.value(source),), t.width(node), (index * t.width(node),)))


def _cat(t: Translator, node: fx.Node) -> int:
    parts: Any = node.args[0]
    if len(shape(node)) != 2:
        return t._refuse(node, "only features of one dimension can be joined")
    return t.build.add(Node("concat", tuple(t.value(p) for p in parts), t.width(node)))


def _embedding(t: Translator, node: fx.Node) -> int:
    table, ids = node.args[:2]
    place = Leaves.place(t.leaves.tables, (table, ids))
    return t.build.leaf("gather", place, 0, t.width(node))


def _where(t: Translator, node: fx.Node) -> int:
    return t.build.apply("where", *(t._aligned(node, x) for x in node.args[:3]))


def _clamp(t: Translator, node: fx.Node) -> int:
    low = node.args[1] if len(node.args) > 1 else node.kwargs.get("min")
    high = node.args[2] if len(node.args) > 2 else node.kwargs.get("max")
    x = t._aligned(node, node.args[0])
    if low is not None:
        x = t.build.apply("max", x, t._aligned(node, low))
    return x if high is None else t.build.apply("min", x, t._aligned(node, high))


def _pow(t: Translator, node: fx.Node) -> int:
    x, exponent = node.args
    special: dict[Any, Callable[[int], int]] = {
        2: lambda a: t.build.apply("mul", a, a),
        3: lambda a: t.build.apply("mul", a, t.build.apply("mul", a, a)),
        0.5: lambda a: t.build.apply("sqrt", a),
        -1: lambda a: t.build.apply("recip", a),
    }
    if not isinstance(exponent, fx.Node) and exponent in special:
        return special[exponent](t._aligned(node, x))
    return t.build.apply("pow", t._aligned(node, x), t._aligned(node, exponent))


def _softplus(t: Translator, node: fx.Node) -> int:
    if (len(node.args) > 1 and node.args[1] != 1) or (len(node.args) > 2 and node.args[2] != 20):
        return t._refuse(node, "softplus with beta or threshold")
    return t.build.apply("softplus", t._aligned(node, node.args[0]))


def _gelu(t: Translator, node: fx.Node) -> int:
    b, x = t.build, t._aligned(node, node.args[0])
    if node.kwargs.get("approximate", "none") == "tanh":
        cube = b.apply("mul", x, b.apply("mul", x, x))
        inner = b.total([x, b.apply("mul", cube, b.imm(0.044715))], b.width(x))
        curve = b.apply("tanh", b.apply("mul", inner, b.imm(math.sqrt(2 / math.pi))))
    else:
        curve = b.apply("erf", b.apply("mul", x, b.imm(math.sqrt(0.5))))
    return b.apply("mul", b.apply("mul", x, b.imm(0.5)), b.total([curve, b.imm(1.0)], b.width(x)))


def _elu(t: Translator, node: fx.Node) -> int:
    b, x = t.build, t._aligned(node, node.args[0])
    alpha, scale, inner = ([*node.args[1:], 1, 1, 1])[:3] if len(node.args) > 1 else (1, 1, 1)
    low = b.apply("mul", b.apply("expm1", b.apply("mul", x, b.imm(inner))), b.imm(alpha))  # type: ignore[arg-type]
    return b.apply("mul", b.apply("where", b.apply("gt", x, b.imm(0)), x, low), b.imm(scale))  # type: ignore[arg-type]


def _leaky_relu(t: Translator, node: fx.Node) -> int:
    b, x = t.build, t._aligned(node, node.args[0])
    slope: Any = node.args[1] if len(node.args) > 1 else 0.01
    return b.apply("where", b.apply("gt", x, b.imm(0)), x, b.apply("mul", x, b.imm(slope)))


def _hardtanh(t: Translator, node: fx.Node) -> int:
    low, high = [*node.args[1:], -1.0, 1.0][:2] if len(node.args) != 2 else (node.args[1], 1.0)
    b = t.build
    return b.apply("min", b.apply("max", t._aligned(node, node.args[0]), t.value(low)), t.value(high))


def _hardsigmoid(t: Translator, node: fx.Node) -> int:
    b, x = t.build, t._aligned(node, node.args[0])
    line = b.total([b.apply("mul", x, b.imm(1 / 6)), b.imm(0.5)], b.width(x))
    return b.apply("min", b.apply("max", line, b.imm(0.0)), b.imm(1.0))


def _log_sigmoid(t: Translator, node: fx.Node) -> int:
    b = t.build
    return b.apply("neg", b.apply("softplus", b.apply("neg", t._aligned(node, node.args[0]))))


def _mish(t: Translator, node: fx.Node) -> int:
    b, x = t.build, t._aligned(node, node.args[0])
    return b.apply("mul", x, b.apply("tanh", b.apply("softplus", x)))


def _lerp(t: Translator, node: fx.Node) -> int:
    a, b, weight = (t._aligned(node, x) for x in node.args[:3])
    return t.build.apply("blend", a, b, weight)


def _addcmul(t: Translator, node: fx.Node) -> int:
    a, b, c = (t._aligned(node, x) for x in node.args[:3])
    scale: Any = node.kwargs.get("value", 1)
    product = t.build.apply("mul", t.build.apply("mul", b, c), t.build.imm(scale))
    return t.build.total([a, product], t.width(node))


def _over_features(t: Translator, node: fx.Node, place: int = 1) -> bool:
    """Whether a reduction runs over the one feature dimension."""
    dims: Any = node.args[place] if len(node.args) > place else node.kwargs.get("dim")
    source = node.args[0]
    rank = len(shape(source))  # type: ignore[arg-type]
    dims = dims if isinstance(dims, (list, tuple)) else [dims]
    return rank == 2 and [d % rank for d in dims if d is not None] == [1]


def _reduce(t: Translator, node: fx.Node) -> int:
    name, b = op_name(node), t.build
    if not _over_features(t, node):
        return t._refuse(node, "only reductions over the features of a row")
    x = t.value(node.args[0])
    size = t.width(node.args[0])  # type: ignore[arg-type]
    if name == "amin":
        return b.apply("neg", b.add(Node("rowmax", (b.apply("neg", x),))))
    if name == "amax":
        return b.add(Node("rowmax", (x,)))
    if name == "var":
        correction: Any = node.kwargs.get("correction", 1)
        return b.apply(
            "mul", _squares(t, _centred(t, x, size)), b.imm(1 / max(size - float(correction), 0.5))
        )
    total = b.add(Node("rowsum", (x,)))
    return b.apply("mul", total, b.imm(1 / size)) if name == "mean" else total


def _centred(t: Translator, x: int, size: int) -> int:
    mean = t.build.apply("mul", t.build.add(Node("rowsum", (x,))), t.build.imm(1 / size))
    return t.build.apply("sub", x, mean)


def _squares(t: Translator, x: int) -> int:
    return t.build.add(Node("rowsum", (t.build.apply("mul", x, x),)))


def _layer_norm(t: Translator, node: fx.Node) -> int:
    source, normalised, weight, bias, eps = node.args
    b, size = t.build, t.width(source)  # type: ignore[arg-type]
    if list(normalised) != [size]:  # type: ignore[arg-type]
        return t._refuse(node, "layer norm over part of the features")
    centred = _centred(t, t.value(source), size)
    variance = b.apply("mul", _squares(t, centred), b.imm(1 / size))
    y = b.apply("mul", centred, b.apply("rsqrt", b.total([variance, b.imm(eps)], 1)))  # type: ignore[arg-type]
    if weight is not None:
        y = b.apply("mul", y, t.value(weight))
    return y if bias is None else b.total([y, t.value(bias)], size)


def _softmax(t: Translator, node: fx.Node) -> int:
    b = t.build
    if not _over_features(t, node):
        return t._refuse(node, "only softmax over the features of a row")
    x = t.value(node.args[0])
    shifted = b.apply("sub", x, b.add(Node("detach", (b.add(Node("rowmax", (x,))),))))
    powers = b.apply("exp", shifted)
    total = b.add(Node("rowsum", (powers,)))
    if op_name(node) == "_log_softmax":
        return b.apply("sub", shifted, b.apply("log", total))
    return b.apply("mul", powers, b.apply("recip", total))


def _norm(t: Translator, node: fx.Node) -> int:
    order = node.args[1] if len(node.args) > 1 else 2
    if order != 2 or not _over_features(t, node, 2):
        return t._refuse(node, "only the Euclidean norm over the features of a row")
    return t.build.apply("sqrt", _squares(t, t.value(node.args[0])))


COMPOSITE: dict[str, Callable[[Translator, fx.Node], int]] = {
    "mm": lambda t, n: t.product(n.args[0], n.args[1], n),
    "addmm": _addmm, "add": _add, "sub": lambda t, n: _add(t, n, -1.0), "rsub": _rsub, "slice": _slice,
    "getitem": _getitem, "select": _select, "cat": _cat, "embedding": _embedding, "where": _where,
    "clamp": _clamp, "pow": _pow, "softplus": _softplus, "gelu": _gelu, "elu": _elu,
    "leaky_relu": _leaky_relu, "hardtanh": _hardtanh, "hardsigmoid": _hardsigmoid,
    "mish": _mish, "lerp": _lerp, "addcmul": _addcmul, "sum": _reduce, "mean": _reduce,
    "amax": _reduce, "amin": _reduce, "var": _reduce, "_softmax": _softmax, "_log_softmax": _softmax,
    "linalg_vector_norm": _norm,
}  # fmt: skip


def translate(trace: Trace, classes: Classes, gather: bool) -> tuple[Translator, list[int], list[int]]:
    """The nodes of the loop: next states of the moving components, and the values it hands outside.

    Raises Unsupported with every reason at once.
    """
    t = Translator(trace, classes, gather)
    next_states = [t.value(trace.next_states[k]) for k in classes.moving]
    crossing = [t.value(node) for node in crossings(trace, classes)]
    for k, value in zip(classes.moving, next_states, strict=True):
        like = trace.states[k].meta["val"]
        if like.dtype != torch.float32:
            t.reasons.append(f"a state of {str(like.dtype).removeprefix('torch.')}")
        if like.dim() != 2:
            t.reasons.append(f"a state of shape {('B', *like.shape[1:])}: only [B, features]")
        del value
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
