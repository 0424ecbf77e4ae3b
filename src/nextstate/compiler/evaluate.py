"""Run parts of a step with torch: what stands before and after the loop, with gradients by autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from nextstate.compiler.ir import Builder, Node

Env = dict[fx.Node, Any]


def order(wanted: Iterable[Any], known: Iterable[fx.Node]) -> tuple[fx.Node, ...]:
    """The nodes to evaluate, in order, to get those wanted from those known."""
    found: dict[fx.Node, None] = {}
    have = set(known)

    def visit(node: fx.Node) -> None:
        if node in have or node in found:
            return
        for argument in node.all_input_nodes:
            visit(argument)
        found[node] = None

    for node in wanted:
        if isinstance(node, fx.Node):
            visit(node)
    return tuple(found)


def evaluate(nodes: Iterable[fx.Node], env: Env, batch: int, rows: int) -> None:
    """Add the values of `nodes` to `env`, for `rows` rows in place of the `batch` traced."""

    def real(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return env[argument]
        return rows if type(argument) is int and argument == batch else argument

    for node in nodes:
        if node.op == "get_attr":
            env[node] = getattr(node.graph.owning_module, str(node.target))
            continue
        arguments = fx.node.map_aggregate(node.args, real)
        named = fx.node.map_aggregate(node.kwargs, real)
        env[node] = node.target(*arguments, **named)  # type: ignore[operator]


def prepared(nodes: Iterable[fx.Node], env: Env, batch: int, rows: int) -> Callable[[Env], None]:
    """`evaluate` for many calls: what does not change from one to the next is done here, once, into `env`."""
    nodes = list(nodes)
    evaluate([node for node in nodes if node.op == "get_attr"], env, batch, rows)

    def sized(argument: Any) -> Any:
        return rows if type(argument) is int and argument == batch else argument

    ready: list[Any] = [
        (
            node,
            node.target,
            fx.node.map_aggregate(node.args, sized),
            fx.node.map_aggregate(node.kwargs, sized),
        )
        for node in nodes
        if node.op != "get_attr"
    ]

    def real(argument: Any, env: Env) -> Any:
        if isinstance(argument, fx.Node):
            return env[argument]
        return [real(part, env) for part in argument] if isinstance(argument, list | tuple) else argument

    def run(env: Env) -> None:
        for node, target, arguments, named in ready:
            env[node] = target(
                *[real(x, env) for x in arguments], **{key: real(x, env) for key, x in named.items()}
            )

    return run


class Expressions:
    """Values of nodes of the intermediate form, by torch, each computed once; `leaf` and `weight` give what
    enters.

    Products of one operand with rows of a weight that follow each other, as a cell's gates do, are one. A
    `gather` leaf may stand for its whole table: a sum of products with it is then a table again.
    """

    def __init__(
        self,
        build: Builder,
        wanted: Iterable[int],
        leaf: Callable[[Node], Tensor],
        weight: Callable[[int], Tensor],
    ) -> None:
        self.build, self.leaf, self.weight = build, leaf, weight
        self.done: dict[int, Any] = {}
        self.beside: dict[tuple[Any, ...], list[int]] = {}
        pending, seen = list(wanted), set()
        while pending:
            i = pending.pop()
            if i not in seen:
                seen.add(i)
                pending.extend(build[i].args)
                if build[i].op == "matmul" and not build[i].attr[3]:
                    self.beside.setdefault(_factors(build[i]), []).append(i)

    def value(self, i: int) -> Any:
        if i not in self.done:
            node = self.build[i]
            if node.op == "matmul":
                self._multiply(i, node)
            else:
                self.done[i] = self._compute(node)
        return self.done[i]

    def _multiply(self, i: int, node: Node) -> None:
        place, row0, col0, transposed, k = (int(a) for a in node.attr)
        x, matrix = self.value(node.args[0]), self.weight(place)
        if transposed:
            self.done[i] = x @ matrix[row0 : row0 + k, col0 : col0 + node.width]
            return
        together = sorted(self.beside[_factors(node)], key=lambda j: int(self.build[j].attr[1]))
        starts = [int(self.build[j].attr[1]) for j in together]
        widths = [self.build[j].width for j in together]
        ends = [start + width for start, width in zip(starts, widths, strict=True)]
        if starts[1:] != ends[:-1]:  # not one after the other
            together, starts, widths, ends = [i], [row0], [node.width], [row0 + node.width]
        product = F.linear(x, matrix[starts[0] : ends[-1], col0 : col0 + k])
        self.done.update(
            zip(together, product.split(widths, -1) if len(widths) > 1 else [product], strict=True)
        )

    def _compute(self, node: Node) -> Any:
        if node.op == "imm":
            return float(node.attr[0])
        if node.op == "mov":
            x = as_tensor(self.value(node.args[0]))
            return x.expand(*x.shape[:-1], node.width)
        return POINTWISE[node.op](*(self.value(a) for a in node.args)) if node.args else self.leaf(node)


def _factors(node: Node) -> tuple[Any, ...]:
    """What products must share to be made as one: the operand, the weight, its columns."""
    place, _, col0, _, k = node.attr
    return node.args[0], place, col0, k


def expressions(
    build: Builder, wanted: Iterable[int], leaf: Callable[[Node], Tensor], weight: Callable[[int], Tensor]
) -> list[Any]:
    """The values of some nodes of the intermediate form; see `Expressions`."""
    wanted = list(wanted)
    made = Expressions(build, wanted, leaf, weight)
    return [made.value(i) for i in wanted]


def as_tensor(value: Any) -> Tensor:
    """A value as a tensor; a number as the engine has it (float32, on the CPU, which all devices take)."""
    if isinstance(value, Tensor):
        return value
    return torch.tensor(value, dtype=torch.float32 if isinstance(value, float) else None, device="cpu")


def _tensor(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *xs: function(*map(as_tensor, xs))


POINTWISE: dict[str, Callable[..., Any]] = {
    "sum": lambda *xs: sum(xs[1:], xs[0]),
    "mul": lambda a, b: a * b, "sub": lambda a, b: a - b, "div": lambda a, b: a / b, "neg": lambda a: -a,
    "recip": lambda a: 1 / a, "max": _tensor(torch.maximum), "min": _tensor(torch.minimum),
    "abs": torch.abs, "sign": torch.sign, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt, "exp": torch.exp,
    "expm1": torch.expm1, "log": torch.log, "log1p": torch.log1p, "tanh": torch.tanh,
    "sigmoid": torch.sigmoid, "softplus": F.softplus, "silu": F.silu, "relu": torch.relu, "erf": torch.erf,
    "sin": torch.sin, "cos": torch.cos, "pow": _tensor(torch.pow), "floor": torch.floor,
    "gt": lambda a, b: (a > b) * 1.0, "ge": lambda a, b: (a >= b) * 1.0, "lt": lambda a, b: (a < b) * 1.0,
    "le": lambda a, b: (a <= b) * 1.0, "eq": lambda a, b: (a == b) * 1.0, "ne": lambda a, b: (a != b) * 1.0,
    "and": lambda a, b: (a != 0) * (b != 0) * 1.0, "or": lambda a, b: ((a != 0) | (b != 0)) * 1.0,
    "not": lambda a: (a == 0) * 1.0, "where": lambda c, a, b: torch.where(as_tensor(c != 0), a, b),
    "blend": lambda a, b, c: c * b + (1 - c) * a, "rowsum": lambda a: a.sum(-1, keepdim=True),
    "rowmax": lambda a: a.amax(-1, keepdim=True), "detach": lambda a: a.detach(),
}  # fmt: skip
