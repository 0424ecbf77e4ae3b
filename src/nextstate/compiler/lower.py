"""From a step and its adjoint to programs of the CPU engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from nextstate.compiler.differentiate import Loop, Product, Resolved, Wanted
from nextstate.compiler.emit import Emitter
from nextstate.compiler.hoist import Derived, Outer
from nextstate.compiler.ir import Builder, Node
from nextstate.compiler.program import Key, Operand, Program
from nextstate.compiler.schedule import READABLE, Store, scalars
from nextstate.compiler.trace import Unsupported


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes of what enters from outside, by place."""

    states: tuple[int, ...]
    seqs: tuple[int, ...]
    outputs: tuple[int, ...]
    weights: tuple[tuple[int, int], ...]
    vecs: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


Source = tuple[str, int, int]
"""("leaf", place in Leaves, 0) or ("node", index of the normalised form, width): how torch makes a value."""


@dataclass(frozen=True, slots=True)
class Externals:
    """Which values torch hands to the engine, each once; a derived leaf becomes (place, column)."""

    vecs: list[Source] = field(default_factory=list)
    rows: list[Source] = field(default_factory=list)
    vec_at: list[tuple[int, int]] = field(default_factory=list)
    row_at: list[tuple[int, int]] = field(default_factory=list)

    @staticmethod
    def of(outer: Outer, vec_widths: list[int], row_widths: list[int], shapes: Shapes) -> Externals:
        found = Externals()

        def enter(
            derived: Derived, sources: list[Source], widths: list[int], sizes: list[int]
        ) -> tuple[int, int]:
            if derived.whole is not None:
                source: Source = ("leaf", derived.whole[0], 0)
                column, width = derived.whole[1], widths[derived.whole[0]]
            else:
                source, column, width = ("node", derived.index, derived.width), 0, derived.width
            if source not in sources:
                sources.append(source)
                sizes.append(width)
            return sources.index(source), column

        found.vec_at.extend(enter(d, found.vecs, vec_widths, shapes.vecs) for d in outer.vecs)
        found.row_at.extend(enter(d, found.rows, row_widths, shapes.rows) for d in outer.rows)
        return found


class Lowering:
    """What the forward and the backward program share: the loop, its surroundings, and their buffers."""

    def __init__(self, loop: Loop, outer: Outer, externals: Externals, shapes: Shapes) -> None:
        self.loop, self.outer, self.externals, self.shapes = loop, outer, externals, shapes

    def program(self, reverse: bool) -> Program:
        weights = [{"rows": rows, "cols": cols, "ld": cols} for rows, cols in self.shapes.weights]
        return Program(weights=weights, reverse=reverse)

    def leaf(self, p: Program, node: Node) -> Operand:
        """The operand of a leaf that the forward program reads, and the backward program reads again."""
        place = int(node.attr[0])
        column = int(node.attr[1]) if len(node.attr) > 1 else 0
        if node.op in ("state", "next"):
            index = p.buffer("state", self.shapes.states[place], ("state", place))
            return ("buf", index, "prev" if node.op == "state" else "next", column)
        if node.op == "seq":
            return ("buf", p.buffer("seq", self.shapes.seqs[place], ("seq", place)), "", column)
        if node.op == "flag":
            return ("buf", p.buffer("seqscalar", 1, ("flag", place)), "", 0)
        if node.op == "vec":
            place, column = self.externals.vec_at[place]
            width = self.shapes.vecs[place]
            return ("buf", p.buffer("vec", width, ("vec", place)), "", column)
        if node.op == "row":
            place, column = self.externals.row_at[place]
            return ("buf", p.buffer("row", self.shapes.rows[place], ("row", place)), "", column)
        if node.op == "gather":
            return ("buf", p.buffer("gather", node.width, ("table", place)), "", column)
        if node.op == "pre":
            return ("buf", p.buffer("chunk", self.pre_width(place), ("pre", place)), "", 0)
        raise AssertionError(f"{node.op} is not read in this program")

    def pre_width(self, place: int) -> int:
        return max(self.outer.build.width(term) for term in self.outer.pres[place])

    def forward(self, saved: tuple[int, ...]) -> Program:
        """One step forward; `saved` are the nodes to keep for the backward program."""
        p, build = self.program(reverse=False), self.loop.build
        stores = []
        for place, pieces in enumerate(self.loop.states):
            index = p.buffer("state", self.shapes.states[place], ("state", place))
            stores += [Store(node, index, "next", column) for column, node in pieces]
        for place, pieces in enumerate(self.loop.outputs):
            index = p.buffer("seq", self.shapes.outputs[place], ("out", place))
            stores += [Store(node, index, "", column) for column, node in pieces]
        scalar = scalars(build)
        reductions: dict[int, Operand] = {}
        for k, node in enumerate(saved):
            if scalar[node]:
                reductions[node] = ("buf", p.buffer("seqscalar", 1, ("saved", k)), "", 0)
            else:
                stores.append(Store(node, p.buffer("tiled", build.width(node), ("saved", k))))
        emitter = Emitter(p, build, stores, lambda node: self.leaf(p, node), keep=reductions)
        p.step = emitter.blocks()
        self._input_products(p)
        return p

    def _input_products(self, p: Program) -> None:
        used = {key[1] for key in p.found if key[0] == "pre"}
        flat, stores = Builder(), []
        for place in sorted(used):
            terms = [self._copied(flat, term) for term in self.outer.pres[place]]
            total = flat.total(terms, self.pre_width(place))
            stores.append(Store(total, p.found["pre", place]))
        if stores:
            p.pre = Emitter(p, flat, stores, lambda node: self.leaf(p, node)).blocks()

    def _copied(self, flat: Builder, term: int) -> int:
        node = self.outer.build[term]
        parts = tuple(self._copied(flat, a) for a in node.args)
        return flat.add(Node(node.op, parts, node.width, node.attr))

    def backward(self, resolved: Resolved, wanted: Wanted) -> Program:
        return _Backward(self, resolved, wanted).lower()


class _Backward:
    def __init__(self, shared: Lowering, resolved: Resolved, wanted: Wanted) -> None:
        self.shared, self.saved, self.wanted = shared, resolved.saved, wanted
        self.adjoint, self.build = resolved.adjoint, resolved.adjoint.build
        self.p = shared.program(reverse=True)
        self.stores: list[Store] = []
        self.kept: dict[int, Operand] = {}
        self.sums: dict[tuple[Operand, int], tuple[int, int]] = {}
        self.regions: dict[tuple[str, int], list[tuple[int, int, int, int, int]]] = {}
        forward_scalars = scalars(shared.loop.build)
        self.scalar_saved = {k for k, node in enumerate(self.saved) if forward_scalars[node]}

    def lower(self) -> Program:
        self._carries()
        grads = {k: self._kept_rows(g) for (k, _), g in self._found("pre")}
        direct = self._step_gradients(grads)
        for product in self.adjoint.products:
            self._weight_gradient(product.attr, self._left(product), self._kept_rows(product.g))
        scalar_nodes = frozenset(
            i for i, n in enumerate(self.build.nodes) if n.op == "saved" and n.attr[0] in self.scalar_saved
        )
        emitter = Emitter(self.p, self.build, self.stores, self._leaf, scalar_saved=scalar_nodes)
        self.p.step = emitter.blocks()
        self._input_gradients(grads, direct)
        self._note_covered()
        return self.p

    def _note_covered(self) -> None:
        for (name, place), regions in self.regions.items():
            for copy in {region[4] for region in regions}:
                key = (f"{name}#{copy}", place)
                buffer = self.p.buffers[self.p.found[key]]
                area = sum(h * w for _, _, h, w, m in regions if m == copy)
                if area == buffer["rows"] * buffer["width"]:
                    self.p.covered.add(key)
        for place, width in enumerate(self.shared.shapes.seqs):
            index = self.p.found.get(("dseq", place))
            blocks = [*self.p.step, *self.p.post]
            written = {
                (part[1][3], block.width)
                for block in blocks for part in block.code if part[1][:2] == ("buf", index)
            }  # fmt: skip
            if index is not None and sum(w for _, w in written) == width:
                self.p.covered.add(("dseq", place))

    def _found(self, op: str) -> list[tuple[tuple[int, int], int]]:
        return sorted(self.adjoint.leaves.get(op, {}).items())

    def _leaf(self, node: Node) -> Operand:
        place = int(node.attr[0])
        column = int(node.attr[1]) if len(node.attr) > 1 else 0
        shapes = self.shared.shapes
        if node.op == "saved":
            kind = "seqscalar" if place in self.scalar_saved else "tiled"
            return ("buf", self.p.buffer(kind, node.width, ("saved", place)), "", 0)
        if node.op == "dout":
            return ("buf", self.p.buffer("seq", shapes.outputs[place], ("dout", place)), "", column)
        if node.op == "dstate":
            return ("buf", self.p.buffer("row", shapes.states[place], ("carry", place)), "", column)
        if node.op == "kept":
            return ("buf", self.p.buffer("row", shapes.rows[place], ("drow", place)), "", column)
        return self.shared.leaf(self.p, node)

    def _carries(self) -> None:
        found = self.adjoint.leaves.get("state", {})
        for leaf, pieces in enumerate(self.shared.loop.states):
            spans = {(column, self.shared.loop.build.width(node)) for column, node in pieces}
            reads = {(column, self.build.width(g)) for (k, column), g in found.items() if k == leaf}
            if not reads <= spans:
                raise Unsupported(
                    [f"state component {leaf} is read in pieces {reads} and written in {spans}"]
                )
            index = self.p.buffer("row", self.shared.shapes.states[leaf], ("carry", leaf))
            for column, width in sorted(spans):
                g = found.get((leaf, column))
                if g is None:
                    g = self.build.add(Node("mov", (self.build.imm(0),), width))
                elif self.build[g].op == "dstate":  # components that change places: read all, then write
                    g = self.build.add(Node("mov", (g,), width))
                self.stores.append(Store(g, index, "", column, delay=True))

    def _kept_rows(self, node: int) -> Operand:
        """Row-major memory of a value for all rows of a chunk, for products after the loop."""
        if node not in self.kept:
            index = self.p.buffer("chunk", self.build.width(node))
            self.kept[node] = ("buf", index, "", 0)
            self.stores.append(Store(node, index))
        return self.kept[node]

    def _left(self, product: Product) -> Operand:
        x = self.build[product.x]
        readable = x.op in READABLE and x.op != "row"
        return self._leaf(x) if readable else self._kept_rows(product.x)

    def _step_gradients(self, grads: dict[int, Operand]) -> dict[tuple[int, int], tuple[Operand, int]]:
        """Gradients that the step itself yields; those of sequences that also enter products are returned."""
        direct: dict[tuple[int, int], tuple[Operand, int]] = {}
        shared = self.shared
        in_products = {
            int(shared.outer.build[shared.outer.build[t].args[0]].attr[0])
            for k in grads
            for t in shared.outer.pres[k]
            if shared.outer.build[t].op == "matmul"
        }
        for (place, column), g in self._found("seq"):
            width = self.build.width(g)
            if place in in_products:
                direct[place, column] = (self._kept_rows(g), width)
            else:
                index = self.p.buffer("seq", shared.shapes.seqs[place], ("dseq", place))
                self.stores.append(Store(g, index, "", column))
        for (place, _), g in self._found("flag"):
            self.stores.append(Store(g, self.p.buffer("seq", 1, ("dflag", place))))
        for (k, _), g in self._found("row"):
            place, column = shared.externals.row_at[k]
            old = self.build.add(Node("kept", (), self.build.width(g), (place, column)))
            index = self.p.buffer("row", shared.shapes.rows[place], ("drow", place))
            self.stores.append(
                Store(self.build.total([old, g], self.build.width(g)), index, "", column, delay=True)
            )
        for (k, _), g in self._found("vec"):
            self._column_sum(k, self._kept_rows(g), self.build.width(g))
        for (k, _), g in self._found("gather"):
            table = self.p.buffer("gather", self.build.width(g), ("table", k))
            out = self._grad(("dtable", k), 0, self.build.width(g), (0, 0, 1, 1))
            self.p.scatter.append({"out": out, "g": self._kept_rows(g), "ids": table})
        return direct

    def _grad(self, key: Key, rows: int, cols: int, region: tuple[int, int, int, int]) -> int:
        """A buffer to sum a gradient in; a second sum over the same region gets a buffer of its own."""
        taken = self.regions.setdefault(key, [])
        row, col, height, width = region
        copy = 0
        for r, c, h, w, m in taken:
            if r < row + height and row < r + h and c < col + width and col < c + w:
                copy = max(copy, m + 1)
        taken.append((row, col, height, width, copy))
        name = (f"{key[0]}#{copy}", key[1])
        return self.p.buffer("grad", cols, name, ld=cols, rows=rows)

    def _column_sum(self, k: int, g: Operand, width: int) -> None:
        place, column = self.shared.externals.vec_at[k]
        size = self.shared.shapes.vecs[place]
        out = self._grad(("dvec", place), size, 1, (column, 0, width, 1))
        # Two biases of one sum have the same gradient: it is summed once.
        source = self.sums.setdefault((g, width), (out, column))
        if source != (out, column):
            self.p.copies.append((out, column, *source, width))
            return
        self.p.tn.append({"out": out, "row0": column, "col0": 0, "g": g, "a": None, "n": width})

    def _weight_gradient(self, attr: tuple[object, ...], x: Operand, g: Operand) -> None:
        weight, row0, col0, transposed, k = (int(a) for a in attr)  # type: ignore[call-overload]
        n = self.p.buffers[g[1]]["width"]
        rows, cols = self.shared.shapes.weights[weight]
        height, width = (k, n) if transposed else (n, k)
        out = self._grad(("dweight", weight), rows, cols, (row0, col0, height, width))
        left, right = (x, g) if transposed else (g, x)
        self.p.tn.append(
            {"out": out, "row0": row0, "col0": col0, "g": left, "a": right, "n": height, "k": width}
        )

    def _input_gradients(
        self, grads: dict[int, Operand], direct: dict[tuple[int, int], tuple[Operand, int]]
    ) -> None:
        """After the loop, from the gradients of the input products: those of the input and of the weights."""
        outer, shapes = self.shared.outer, self.shared.shapes
        flat = Builder()
        parts: dict[tuple[int, int, int], list[int]] = {}
        for k, g in grads.items():
            for term in outer.pres[k]:
                node = outer.build[term]
                if node.op == "vec":
                    self._vec_of_product(node, g)
                if node.op != "matmul":
                    continue
                weight, row0, col0, transposed, size = node.attr
                x = outer.build[node.args[0]]
                place, column = int(x.attr[0]), int(x.attr[1])
                if weight in self.wanted.weights:
                    self._weight_gradient(node.attr, self.shared.leaf(self.p, x), g)
                if ("seq", place) in self.wanted.leaves:
                    leaf = flat.leaf("dout", k, 0, node.width)
                    back = (weight, row0, col0, not transposed, node.width)
                    product = flat.add(Node("matmul", (leaf,), int(size), back))
                    parts.setdefault((place, column, int(size)), []).append(product)
        for (place, column), (_, width) in direct.items():
            parts.setdefault((place, column, width), []).append(flat.leaf("kept", place, column, width))
        self._check_disjoint(list(parts))
        stores = []
        for (place, column, width), terms in parts.items():
            index = self.p.buffer("seq", shapes.seqs[place], ("dseq", place))
            stores.append(Store(flat.total(terms, width), index, "", column))

        def gradient(node: Node) -> Operand:
            return (
                grads[int(node.attr[0])]
                if node.op == "dout"
                else direct[int(node.attr[0]), int(node.attr[1])][0]
            )

        if stores:
            self.p.post = Emitter(self.p, flat, stores, gradient).blocks()

    def _vec_of_product(self, node: Node, g: Operand) -> None:
        if ("vec", int(node.attr[0])) in self.wanted.leaves:
            self._column_sum(int(node.attr[0]), g, node.width)

    @staticmethod
    def _check_disjoint(parts: list[tuple[int, int, int]]) -> None:
        for i, (place, column, width) in enumerate(parts):
            for other, start, size in parts[i + 1 :]:
                if place == other and column < start + size and start < column + width:
                    raise Unsupported([f"input {place} enters products in overlapping pieces"])
