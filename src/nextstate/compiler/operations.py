"""What each ATen operation is in the intermediate form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import fx

from nextstate.compiler.classify import op_name, shape
from nextstate.compiler.ir import Node

if TYPE_CHECKING:
    from nextstate.compiler.translate import Translator


def _addmm(t: Translator, node: fx.Node) -> int:
    bias, x, matrix = node.args
    if node.kwargs.get("beta", 1) != 1 or node.kwargs.get("alpha", 1) != 1:
        return t.refuse(node, "addmm with beta or alpha")
    return t.build.total([t.aligned(node, bias), t.product(x, matrix, node)], t.width(node))


def _add(t: Translator, node: fx.Node, sign: float = 1.0) -> int:
    a, b = (t.aligned(node, x) for x in node.args[:2])
    alpha = float(node.kwargs.get("alpha", 1)) * sign  # type: ignore[arg-type]
    if alpha == -1.0:
        return t.build.apply("sub", a, b)
    if alpha != 1.0:
        b = t.build.apply("mul", b, t.build.imm(alpha))
    return t.build.total([a, b], t.width(node))


def _rsub(t: Translator, node: fx.Node) -> int:
    a, b = (t.aligned(node, x) for x in node.args[:2])
    return t.build.apply("sub", b, a)


def _slice(t: Translator, node: fx.Node) -> int:
    dim = node.args[1] if len(node.args) > 1 else 0
    start: Any = node.args[2] if len(node.args) > 2 else 0
    step = node.args[4] if len(node.args) > 4 else 1
    source: Any = node.args[0]
    if shape(node) == shape(source):
        return t.value(source)
    if dim not in (1, -1) or step != 1 or len(shape(node)) != 2:
        return t.refuse(node, "only plain slices of features")
    start = start + t.width(source) if start < 0 else start
    return t.build.add(Node("slice", (t.whole(source),), t.width(node), (int(start),)))


def _getitem(t: Translator, node: fx.Node) -> int:
    parent, index = node.args
    assert isinstance(parent, fx.Node)
    name, source = op_name(parent), parent.args[0]
    if name == "native_layer_norm":
        return _layer_norm(t, parent) if index == 0 else t.refuse(node, "statistics of a layer norm")
    if name == "log_sigmoid_forward" and index == 0:
        return _log_sigmoid(t, parent)
    if name not in ("split", "split_with_sizes", "unbind"):
        return t.refuse(node, f"a part of {name}")
    parts = parent.meta["val"]
    start = sum(math.prod(part.shape[1:]) for part in parts[:index])
    return t.build.add(Node("slice", (t.whole(source),), t.width(node), (start,)))


def _select(t: Translator, node: fx.Node) -> int:
    source: Any
    dim: Any
    index: Any
    source, dim, index = node.args
    rank, dims = len(shape(source)), shape(source)
    if dim % rank != 1:
        return t.refuse(node, "only the first feature dimension can be selected from")
    index = index % dims[1]
    return t.build.add(Node("slice", (t.whole(source),), t.width(node), (index * t.width(node),)))


def _cat(t: Translator, node: fx.Node) -> int:
    parts: Any = node.args[0]
    if len(shape(node)) != 2:
        return t.refuse(node, "only features of one dimension can be joined")
    return t.build.add(Node("concat", tuple(t.whole(p) for p in parts), t.width(node)))


def _embedding(t: Translator, node: fx.Node) -> int:
    table, ids = node.args[:2]
    place = t.leaves.place(t.leaves.tables, (table, ids))
    return t.build.leaf("gather", place, 0, t.width(node))


def _where(t: Translator, node: fx.Node) -> int:
    return t.build.apply("where", *(t.aligned(node, x) for x in node.args[:3]))


def _clamp(t: Translator, node: fx.Node) -> int:
    low = node.args[1] if len(node.args) > 1 else node.kwargs.get("min")
    high = node.args[2] if len(node.args) > 2 else node.kwargs.get("max")
    x = t.aligned(node, node.args[0])
    if low is not None:
        x = t.build.apply("max", x, t.aligned(node, low))
    return x if high is None else t.build.apply("min", x, t.aligned(node, high))


def _pow(t: Translator, node: fx.Node) -> int:
    x, exponent = node.args
    special: dict[Any, Callable[[int], int]] = {
        2: lambda a: t.build.apply("mul", a, a),
        3: lambda a: t.build.apply("mul", a, t.build.apply("mul", a, a)),
        0.5: lambda a: t.build.apply("sqrt", a),
        -1: lambda a: t.build.apply("recip", a),
    }
    if not isinstance(exponent, fx.Node) and exponent in special:
        return special[exponent](t.aligned(node, x))
    return t.build.apply("pow", t.aligned(node, x), t.aligned(node, exponent))


def _softplus(t: Translator, node: fx.Node) -> int:
    if (len(node.args) > 1 and node.args[1] != 1) or (len(node.args) > 2 and node.args[2] != 20):
        return t.refuse(node, "softplus with beta or threshold")
    return t.build.apply("softplus", t.aligned(node, node.args[0]))


def _gelu(t: Translator, node: fx.Node) -> int:
    b, x = t.build, t.aligned(node, node.args[0])
    if node.kwargs.get("approximate", "none") == "tanh":
        cube = b.apply("mul", x, b.apply("mul", x, x))
        inner = b.total([x, b.apply("mul", cube, b.imm(0.044715))], b.width(x))
        curve = b.apply("tanh", b.apply("mul", inner, b.imm(math.sqrt(2 / math.pi))))
    else:
        curve = b.apply("erf", b.apply("mul", x, b.imm(math.sqrt(0.5))))
    return b.apply("mul", b.apply("mul", x, b.imm(0.5)), b.total([curve, b.imm(1.0)], b.width(x)))


def _elu(t: Translator, node: fx.Node) -> int:
    b, x = t.build, t.aligned(node, node.args[0])
    alpha, scale, inner = ([*node.args[1:], 1, 1, 1])[:3] if len(node.args) > 1 else (1, 1, 1)
    below = b.apply("min", x, b.imm(0.0))  # e^x of a large x would give 0 times infinity in the gradient
    low = b.apply("mul", b.apply("expm1", b.apply("mul", below, b.imm(inner))), b.imm(alpha))  # type: ignore[arg-type]
    return b.apply("mul", b.apply("where", b.apply("gt", x, b.imm(0)), x, low), b.imm(scale))  # type: ignore[arg-type]


def _leaky_relu(t: Translator, node: fx.Node) -> int:
    b, x = t.build, t.aligned(node, node.args[0])
    slope: Any = node.args[1] if len(node.args) > 1 else 0.01
    return b.apply("where", b.apply("gt", x, b.imm(0)), x, b.apply("mul", x, b.imm(slope)))


def _bounded(t: Translator, x: int, low: int, high: int) -> int:
    """x between two bounds. Unlike that of clamp, its gradient is zero on the bounds themselves."""
    b = t.build
    inside = b.apply("and", b.apply("gt", x, low), b.apply("lt", x, high))
    bound = b.apply("min", b.apply("max", x, low), high)
    return b.apply("where", inside, x, b.add(Node("detach", (bound,), b.width(bound))))


def _hardtanh(t: Translator, node: fx.Node) -> int:
    low, high = [*node.args[1:], -1.0, 1.0][:2] if len(node.args) != 2 else (node.args[1], 1.0)
    return _bounded(t, t.aligned(node, node.args[0]), t.value(low), t.value(high))


def _hardsigmoid(t: Translator, node: fx.Node) -> int:
    b, x = t.build, t.aligned(node, node.args[0])
    inner = _bounded(t, x, b.imm(-3.0), b.imm(3.0))
    return b.total([b.apply("mul", inner, b.imm(1 / 6)), b.imm(0.5)], b.width(x))


def _log_sigmoid(t: Translator, node: fx.Node) -> int:
    b = t.build
    return b.apply("neg", b.apply("softplus", b.apply("neg", t.aligned(node, node.args[0]))))


def _mish(t: Translator, node: fx.Node) -> int:
    b, x = t.build, t.aligned(node, node.args[0])
    return b.apply("mul", x, b.apply("tanh", b.apply("softplus", x)))


def _lerp(t: Translator, node: fx.Node) -> int:
    a, b, weight = (t.aligned(node, x) for x in node.args[:3])
    return t.build.apply("blend", a, b, weight)


def _addcmul(t: Translator, node: fx.Node) -> int:
    a, b, c = (t.aligned(node, x) for x in node.args[:3])
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
        return t.refuse(node, "only reductions over the features of a row")
    x = t.whole(node.args[0])
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
        return t.refuse(node, "layer norm over part of the features")
    centred = _centred(t, t.whole(source), size)
    variance = b.apply("mul", _squares(t, centred), b.imm(1 / size))
    y = b.apply("mul", centred, b.apply("rsqrt", b.total([variance, b.imm(eps)], 1)))  # type: ignore[arg-type]
    if weight is not None:
        y = b.apply("mul", y, t.value(weight))
    return y if bias is None else b.total([y, t.value(bias)], size)


def _softmax(t: Translator, node: fx.Node) -> int:
    b = t.build
    if not _over_features(t, node):
        return t.refuse(node, "only softmax over the features of a row")
    x = t.whole(node.args[0])
    shifted = b.apply("sub", x, b.add(Node("detach", (b.add(Node("rowmax", (x,))),))))
    powers = b.apply("exp", shifted)
    total = b.add(Node("rowsum", (powers,)))
    if op_name(node) == "_log_softmax":
        return b.apply("sub", shifted, b.apply("log", total))
    return b.apply("mul", powers, b.apply("recip", total))


def _norm(t: Translator, node: fx.Node) -> int:
    order = node.args[1] if len(node.args) > 1 else 2
    if order != 2 or not _over_features(t, node, 2):
        return t.refuse(node, "only the Euclidean norm over the features of a row")
    # At zero its gradient is zero, as torch's is, and not that of the square root.
    b, squares = t.build, _squares(t, t.whole(node.args[0]))
    zero = b.apply("eq", squares, b.imm(0.0))
    return b.apply("where", zero, b.imm(0.0), b.apply("sqrt", b.total([squares, zero], 1)))


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
