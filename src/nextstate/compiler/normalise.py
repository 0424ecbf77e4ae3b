"""Cut wide values into pieces, so that inside the loop every value is computed at its own width.

Slices and joins disappear: a slice of a product is a product with fewer columns of the matrix, a product
with joined values a sum of products, an elementwise operation on joined values one operation a piece.
"""

from __future__ import annotations

from itertools import pairwise

from nextstate.compiler.ir import LEAVES, Builder, Node

Span = tuple[int, int]
"""(start, width)"""

Pieces = list[tuple[int, int]]
"""(column, node) pairs that cover a value."""

Leaf = tuple[str, int]
"""("state", place) or ("seq", place)."""

SCALAR_LEAVES = frozenset({"imm", "flag"})


class Cutter:
    """Rebuilds values of one builder, piece by piece, in another."""

    def __init__(self, source: Builder, leaf_edges: dict[Leaf, set[int]]) -> None:
        self.source, self.build, self.leaf_edges = source, Builder(), leaf_edges
        self.done: dict[tuple[int, int, int], int] = {}
        self.cuts: dict[int, list[Span]] = {}

    def root(self, index: int, edges: set[int] | None = None) -> Pieces:
        """A value as (column, piece) pairs that cover it, cut at `edges` too."""
        ends = {0, *(start + width for start, width in self.spans(index)), *(edges or ())}
        spans = [(low, high - low) for low, high in pairwise(sorted(ends))]
        return [(start, self.piece(index, start, width)) for start, width in spans]

    def spans(self, index: int) -> list[Span]:
        """Where a value must be cut so that no piece crosses a join."""
        if index not in self.cuts:
            self.cuts[index] = self._spans(index)
        return self.cuts[index]

    def _spans(self, index: int) -> list[Span]:
        node = self.source[index]
        if node.op == "concat":
            found, offset = [], 0
            for argument in node.args:
                found += [(offset + start, width) for start, width in self.spans(argument)]
                offset += self.source.width(argument)
            return found
        if node.op == "slice":
            first = int(node.attr[0])
            last = first + node.width
            inner = [(max(s, first), min(s + w, last)) for s, w in self.spans(node.args[0])]
            return [(low - first, high - low) for low, high in inner if low < high]
        if node.op in ("matmul", "rowsum", "rowmax") or (
            node.op in LEAVES and node.op not in ("state", "seq")
        ):
            return [(0, node.width)]
        edges = {0, node.width}
        if node.op in ("state", "seq"):
            edges |= self.leaf_edges.get((node.op, int(node.attr[0])), set())
        for argument in node.args:
            if self.source.width(argument) == node.width:
                edges |= {start for start, _ in self.spans(argument)}
        ordered = sorted(edges)
        return [(low, high - low) for low, high in pairwise(ordered)]

    def piece(self, index: int, start: int, width: int) -> int:
        key = (index, start, width)
        if key not in self.done:
            self.done[key] = self._piece(index, start, width)
        return self.done[key]

    def _piece(self, index: int, start: int, width: int) -> int:
        node, b = self.source[index], self.build
        if node.op == "slice":
            return self.piece(node.args[0], int(node.attr[0]) + start, width)
        if node.op == "concat":
            offset = 0
            for argument in node.args:
                size = self.source.width(argument)
                if offset <= start and start + width <= offset + size:
                    return self.piece(argument, start - offset, width)
                offset += size
            raise AssertionError("a piece crosses a join")
        if node.op in SCALAR_LEAVES:
            return b.add(node)
        if node.op in LEAVES:
            return b.leaf(node.op, int(node.attr[0]), int(node.attr[1]) + start, width)
        if node.op == "matmul":
            return self._product(node, start, width)
        if node.op in ("rowsum", "rowmax"):
            return self._reduction(node)
        if node.op == "detach":
            return b.add(Node("detach", (self.piece(node.args[0], start, width),), width))
        parts = []
        for argument in node.args:
            size = self.source.width(argument)
            if size == node.width:
                parts.append(self.piece(argument, start, width))
            else:
                parts.append(self.broadcastable(self.piece(argument, 0, 1)))
        if node.width > 1 and width == 1:
            # One column cut out of a wider value: everything it needs is one column as well.
            return b.add(Node(node.op, tuple(parts), 1))
        if node.op == "sum":
            return b.total(parts, width)
        return b.add(Node(node.op, tuple(parts), width))

    def _product(self, node: Node, start: int, width: int) -> int:
        weight, row0, col0, transposed, _ = node.attr
        x, terms = node.args[0], []
        for offset, size in self.spans(x):
            row = int(row0) + (offset if transposed else start)
            col = int(col0) + (start if transposed else offset)
            part = self.piece(x, offset, size)
            terms.append(self.build.add(Node("matmul", (part,), width, (weight, row, col, transposed, size))))
        return self.build.total(terms, width)

    def _reduction(self, node: Node) -> int:
        parts = [
            self.build.add(Node(node.op, (self.piece(node.args[0], start, width),)))
            for start, width in self.spans(node.args[0])
        ]
        if node.op == "rowsum":
            return self.build.total(parts, 1)
        total = parts[0]
        for part in parts[1:]:
            total = self.build.apply("max", total, part)
        return total

    def broadcastable(self, index: int) -> int:
        """A width-1 value as the engine can broadcast it over the features of a wider one."""
        node, b = self.build[index], self.build
        if node.op in ("imm", "flag", "rowsum", "rowmax", "vec", "row"):
            return index  # `vec` and `row` are widened outside the loop
        if node.op == "seq":
            return b.add(Node("flag", (), 1, node.attr))
        if node.op not in LEAVES and node.op != "matmul":
            fixed = [self._fixed(a) for a in node.args]
            if all(fixed):
                return index
            if not any(f and b[a].op != "imm" for f, a in zip(fixed, node.args, strict=True)):
                return b.add(Node(node.op, tuple(self.broadcastable(a) for a in node.args), 1, node.attr))
        return b.add(Node("rowsum", (index,)))

    def _fixed(self, index: int) -> bool:
        """Whether a value is the same at every step: it is computed, and widened, outside the loop."""
        node = self.build[index]
        return node.op in ("imm", "vec", "row") or (bool(node.args) and all(map(self._fixed, node.args)))


def cut(source: Builder, states: list[int], outputs: list[int]) -> tuple[Builder, list[Pieces], list[Pieces]]:
    """Every root as pieces; a state component is read and written, an input read, in the same pieces."""
    edges: dict[Leaf, set[int]] = {}
    while True:
        cutter = Cutter(source, edges)
        state_pieces = [cutter.root(node, edges.get(("state", place))) for place, node in enumerate(states)]
        output_pieces = [cutter.root(node) for node in outputs]
        found: dict[Leaf, set[int]] = {}
        for place, pieces in enumerate(state_pieces):
            for column, piece in pieces:
                found.setdefault(("state", place), set()).update((column, column + cutter.build.width(piece)))
        for node in cutter.build.nodes:
            if node.op in ("state", "seq"):
                column = int(node.attr[1])
                found.setdefault((node.op, int(node.attr[0])), set()).update((column, column + node.width))
        if all(ends <= edges.get(leaf, set()) for leaf, ends in found.items()):
            return cutter.build, state_pieces, output_pieces
        for leaf, ends in found.items():
            edges.setdefault(leaf, set()).update(ends)


def blends(build: Builder, roots: list[int]) -> tuple[Builder, list[int]]:
    """Recognise (1 - c) a + c b, the gate of every gated cell, as one operation.

    It keeps b exactly where c is 1 and a exactly where c is 0.
    """
    uses, out = count_uses(build, roots), Builder()
    new: dict[int, int] = {}

    def opposite(index: int) -> int | None:
        """c, if the value is 1 - c."""
        node = build[index]
        if node.op == "sum" and len(node.args) == 2 and build.number(node.args[1]) == 1.0:
            inner = build[node.args[0]]
            return inner.args[0] if inner.op == "neg" else None
        if node.op == "sub" and build.number(node.args[0]) == 1.0:
            return node.args[1]
        return None

    def match(node: Node) -> tuple[int, int, int] | None:
        if node.op != "sum" or len(node.args) != 2:
            return None
        products = [build[a] for a in node.args]
        if any(p.op != "mul" or uses[a] > 1 for p, a in zip(products, node.args, strict=True)):
            return None
        for first, second in (products, products[::-1]):
            for place in (0, 1):
                gate = opposite(first.args[place])
                if gate is not None and gate in second.args:
                    other = second.args[1 - second.args.index(gate)]
                    return first.args[1 - place], other, gate
        return None

    for index, node in enumerate(build.nodes):
        found = match(node)
        if found is not None:
            new[index] = out.add(Node("blend", tuple(new[a] for a in found), node.width))
        else:
            new[index] = out.add(Node(node.op, tuple(new[a] for a in node.args), node.width, node.attr))
    return out, [new[r] for r in roots]


def count_uses(build: Builder, roots: list[int]) -> list[int]:
    """How many live nodes and roots read each node; 0 for one that nothing needs."""
    uses = [0] * len(build.nodes)
    for root in roots:
        uses[root] += 1
    for index in range(len(build.nodes) - 1, -1, -1):
        if uses[index]:
            for argument in build[index].args:
                uses[argument] += 1
    return uses
