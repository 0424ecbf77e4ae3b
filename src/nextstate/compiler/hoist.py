"""Take out of the loop what does not need the state: products with the input, and what is constant.

After this pass the nodes of the loop depend on the state, or are elementwise in plain leaves. New leaves:

    pre (k,)   the k-th product with the input (and its biases), computed for many steps at once
    vec, row, gather   now number `Outer.vecs`, `.rows`, `.tables`: values computed once a call by torch
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nextstate.compiler.classify import Depends
from nextstate.compiler.ir import Builder, Node
from nextstate.compiler.normalise import count_uses


@dataclass(frozen=True, slots=True)
class Derived:
    """A value computed by torch before the loop: node `index` of the normalised form, widened to `width`.

    `whole` names a leaf (its place, column) that can be handed to the engine as it is.
    """

    index: int
    width: int
    whole: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Outer:
    """What the loop reads from outside: values by torch, and sums of products computed by the engine."""

    source: Builder
    vecs: list[Derived] = field(default_factory=list)
    rows: list[Derived] = field(default_factory=list)
    tables: list[tuple[Derived, int]] = field(default_factory=list)
    flags: list[tuple[int, int]] = field(default_factory=list)
    """(sequence, column) of inputs that are one number a row and step."""
    pres: list[tuple[int, ...]] = field(default_factory=list)
    build: Builder = field(default_factory=Builder)
    """Nodes of the products: `pres[k]` are the terms of the k-th sum."""


def dependence(build: Builder) -> list[Depends]:
    own = {
        "state": Depends.STATE, "next": Depends.STATE, "seq": Depends.INPUT, "flag": Depends.INPUT,
        "gather": Depends.INPUT, "pre": Depends.INPUT, "row": Depends.CONSTANT,
    }  # fmt: skip
    found: list[Depends] = []
    for node in build.nodes:
        joined = own.get(node.op, Depends.NOTHING)
        for argument in node.args:
            joined |= found[argument]
        found.append(joined)
    return found


class Hoister:
    def __init__(self, source: Builder, table_ids: list[int]) -> None:
        self.source, self.table_ids = source, table_ids
        self.depends = dependence(source)
        self.build, self.outer = Builder(), Outer(source)
        self.done: dict[tuple[int, int], int] = {}

    def value(self, index: int, width: int = 0) -> int:
        """The node of the loop for a node of the source, broadcast leaves widened to `width`."""
        width = max(width, self.source.width(index))
        key = (index, width)
        if key not in self.done:
            self.done[key] = self._value(index, width)
        return self.done[key]

    def _value(self, index: int, width: int) -> int:
        node, depends = self.source[index], self.depends[index]
        if node.op == "imm":
            return self.build.add(node)
        if depends == Depends.NOTHING:
            return self._outside("vec", self.outer.vecs, index, width)
        if depends == Depends.CONSTANT:
            return self._outside("row", self.outer.rows, index, width)
        if node.op == "flag":
            where = (int(node.attr[0]), int(node.attr[1]))
            if where not in self.outer.flags:
                self.outer.flags.append(where)
            return self.build.add(Node("flag", (), 1, (self.outer.flags.index(where),)))
        if node.op == "gather":
            return self._table([index], node.width, int(node.attr[0]))
        if node.op == "sum" or (node.op == "matmul" and not depends & Depends.STATE):
            return self._sum(node.args if node.op == "sum" else (index,), node.width)
        arguments = tuple(
            self.value(a, node.width if node.op not in ("matmul", "rowsum", "rowmax") else 0)
            for a in node.args
        )
        return self.build.add(Node(node.op, arguments, node.width, node.attr))

    def _outside(self, op: str, table: list[Derived], index: int, width: int) -> int:
        node = self.source[index]
        whole = (int(node.attr[0]), int(node.attr[1])) if node.op == op and node.width == width else None
        derived = Derived(index, width, whole)
        if derived not in table:
            table.append(derived)
        return self.build.leaf(op, table.index(derived), 0, width)

    def _table(self, terms: list[int], width: int, table: int) -> int:
        derived = (Derived(self.source.total(terms, width), width), self.table_ids[table])
        if derived not in self.outer.tables:
            self.outer.tables.append(derived)
            self.depends = dependence(self.source)
        return self.build.leaf("gather", self.outer.tables.index(derived), 0, width)

    def _sum(self, terms: tuple[int, ...], width: int) -> int:
        fixed = [t for t in terms if self.depends[t] == Depends.NOTHING]
        constant = [t for t in terms if self.depends[t] == Depends.CONSTANT]
        looked_up: dict[int, list[int]] = {}
        dense, rest = [], []
        for term in terms:
            node = self.source[term]
            if term in fixed or term in constant:
                continue
            if node.op == "matmul" and not self.depends[term] & Depends.STATE:
                factor = self.source[node.args[0]]
                if factor.op == "gather":
                    looked_up.setdefault(self.table_ids[int(factor.attr[0])], []).append(term)
                else:
                    dense.append(term)
            else:
                rest.append(self.value(term, width))
        if dense:
            rest.append(self._pre(dense, fixed, width))
            fixed = []
        for found in looked_up.values():
            table = int(self.source[self.source[found[0]].args[0]].attr[0])
            rest.append(self._table(found + fixed, width, table))
            fixed = []
        if constant:
            rest.append(self._joined("row", constant + fixed, width))
            fixed = []
        if fixed:
            rest.append(self._joined("vec", fixed, width))
        return self.build.total(rest, width)

    def _joined(self, op: str, terms: list[int], width: int) -> int:
        index = self.source.total(terms, width)
        if len(self.depends) < len(self.source.nodes):
            self.depends = dependence(self.source)
        return self.value(index, width)

    def _pre(self, dense: list[int], fixed: list[int], width: int) -> int:
        b, terms = self.outer.build, []
        for term in dense:
            node = self.source[term]
            leaf = b.add(self.source[node.args[0]])
            terms.append(b.add(Node("matmul", (leaf,), width, node.attr)))
        for term in fixed:
            number = self.source.number(term)
            if number is not None:
                terms.append(b.imm(number))
                continue
            terms.append(b.add(self.build[self._outside("vec", self.outer.vecs, term, width)]))
        if tuple(terms) not in self.outer.pres:
            self.outer.pres.append(tuple(terms))
        return self.build.leaf("pre", self.outer.pres.index(tuple(terms)), 0, width)


def hoist(source: Builder, roots: list[int], table_ids: list[int]) -> tuple[Builder, list[int], Outer]:
    """The loop with everything outer taken out. `table_ids[t]`: which ids choose the rows of table t."""
    hoister = Hoister(source, table_ids)
    new_roots = [hoister.value(root) for root in roots]
    build, new_roots = pruned(hoister.build, new_roots)
    return build, new_roots, hoister.outer


def pruned(build: Builder, roots: list[int]) -> tuple[Builder, list[int]]:
    """Without the nodes that no root needs."""
    uses, out = count_uses(build, roots), Builder()
    new: dict[int, int] = {}
    for index, node in enumerate(build.nodes):
        if uses[index]:
            new[index] = out.add(Node(node.op, tuple(new[a] for a in node.args), node.width, node.attr))
    return out, [new[root] for root in roots]
