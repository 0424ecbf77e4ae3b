"""Write a traced step in the few forms the later passes know; its meaning stays the same.

    rand_like(x), zeros_like(x), x.new_zeros(n)    by shape: they do not depend on the value of x
    unsqueeze, permute, view that cancel out       nothing, or one transposition
    bmm of one matrix, mv, mm of transposed rows   mm(rows, matrix)
    bmm of a row with a row                        a sum over products
    bmm of heads with one matrix each              one mm for each head, joined

`torch.einsum` and `@` with vectors are traced to the forms on the left.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

DRAWS = {aten.rand_like.default: aten.rand.default, aten.randn_like.default: aten.randn.default}
FILLS: dict[Any, tuple[Any, tuple[float, ...]]] = {
    aten.zeros_like.default: (aten.zeros.default, ()),
    aten.new_zeros.default: (aten.zeros.default, ()),
    aten.ones_like.default: (aten.ones.default, ()),
    aten.new_ones.default: (aten.ones.default, ()),
}
MOVES = {
    aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default, aten.permute.default,
    aten.transpose.int, aten.t.default, aten.view.default, aten._unsafe_view.default, aten.reshape.default,
}  # fmt: skip

Path = tuple[fx.Node, tuple[int, ...]]
"""A value as another one moved: which of its dimensions longer than 1 come in which order."""


def rewrite(graph: fx.Graph, batch: int) -> None:
    """Rewrite in place; `batch` is the size that marks the batch dimension."""
    Rewriter(graph, batch).run()
    graph.eliminate_dead_code()


class Rewriter:
    def __init__(self, graph: fx.Graph, batch: int) -> None:
        self.graph, self.batch = graph, batch
        self.paths: dict[fx.Node, Path] = {}
        targets = (n.target for n in graph.nodes if isinstance(n.target, torch._ops.OpOverload))
        self.moves = MOVES if any(t._schema.is_mutable for t in targets) else MOVES | {aten.clone.default}

    def run(self) -> None:
        for node in list(self.graph.nodes):
            if node.op != "call_function":
                continue
            with self.graph.inserting_before(node):
                found = self._better(node)
            if found is not None:
                node.replace_all_uses_with(found)

    def _better(self, node: fx.Node) -> fx.Node | None:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            return None
        by_shape = self._by_shape(node, value)
        if by_shape is not None:
            return by_shape
        if node.target in self.moves:
            return self._moved(node)
        if node.target is aten.bmm.default:
            return self._bmm(node)
        if node.target is aten.mv.default:
            x, vector = node.args
            column = self._call(node, aten.unsqueeze.default, vector, 1)
            return self._call(
                node, aten.view.default, self._call(node, aten.mm.default, x, column), [*value.shape]
            )
        if node.target is aten.mm.default:
            return self._transposed_product(node)
        return None

    def _by_shape(self, node: fx.Node, value: torch.Tensor) -> fx.Node | None:
        options = {"dtype": value.dtype, "device": value.device}
        if node.target in DRAWS:
            return self._call(node, DRAWS[node.target], [*value.shape], **options)
        if node.target in FILLS:
            return self._call(node, FILLS[node.target][0], [*value.shape], **options)
        if node.target in (aten.full_like.default, aten.new_full.default):
            fill = node.args[1 if node.target is aten.full_like.default else 2]
            return self._call(node, aten.full.default, [*value.shape], fill, **options)
        return None

    def _path(self, node: fx.Node) -> Path:
        if node in self.paths:
            return self.paths[node]
        return node, tuple(k for k, size in enumerate(shape(node)) if size != 1)

    def _moved(self, node: fx.Node) -> fx.Node | None:
        """A chain of moves, as its beginning or one transposition of it where it is no more than that."""
        source = node.args[0]
        assert isinstance(source, fx.Node)
        base, order = self._path(source)
        before, after = shape(source), shape(node)
        if node.target in (aten.permute.default, aten.transpose.int, aten.t.default):
            kept = [k for k in _permutation(node, len(before)) if before[k] != 1]
            ranks = {k: place for place, k in enumerate(k for k, size in enumerate(before) if size != 1)}
            order = tuple(order[ranks[k]] for k in kept)
        elif [n for n in before if n != 1] != [n for n in after if n != 1]:
            return None
        self.paths[node] = base, order
        plain = tuple(k for k, size in enumerate(shape(base)) if size != 1)
        if order == plain and after == shape(base):
            return base
        if (
            order == (1, 0)
            and after == shape(base)[::-1]
            and (source is not base or node.target not in TURNS)
        ):
            turned = self._call(node, aten.permute.default, base, [1, 0])
            self.paths[turned] = base, order
            return turned
        return None

    def _matrix(self, node: fx.Node, to: fx.Node) -> fx.Node:
        """A value of shape [1, n, k] as [n, k]."""
        base, order = self._path(to)
        wanted = shape(to)[1:]
        plain = tuple(k for k, size in enumerate(shape(base)) if size != 1)
        if shape(base) == wanted and order == plain:
            return base
        if shape(base) == wanted[::-1] and order == plain[::-1] and len(shape(base)) == 2:
            return self._call(node, aten.permute.default, base, [1, 0])
        return self._call(node, aten.view.default, to, [*wanted])

    def _bmm(self, node: fx.Node) -> fx.Node | None:
        a, b = node.args
        assert isinstance(a, fx.Node)
        assert isinstance(b, fx.Node)
        (count, n, k), (_, _, m) = shape(a), shape(b)
        if count == 1:
            product = self._product(node, self._matrix(node, a), self._matrix(node, b))
            return self._whole(node, product, (1, n, m))
        if count == self.batch and n == 1 and m == 1:
            # Sizes of 1 aside both are [B, K], in this order.
            rows = [self._call(node, aten.view.default, x, [count, k]) for x in (a, b)]
            rows = [self._moved(row) or row for row in rows]
            total = self._call(
                node, aten.sum.dim_IntList, self._call(node, aten.mul.Tensor, *rows), [1], True
            )
            return self._whole(node, total, (count, 1, 1))
        return self._heads(node, a, b) if n == self.batch else None

    def _heads(self, node: fx.Node, a: fx.Node, b: fx.Node) -> fx.Node | None:
        """[heads, B, K] times [heads, K, M], where the left side is a turned [B, heads, K]."""
        (count, rows, k), (_, _, m) = shape(a), shape(b)
        base, order = self._path(a)
        if shape(base) != (rows, count, k) or order != (1, 0, 2):
            return None
        flat = self._call(node, aten.view.default, base, [rows, count * k])
        self.paths[flat] = flat, (0, 1)
        parts = []
        for head in range(count):
            x = self._call(node, aten.slice.Tensor, flat, 1, head * k, (head + 1) * k)
            parts.append(self._call(node, aten.mm.default, x, self._call(node, aten.select.int, b, 0, head)))
        joined = self._call(node, aten.cat.default, parts, 1)
        split = self._call(node, aten.view.default, joined, [rows, count, m])
        turned = self._call(node, aten.permute.default, split, [1, 0, 2])
        self._moved(turned)
        return turned

    def _transposed_product(self, node: fx.Node) -> fx.Node | None:
        a, b = node.args
        assert isinstance(a, fx.Node)
        assert isinstance(b, fx.Node)
        if shape(node)[1:] != (self.batch,) or shape(node)[0] == self.batch:
            return None
        return self._product(node, a, b)

    def _product(self, node: fx.Node, a: fx.Node, b: fx.Node) -> fx.Node:
        """a b, as (b' a')' if the rows of the batch stand in the columns of b."""
        if shape(b)[1] != self.batch or shape(a)[0] == self.batch:
            return self._call(node, aten.mm.default, a, b)
        product = self._call(node, aten.mm.default, self._turned(node, b), self._turned(node, a))
        return self._turned(node, product)

    def _turned(self, node: fx.Node, matrix: fx.Node) -> fx.Node:
        turned = self._call(node, aten.permute.default, matrix, [1, 0])
        return self._moved(turned) or turned

    def _whole(self, node: fx.Node, matrix: fx.Node, wanted: tuple[int, ...]) -> fx.Node:
        view = self._call(node, aten.view.default, matrix, [*wanted])
        self._moved(view)
        return view

    def _call(self, like: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A new call in the place of another one, with the shape of its result."""
        new = self.graph.call_function(target, args, kwargs)
        new.meta = dict(like.meta)

        def example(x: Any) -> Any:
            if not isinstance(x, fx.Node):
                return x
            return torch.empty(shape(x), dtype=x.meta["val"].dtype, device="meta")

        examples = fx.node.map_aggregate(args, example)
        new.meta["val"] = target(
            *examples, **{k: v for k, v in kwargs.items() if k != "device"}, **_meta(kwargs)
        )
        return new


TURNS = {aten.permute.default, aten.transpose.int, aten.t.default}


def _meta(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"device": "meta"} if "device" in kwargs else {}


def _permutation(node: fx.Node, rank: int) -> list[int]:
    if node.target is aten.permute.default:
        dims: Any = node.args[1]
        return [d % rank for d in dims]
    order = list(range(rank))
    first, second = (0, rank - 1) if node.target is aten.t.default else (node.args[1], node.args[2])
    order[first], order[second] = order[second], order[first]  # type: ignore[index]
    return order


def shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()
