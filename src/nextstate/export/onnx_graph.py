"""An ONNX graph while it is written: nodes, numbers, and the intermediate form's operations in ONNX's."""

from __future__ import annotations

from typing import Any

import numpy as np

from nextstate.compiler.ir import Node

OPSET, IR_VERSION = 17, 8


class Graph:
    """Nodes in order. A graph inside another (a Scan's body) shares its names and its numbers."""

    def __init__(self, outer: Graph | None = None) -> None:
        self.nodes: list[Any] = []
        self.root: Graph = outer.root if outer is not None else self
        self.initializers: list[Any] = []
        self.known: dict[Any, str] = {}
        self.count = 0

    def name(self, hint: str) -> str:
        self.root.count += 1
        return f"{hint}_{self.root.count}"

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """One node: the name of its output, or a list of names."""
        from onnx import helper

        names = [self.name(kind.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def number(self, value: Any, kind: type = np.float32, hint: str = "number") -> str:
        """A constant; equal ones are kept once."""
        from onnx import numpy_helper

        array: np.ndarray = np.array(value, dtype=kind, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        root = self.root
        if key not in root.known:
            root.known[key] = self.name(hint)
            root.initializers.append(numpy_helper.from_array(array, root.known[key]))
        return root.known[key]

    def integers(self, *values: int) -> str:
        return self.number(list(values), np.int64)

    def cast(self, x: str, kind: str) -> str:
        from onnx import TensorProto

        return self.op("Cast", x, to=getattr(TensorProto, kind))

    def width(self, x: str, width: int) -> str:
        """A value of one feature spread over `width` of them."""
        return self.op("Expand", x, self.integers(width))


BINARY = {"mul": "Mul", "sub": "Sub", "div": "Div", "max": "Max", "min": "Min", "pow": "Pow"}
UNARY = {
    "neg": "Neg", "recip": "Reciprocal", "abs": "Abs", "sign": "Sign", "sqrt": "Sqrt", "exp": "Exp",
    "log": "Log", "tanh": "Tanh", "sigmoid": "Sigmoid", "softplus": "Softplus", "relu": "Relu", "erf": "Erf",
    "sin": "Sin", "cos": "Cos", "floor": "Floor",
}  # fmt: skip
COMPARISON = {"gt": "Greater", "ge": "GreaterOrEqual", "lt": "Less", "le": "LessOrEqual", "eq": "Equal"}
LOGIC = {"and": "And", "or": "Or"}


def emit(g: Graph, node: Node, args: list[str], weights: tuple[Any, ...]) -> str:
    """One node of the intermediate form that is neither a leaf nor a join; rows may have any dimensions."""
    op = node.op
    if op in UNARY:
        return g.op(UNARY[op], *args)
    if op in BINARY:
        return g.op(BINARY[op], *args)
    if op in COMPARISON:
        return g.cast(g.op(COMPARISON[op], *args), "FLOAT")
    if op in LOGIC:
        return g.cast(g.op(LOGIC[op], *(g.cast(a, "BOOL") for a in args)), "FLOAT")
    if op == "sum":
        total = args[0]
        for term in args[1:]:
            total = g.op("Add", total, term)
        return total
    if op == "matmul":
        weight, row0, col0, transposed, size = (int(a) for a in node.attr)
        height, width = (size, node.width) if transposed else (node.width, size)
        matrix = weights[weight][row0 : row0 + height, col0 : col0 + width].numpy()
        return g.op("MatMul", args[0], g.number(matrix if transposed else matrix.T, hint="weight"))
    return COMPOSITE[op](g, node, args)


def _slice(g: Graph, node: Node, args: list[str]) -> str:
    start = int(node.attr[0])
    return g.op("Slice", args[0], g.integers(start), g.integers(start + node.width), g.integers(-1))


def _blend(g: Graph, node: Node, args: list[str]) -> str:
    a, b, gate = args
    rest = g.op("Sub", g.number(1.0), gate)
    return g.op("Add", g.op("Mul", rest, a), g.op("Mul", gate, b))


def _not(g: Graph, x: str) -> str:
    return g.cast(g.op("Equal", x, g.number(0.0)), "FLOAT")


COMPOSITE: dict[str, Any] = {
    "ne": lambda g, n, a: _not(g, g.cast(g.op("Equal", *a), "FLOAT")),
    "not": lambda g, n, a: _not(g, a[0]),
    "where": lambda g, n, a: g.op("Where", g.cast(a[0], "BOOL"), a[1], a[2]),
    "rsqrt": lambda g, n, a: g.op("Reciprocal", g.op("Sqrt", a[0])),
    "expm1": lambda g, n, a: g.op("Sub", g.op("Exp", a[0]), g.number(1.0)),
    "log1p": lambda g, n, a: g.op("Log", g.op("Add", a[0], g.number(1.0))),
    "silu": lambda g, n, a: g.op("Mul", a[0], g.op("Sigmoid", a[0])),
    "blend": _blend,
    "slice": _slice,
    "mov": lambda g, n, a: g.width(a[0], n.width),
    "detach": lambda g, n, a: a[0],
    "rowsum": lambda g, n, a: g.op("ReduceSum", a[0], g.integers(-1), keepdims=1),
    "rowmax": lambda g, n, a: g.op("ReduceMax", a[0], axes=[-1], keepdims=1),
}
