"""The intermediate form: frozen nodes over rows of a batch, all of one floating type.

Every value has one row per batch element and a number of features, its width. A width-1 value may stand
where a wider one is asked: it is broadcast over the features.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Attr = int | float | str | bool


@dataclass(frozen=True, slots=True)
class Node:
    """One value. `args` are indices of earlier nodes; `attr` is what else the operation needs.

    Leaves:
        state  (leaf, column)   a state component before the step
        next   (leaf, column)   the same after it
        seq    (leaf, column)   an input of this step
        flag   (leaf,)          one number a row and step
        row    (leaf, column)   a constant of the sequence
        vec    (leaf, column)   one row for all (a bias)
        gather (leaf, column)   a row of a table, chosen by this step's id
        imm    (value,)         a number
    Products and shapes:
        matmul (weight, row0, col0, transposed, K) of x:
               y[j] = sum_k x[k] W[row0+j, col0+k]; transposed: W[row0+k, col0+j]
        sum    of any number of terms            slice (start,) of x        concat of values
        rowsum, rowmax of x, width 1
    Everything else is elementwise, named as the instruction of the engine.
    """

    op: str
    args: tuple[int, ...] = ()
    width: int = 1
    attr: tuple[Attr, ...] = ()


LEAVES = frozenset({"state", "next", "seq", "flag", "row", "vec", "gather", "imm"})
STRUCTURE = frozenset({"matmul", "sum", "slice", "concat", "rowsum", "rowmax"})


@dataclass(slots=True)
class Builder:
    """Nodes in order, equal ones shared, constants folded."""

    nodes: list[Node] = field(default_factory=list)
    known: dict[Node, int] = field(default_factory=dict)

    def add(self, node: Node) -> int:
        found = self.known.get(node)
        if found is None:
            found = self.known[node] = len(self.nodes)
            self.nodes.append(node)
        return found

    def __getitem__(self, index: int) -> Node:
        return self.nodes[index]

    def width(self, index: int) -> int:
        return self.nodes[index].width

    def leaf(self, op: str, leaf: int, column: int, width: int) -> int:
        return self.add(Node(op, (), width, (leaf, column)))

    def imm(self, value: float) -> int:
        return self.add(Node("imm", (), 1, (float(value),)))

    def number(self, index: int) -> float | None:
        node = self.nodes[index]
        return float(node.attr[0]) if node.op == "imm" else None

    def total(self, terms: list[int], width: int) -> int:
        """The sum of terms, nested sums opened, zeros dropped, one term left alone."""
        flat: list[int] = []
        for term in terms:
            flat.extend(self.nodes[term].args if self.nodes[term].op == "sum" else (term,))
        constant = sum(number for term in flat if (number := self.number(term)) is not None)
        flat = [term for term in flat if self.number(term) is None]
        if constant != 0 or not flat:
            flat.append(self.imm(constant))
        if len(flat) == 1:
            return flat[0]
        # A sum whose terms are all broadcast stays narrow; the engine broadcasts it where it is used.
        width = max(self.width(term) for term in flat) if width == 1 else width
        return self.add(Node("sum", tuple(flat), width))

    def apply(self, op: str, *args: int) -> int:
        """An elementwise operation, simplified where a constant decides it."""
        width = max(self.width(arg) for arg in args)
        numbers = [self.number(arg) for arg in args]
        simpler = self._simplify(op, args, numbers, width)
        return simpler if simpler is not None else self.add(Node(op, args, width))

    def _simplify(
        self, op: str, args: tuple[int, ...], numbers: list[float | None], width: int
    ) -> int | None:
        if op == "add":
            return self.total(list(args), width)
        if op == "mul":
            for this, other in ((0, 1), (1, 0)):
                if numbers[this] == 1.0:
                    return args[other]
                if numbers[this] == -1.0:
                    return self.apply("neg", args[other])
        if op == "sub" and numbers[1] is not None:
            return self.total([args[0], self.imm(-numbers[1])], width)
        if op == "div" and numbers[1] is not None and numbers[1] != 0:
            return self.apply("mul", args[0], self.imm(1 / numbers[1]))
        if op == "neg" and numbers[0] is not None:
            return self.imm(-numbers[0])
        if op == "neg" and self.nodes[args[0]].op == "neg":
            return self.nodes[args[0]].args[0]
        if op in ("mul", "sub") and None not in numbers:
            a, b = (float(n) for n in numbers if n is not None)
            return self.imm(a * b if op == "mul" else a - b)
        return None
