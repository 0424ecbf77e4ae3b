"""Reverse-mode differentiation of the loop: the graph of one step back in time.

New leaves of that graph:
    fwd (i,)                node i of the forward loop, resolved afterwards: read again, recomputed or saved
    dout (j, column)        the gradient of what the loop hands outside
    dstate (leaf, column)   the gradient of the state after the step, carried backwards
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from nextstate.compiler.ir import Attr, Builder, Node
from nextstate.compiler.schedule import scalars


@dataclass(frozen=True, slots=True)
class Loop:
    """One step of the loop: what it computes for each moving state component and each value handed on."""

    build: Builder
    states: tuple[tuple[tuple[int, int], ...], ...]
    outputs: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def roots(self) -> list[int]:
        return [node for pieces in (*self.states, *self.outputs) for _, node in pieces]


@dataclass(frozen=True, slots=True)
class Product:
    """A weight gradient to sum over all steps: the outer product of `g` and the forward factor `x`."""

    x: int
    g: int
    attr: tuple[Attr, ...]


@dataclass(frozen=True, slots=True)
class Adjoint:
    """One step back in time. Gradients of leaves are (leaf, column) -> node of `build`."""

    build: Builder = field(default_factory=Builder)
    leaves: dict[str, dict[tuple[int, int], int]] = field(default_factory=dict)
    products: list[Product] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which gradients are asked for, by place of the leaf; those of states always are."""

    leaves: frozenset[tuple[str, int]]
    weights: frozenset[int]


def differentiate(loop: Loop, wanted: Wanted) -> Adjoint:
    """differentiate : step -> step back in time, for the gradients wanted."""
    result = Adjoint()
    b = result.build
    forward = loop.build
    terms: dict[int, list[int]] = {}
    for leaf, pieces in enumerate(loop.states):
        for column, root in pieces:
            terms.setdefault(root, []).append(b.leaf("dstate", leaf, column, forward.width(root)))
    for j, pieces in enumerate(loop.outputs):
        for column, root in pieces:
            terms.setdefault(root, []).append(b.leaf("dout", j, column, forward.width(root)))
    needed = _needs_gradient(forward, wanted)
    for index in range(len(forward.nodes) - 1, -1, -1):
        if index not in terms or not needed[index]:
            continue
        node = forward[index]
        g = b.total(terms.pop(index), node.width)
        if b.width(g) < node.width:
            g = b.add(Node("mov", (g,), node.width))
        if node.op in ("state", "seq", "flag", "row", "vec", "gather", "pre"):
            place = (int(node.attr[0]), int(node.attr[1]) if len(node.attr) > 1 else 0)
            result.leaves.setdefault(node.op, {})[place] = g
        elif node.op == "matmul":
            weight, row0, col0, transposed, _ = node.attr
            if weight in wanted.weights:
                result.products.append(Product(node.args[0], g, node.attr))
            x = node.args[0]
            if needed[x]:
                back = (weight, row0, col0, not transposed, node.width)
                terms.setdefault(x, []).append(b.add(Node("matmul", (g,), forward.width(x), back)))
        else:
            step = _Step(b, forward, index, g)
            for argument, gradient in step.arguments(needed):
                if forward.width(argument) == 1 and b.width(gradient) > 1:
                    gradient = b.add(Node("rowsum", (gradient,)))
                terms.setdefault(argument, []).append(gradient)
    return result


def _needs_gradient(forward: Builder, wanted: Wanted) -> list[bool]:
    needed: list[bool] = []
    for node in forward.nodes:
        if node.op == "state":
            own = True
        elif node.op in ("seq", "flag", "row", "vec", "gather", "pre"):
            own = (node.op, int(node.attr[0])) in wanted.leaves
        elif node.op == "matmul":
            own = node.attr[0] in wanted.weights
        else:
            own = False
        flows = node.op not in FLAT and any(needed[a] for a in node.args)
        needed.append(own or flows)
    return needed


FLAT = frozenset({"gt", "ge", "lt", "le", "eq", "ne", "and", "or", "not", "sign", "floor", "detach"})
"""Operations whose derivative is zero wherever it exists."""


class _Step:
    """The adjoint of one elementwise node or reduction."""

    def __init__(self, b: Builder, forward: Builder, index: int, g: int) -> None:
        self.b, self.forward, self.index, self.g = b, forward, index, g
        self.node = forward[index]

    def fwd(self, index: int) -> int:
        node = self.forward[index]
        return self.b.add(node if node.op == "imm" else Node("fwd", (), node.width, (index,)))

    @property
    def y(self) -> int:
        return self.fwd(self.index)

    def arg(self, place: int) -> int:
        return self.fwd(self.node.args[place])

    def mul(self, *factors: int) -> int:
        product = factors[0]
        for factor in factors[1:]:
            product = self.b.apply("mul", product, factor)
        return product

    def arguments(self, needed: list[bool]) -> list[tuple[int, int]]:
        """(argument, its share of the gradient) for the arguments that need one."""
        rule = RULES[self.node.op]
        return [(a, rule(self, k)) for k, a in enumerate(self.node.args) if needed[a]]


def _where(s: _Step, k: int) -> int:
    zero = s.b.imm(0.0)
    return s.b.apply("where", s.arg(0), *((s.g, zero) if k == 1 else (zero, s.g)))


def _extreme(s: _Step, k: int) -> int:
    """max and min: like torch, a tie is shared between two values, and passes through at a fixed bound."""
    strict, loose = ("gt", "ge") if s.node.op == "max" else ("lt", "le")
    other = s.node.args[1 - k]
    if s.forward[other].op == "imm":
        return s.mul(s.g, s.b.apply(loose, s.arg(k), s.fwd(other)))
    half = s.mul(s.b.imm(0.5), s.b.apply("eq", s.arg(k), s.fwd(other)))
    share = s.b.total([s.b.apply(strict, s.arg(k), s.fwd(other)), half], s.node.width)
    return s.mul(s.g, share)


def _blend(s: _Step, k: int) -> int:
    a, b, gate = s.arg(0), s.arg(1), s.arg(2)
    if k == 0:
        return s.b.apply("sub", s.g, s.mul(s.g, gate))
    return s.mul(s.g, gate) if k == 1 else s.mul(s.g, s.b.apply("sub", b, a))


def _div(s: _Step, k: int) -> int:
    if k == 0:
        return s.b.apply("div", s.g, s.arg(1))
    return s.b.apply("neg", s.b.apply("div", s.mul(s.g, s.y), s.arg(1)))


def _pow(s: _Step, k: int) -> int:
    if k == 1:
        return s.mul(s.g, s.y, s.b.apply("log", s.arg(0)))
    lower = s.b.total([s.arg(1), s.b.imm(-1.0)], s.b.width(s.arg(1)))
    return s.mul(s.g, s.arg(1), s.b.apply("pow", s.arg(0), lower))


def _silu(s: _Step, k: int) -> int:
    gate = s.b.apply("sigmoid", s.arg(0))
    slope = s.b.total([s.b.imm(1.0), s.mul(s.arg(0), s.b.apply("sub", s.b.imm(1.0), gate))], s.node.width)
    return s.mul(s.g, gate, slope)


def _erf(s: _Step, k: int) -> int:
    bell = s.b.apply("exp", s.b.apply("neg", s.mul(s.arg(0), s.arg(0))))
    return s.mul(s.g, bell, s.b.imm(2 / math.sqrt(math.pi)))


def _rowmax(s: _Step, k: int) -> int:
    top = s.b.apply("eq", s.arg(0), s.y)
    return s.mul(top, s.b.apply("div", s.g, s.b.add(Node("rowsum", (top,)))))


RULES: dict[str, Callable[[_Step, int], int]] = {
    "sum": lambda s, k: s.g,
    "rowsum": lambda s, k: s.g,
    "mov": lambda s, k: s.g,
    "sub": lambda s, k: s.g if k == 0 else s.b.apply("neg", s.g),
    "mul": lambda s, k: s.mul(s.g, s.arg(1 - k)),
    "div": _div,
    "neg": lambda s, k: s.b.apply("neg", s.g),
    "recip": lambda s, k: s.b.apply("neg", s.mul(s.g, s.mul(s.y, s.y))),
    "sigmoid": lambda s, k: s.b.apply("dsigmoid", s.g, s.y),
    "tanh": lambda s, k: s.b.apply("dtanh", s.g, s.y),
    "relu": lambda s, k: s.b.apply("drelu", s.g, s.y),
    "exp": lambda s, k: s.mul(s.g, s.y),
    "expm1": lambda s, k: s.mul(s.g, s.b.total([s.y, s.b.imm(1.0)], s.node.width)),
    "log": lambda s, k: s.b.apply("div", s.g, s.arg(0)),
    "log1p": lambda s, k: s.b.apply("div", s.g, s.b.total([s.arg(0), s.b.imm(1.0)], s.node.width)),
    "sqrt": lambda s, k: s.b.apply("div", s.mul(s.g, s.b.imm(0.5)), s.y),
    "rsqrt": lambda s, k: s.mul(s.g, s.b.imm(-0.5), s.mul(s.y, s.mul(s.y, s.y))),
    "abs": lambda s, k: s.mul(s.g, s.b.apply("sign", s.arg(0))),
    "softplus": lambda s, k: s.mul(s.g, s.b.apply("sigmoid", s.arg(0))),
    "sin": lambda s, k: s.mul(s.g, s.b.apply("cos", s.arg(0))),
    "cos": lambda s, k: s.b.apply("neg", s.mul(s.g, s.b.apply("sin", s.arg(0)))),
    "silu": _silu,
    "erf": _erf,
    "pow": _pow,
    "max": _extreme,
    "min": _extreme,
    "where": _where,
    "blend": _blend,
    "rowmax": _rowmax,
}


@dataclass(frozen=True, slots=True)
class Resolved:
    """The step back in time with every forward value found, and the forward values to save for it."""

    adjoint: Adjoint
    saved: tuple[int, ...]


EXPENSIVE = {"tanh": 3, "sigmoid": 3, "exp": 3, "expm1": 3, "log": 3, "log1p": 3, "softplus": 4, "silu": 4,
             "erf": 5, "sin": 8, "cos": 8, "pow": 9, "div": 2, "recip": 2, "sqrt": 2, "rsqrt": 2}  # fmt: skip
BUDGET = 5
"""Recompute a value in the backward step if that costs no more than about a transcendental function."""


def resolve(loop: Loop, adjoint: Adjoint) -> Resolved:
    """Decide which forward values the backward step reads again, recomputes, or needs saved."""
    forward, old = loop.build, adjoint.build
    after = {node: (leaf, col) for leaf, pieces in enumerate(loop.states) for col, node in pieces}
    wanted = {int(n.attr[0]) for n in old.nodes if n.op == "fwd"} | {p.x for p in adjoint.products}
    scalar = scalars(forward)
    for index in range(len(forward.nodes) - 1, -1, -1):
        # A number a row that is made of reductions is made again from them: they alone can be saved.
        if index in wanted and scalar[index]:
            wanted |= set(forward[index].args) if forward[index].op not in ("rowsum", "rowmax") else set()
    saved: dict[int, None] = {}

    def cost(index: int) -> int:
        """What recomputing costs, or more than the budget if that is impossible."""
        node = forward[index]
        if (
            index in saved
            or index in after
            or node.op in ("state", "seq", "flag", "row", "vec", "imm", "gather")
        ):
            return 0
        if node.op in ("pre", "matmul", "rowsum", "rowmax"):
            return BUDGET + 1
        if scalar[index]:
            return sum(cost(a) for a in node.args)
        return EXPENSIVE.get(node.op, 1) + sum(cost(a) for a in node.args)

    for index in sorted(wanted):
        if cost(index) > BUDGET:
            saved[index] = None
    order = tuple(saved)
    new, mapping = Adjoint(), {}
    b = new.build
    again: dict[int, int] = {}

    def forward_value(index: int) -> int:
        if index not in again:
            node = forward[index]
            if index in saved:
                again[index] = b.leaf("saved", order.index(index), 0, node.width)
            elif index in after:
                again[index] = b.leaf("next", *after[index], node.width)
            elif not node.args:
                again[index] = b.add(node)
            else:
                parts = tuple(forward_value(a) for a in node.args)
                again[index] = b.add(Node(node.op, parts, node.width, node.attr))
        return again[index]

    def one_a_row(index: int) -> bool:
        node = b[index]
        if node.op == "saved":
            return scalar[order[int(node.attr[0])]]
        if node.op in ("imm", "flag", "rowsum", "rowmax"):
            return True
        return bool(node.args) and node.op != "matmul" and all(one_a_row(a) for a in node.args)

    def broadcastable(index: int) -> int:
        """A width-1 value as the engine can spread it over the features of a wider one."""
        spread = b.width(index) > 1 or one_a_row(index)
        return index if spread else b.add(Node("rowsum", (index,)))

    for index, node in enumerate(old.nodes):
        if node.op == "fwd":
            mapping[index] = forward_value(int(node.attr[0]))
        else:
            arguments = tuple(mapping[a] for a in node.args)
            if node.width > 1 and node.op != "matmul":
                arguments = tuple(broadcastable(a) for a in arguments)
            mapping[index] = b.add(Node(node.op, arguments, node.width, node.attr))
    for op, found in adjoint.leaves.items():
        new.leaves[op] = {place: mapping[g] for place, g in found.items()}
    new.products.extend(Product(forward_value(p.x), mapping[p.g], p.attr) for p in adjoint.products)
    return Resolved(new, order)
