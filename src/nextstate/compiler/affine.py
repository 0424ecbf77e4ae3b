"""Which steps are linear in their state, feature by feature, and with what coefficients.

A component s of the state is solved by a linear recurrence if its next value is

    s' = a * s + b        elementwise, a and b free of s

Components are taken one after the other: a and b may depend on one solved before, whose values at every step
are known by then. So a stack of such layers qualifies, and two components that need one another do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from nextstate.compiler.classify import Classes, Depends, check_rowwise, op_name, shape
from nextstate.compiler.trace import Trace, Unsupported, source_line

aten = torch.ops.aten

Term = fx.Node | float
Pair = tuple[Term, Term]
"""The factor a and the offset b of a value a * s + b: nodes of the trace, or numbers."""


@dataclass(frozen=True, slots=True)
class Solved:
    """One component of the state as a linear recurrence with the coefficients `factor` and `offset`."""

    component: int
    factor: Term
    offset: Term


@dataclass(frozen=True, slots=True)
class LinearStep:
    """A step all of whose components are linear recurrences, in the order in which they can be solved."""

    trace: Trace
    classes: Classes
    solved: tuple[Solved, ...]


def linear_step(trace: Trace, classes: Classes) -> LinearStep:
    """linear_step : Trace -> LinearStep; adds the nodes of the coefficients to the trace's graph.

    Raises Unsupported with every reason at once.
    """
    check_rowwise(trace, classes)
    needs = components_needed(trace, classes)
    solved: list[Solved] = []
    left = list(classes.moving)
    while left:
        free = [k for k in left if needs_of(trace.next_states[k], needs) & set(left) <= {k}]
        if not free:
            names = ", ".join(f"s{k}" for k in left)
            raise Unsupported(
                [*_products(trace, needs), f"the components {names} of its state need one another"]
            )
        for k in free:
            solved.append(_solve(trace, needs, k))
            left.remove(k)
    return LinearStep(trace, classes, tuple(solved))


def components_needed(trace: Trace, classes: Classes) -> dict[fx.Node, frozenset[int]]:
    """The moving components of the state that each value depends on."""
    found = {trace.states[k]: frozenset({k}) for k in classes.moving}
    for node in trace.module.graph.nodes:
        if node not in found and node.op != "output":
            depends = classes.depends[node] & Depends.STATE
            needed = (found[a] for a in node.all_input_nodes) if depends else ()
            found[node] = frozenset().union(*needed)
    return found


def needs_of(value: Any, needs: dict[fx.Node, frozenset[int]]) -> frozenset[int]:
    return needs[value] if isinstance(value, fx.Node) else frozenset()


def _products(trace: Trace, needs: dict[fx.Node, frozenset[int]]) -> list[str]:
    """The products that mix the features of the state, as reasons."""
    mixing = [n for n in trace.module.graph.nodes if op_name(n) in ("mm", "addmm", "bmm") and needs[n]]
    return [_reason(node, "mixes the features of the state") for node in mixing]


def _reason(node: fx.Node, why: str) -> str:
    line = source_line(node)
    return f"{op_name(node)} {why}" + (f" ({line})" if line else "")


def _solve(trace: Trace, needs: dict[fx.Node, frozenset[int]], k: int) -> Solved:
    state = trace.states[k]
    like = state.meta["val"]
    if not (like.is_floating_point() or like.is_complex()):
        raise Unsupported([f"a state of {str(like.dtype).removeprefix('torch.')}"])
    analysis = Analysis(trace.module.graph, state, frozenset(n for n, need in needs.items() if k in need))
    factor, offset = analysis.of(trace.next_states[k])
    if analysis.reasons:
        raise Unsupported(list(dict.fromkeys([*_products(trace, needs), *analysis.reasons])))
    return Solved(k, factor, offset)


class Analysis:
    """Values as a * s + b for one component s; what cannot be written so is collected as a reason."""

    def __init__(self, graph: fx.Graph, state: fx.Node, moved: frozenset[fx.Node]) -> None:
        self.graph, self.state, self.moved = graph, state, moved
        self.known: dict[fx.Node, Pair] = {state: (1.0, 0.0)}
        self.reasons: list[str] = []
        (self.end,) = (n for n in graph.nodes if n.op == "output")

    def of(self, value: Any) -> Pair:
        if not isinstance(value, fx.Node):
            return 0.0, float(value)
        if value not in self.moved:
            return 0.0, value
        if value not in self.known:
            self.known[value] = self._rule(value)
        return self.known[value]

    def _rule(self, node: fx.Node) -> Pair:
        rule = RULES.get(op_name(node))
        like, wanted = node.meta.get("val"), self.state.meta["val"]
        if rule is None:
            return self.refuse(node, "is not linear in the state")
        if shape(node) != shape(self.state):
            return self.refuse(node, f"turns a state {shape(self.state)[1:]} into {shape(node)[1:]}")
        if like is not None and like.dtype != wanted.dtype:
            return self.refuse(node, f"turns a state of {wanted.dtype} into {like.dtype}")
        return rule(self, node)

    def refuse(self, node: fx.Node, why: str) -> Pair:
        self.reasons.append(_reason(node, why))
        return 0.0, 0.0

    def free(self, value: Any) -> bool:
        return not isinstance(value, fx.Node) or value not in self.moved

    def call(self, target: Any, *args: Any) -> fx.Node:
        with self.graph.inserting_before(self.end):
            return self.graph.call_function(target, args)

    def add(self, x: Term, y: Term) -> Term:
        if isinstance(y, fx.Node) and not isinstance(x, fx.Node):
            x, y = y, x
        if not isinstance(x, fx.Node):
            return x + y  # type: ignore[operator]
        return x if y == 0.0 and not isinstance(y, fx.Node) else self.call(aten.add.Tensor, x, y)

    def mul(self, x: Term, y: Term) -> Term:
        if isinstance(y, fx.Node) and not isinstance(x, fx.Node):
            x, y = y, x
        if not isinstance(x, fx.Node):
            return x * y  # type: ignore[operator]
        if not isinstance(y, fx.Node) and y in (0.0, 1.0):
            return x if y == 1.0 else 0.0
        return self.call(aten.mul.Tensor, x, y)

    def scaled(self, pair: Pair, by: Term) -> Pair:
        return self.mul(pair[0], by), self.mul(pair[1], by)

    def plus(self, one: Pair, other: Pair) -> Pair:
        return self.add(one[0], other[0]), self.add(one[1], other[1])

    def times(self, node: fx.Node, x: Any, y: Any) -> Pair:
        """The product of two values, one of them free of the state."""
        if self.free(x):
            x, y = y, x
        if not self.free(y):
            return self.refuse(node, "multiplies the state with itself")
        return self.scaled(self.of(x), self.of(y)[1])

    def chosen(self, condition: Any, x: Term, y: Term) -> Term:
        if x is y or (not isinstance(x, fx.Node) and not isinstance(y, fx.Node) and x == y):
            return x
        named = {(True, True): "self", (False, True): "ScalarSelf", (True, False): "ScalarOther"}
        kind = named.get((isinstance(x, fx.Node), isinstance(y, fx.Node)), "Scalar")
        return self.call(getattr(aten.where, kind), condition, x, y)


Rule = Callable[[Analysis, fx.Node], Pair]


def _add(a: Analysis, node: fx.Node, sign: float = 1.0) -> Pair:
    scale = sign * float(node.kwargs.get("alpha", 1))  # type: ignore[arg-type]
    return a.plus(a.of(node.args[0]), a.scaled(a.of(node.args[1]), scale))


def _rsub(a: Analysis, node: fx.Node) -> Pair:
    if len(node.args) > 2 or node.kwargs:
        return a.refuse(node, "with a scale")
    return a.plus(a.of(node.args[1]), a.scaled(a.of(node.args[0]), -1.0))


def _div(a: Analysis, node: fx.Node) -> Pair:
    above, below = node.args[:2]
    if not a.free(below) or node.kwargs.get("rounding_mode"):
        return a.refuse(node, "is not linear in the state")
    if not isinstance(below, fx.Node):
        return a.scaled(a.of(above), 1.0 / float(below))  # type: ignore[arg-type]
    return a.scaled(a.of(above), a.call(aten.reciprocal.default, below))


def _where(a: Analysis, node: fx.Node) -> Pair:
    condition, x, y = node.args[:3]
    if not a.free(condition):
        return a.refuse(node, "asks a condition of the state")
    one, other = a.of(x), a.of(y)
    return a.chosen(condition, one[0], other[0]), a.chosen(condition, one[1], other[1])


def _lerp(a: Analysis, node: fx.Node) -> Pair:
    start, end, weight = node.args[:3]
    if a.free(weight):
        step = a.plus(a.of(end), a.scaled(a.of(start), -1.0))
        return a.plus(a.of(start), a.scaled(step, a.of(weight)[1]))
    return a.refuse(node, "asks a weight of the state")


def _addcmul(a: Analysis, node: fx.Node) -> Pair:
    term, x, y = node.args[:3]
    product = a.times(node, x, y)
    return a.plus(a.of(term), a.scaled(product, float(node.kwargs.get("value", 1))))  # type: ignore[arg-type]


def _same(a: Analysis, node: fx.Node) -> Pair:
    return a.of(node.args[0])


SAME = ("clone", "alias", "view", "_unsafe_view", "reshape", "expand", "slice", "_to_copy", "lift_fresh_copy")
RULES: dict[str, Rule] = {
    "neg": lambda a, n: a.scaled(a.of(n.args[0]), -1.0), "add": _add, "sub": lambda a, n: _add(a, n, -1.0),
    "rsub": _rsub, "mul": lambda a, n: a.times(n, n.args[0], n.args[1]), "div": _div, "where": _where,
    "lerp": _lerp, "addcmul": _addcmul, **dict.fromkeys(SAME, _same),
}  # fmt: skip
"""What each ATen operation makes of a * s + b. Views and slices are here for those that change no shape."""


def depends_on_rows(nodes: Iterable[fx.Node], trace: Trace, classes: Classes) -> dict[fx.Node, bool]:
    """Whether each value has a row for each element of the batch: the others are the same for all."""
    found: dict[fx.Node, bool] = {}
    for node in nodes:
        depends = classes.depends.get(node)
        if depends is None:  # a coefficient
            found[node] = any(found[a] for a in node.all_input_nodes)
        else:
            found[node] = bool(depends) or trace.batch in shape(node) or trace.batch in node.args
    return found
