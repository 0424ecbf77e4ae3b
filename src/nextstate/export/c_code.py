"""A step as C99: which values get memory, where it lies, and the statements that fill it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from nextstate.compiler.ir import LEAVES, Node
from nextstate.compiler.normalise import count_uses
from nextstate.export.graph import StepGraph

FUNCTIONS = {
    "sigmoid": "1.0f / (1.0f + expf(-x))",
    "silu": "x / (1.0f + expf(-x))",
    "relu": "x > 0.0f ? x : 0.0f",
    "softplus": "x > 20.0f ? x : log1pf(expf(x))",
    "sign": "(float)(x > 0.0f) - (float)(x < 0.0f)",
}
"""Operations that read their argument twice, or are long: functions of x."""

EXPRESSIONS = {
    "neg": "(-{0})", "recip": "(1.0f / {0})", "abs": "fabsf({0})", "sqrt": "sqrtf({0})",
    "rsqrt": "(1.0f / sqrtf({0}))", "exp": "expf({0})", "expm1": "expm1f({0})", "log": "logf({0})",
    "log1p": "log1pf({0})", "tanh": "tanhf({0})", "erf": "erff({0})", "sin": "sinf({0})", "cos": "cosf({0})",
    "floor": "floorf({0})", "not": "(float)({0} == 0.0f)", "mul": "({0} * {1})", "sub": "({0} - {1})",
    "div": "({0} / {1})", "max": "fmaxf({0}, {1})", "min": "fminf({0}, {1})", "pow": "powf({0}, {1})",
    "gt": "(float)({0} > {1})", "ge": "(float)({0} >= {1})", "lt": "(float)({0} < {1})",
    "le": "(float)({0} <= {1})", "eq": "(float)({0} == {1})", "ne": "(float)({0} != {1})",
    "and": "(float)({0} != 0.0f && {1} != 0.0f)", "or": "(float)({0} != 0.0f || {1} != 0.0f)",
    "where": "({0} != 0.0f ? {1} : {2})", "mov": "{0}", "detach": "{0}",
}  # fmt: skip


def number(x: float) -> str:
    """A float literal that reads back as the same float."""
    if math.isinf(x) or math.isnan(x):
        return "NAN" if math.isnan(x) else "INFINITY" if x > 0 else "(-INFINITY)"
    text = f"{x:.9g}"
    text = text if any(c in text for c in ".e") else text + ".0"
    return f"({text}f)" if x < 0 else f"{text}f"


@dataclass(slots=True)
class Memory:
    """A piece of the scratch array: filled by one statement, read until another one."""

    size: int
    first: int
    last: int
    offset: int = 0


@dataclass(slots=True)
class Step:
    """Statements of one step. `names` maps leaves to C: inputs, states, and the arrays of numbers."""

    graph: StepGraph
    prefix: str
    ids: tuple[str | None, ...]
    """For each tensor of the input the expression of an id or flag, or None for an array of features."""
    inputs: tuple[str, ...]
    states: tuple[str, ...]
    small: bool = False
    """Whether matrices are bytes, each row with a unit of its own: w = unit x byte."""
    lines: list[str] = field(default_factory=list)
    memory: dict[int, Memory] = field(default_factory=dict)
    statements: int = 0
    used: set[str] = field(default_factory=set)
    uses: list[int] = field(default_factory=list)

    def write(self, outputs: tuple[str, ...]) -> None:
        """All statements: values, then outputs, then the new state over the old one."""
        g = self.graph
        roots = [*g.outputs, *g.next_states]
        self.uses = count_uses(g.build, roots)
        moving = [k for k in range(len(g.next_states)) if not g.constant(k)]
        kept = {g.next_states[k] for k in moving}
        for index, node in enumerate(g.build.nodes):
            if self.uses[index] and (self._has_memory(index) or (index in kept and node.op not in LEAVES)):
                self._fill(index)
        for name, root in zip(outputs, g.outputs, strict=True):
            self._copy(name, root)
        late = [k for k in moving if g.next_states[k] in self.memory]
        # A next state that is a leaf (an input, another state) goes by way of nothing else of the state.
        early = [k for k in moving if k not in late]
        held = [self._aside(k) for k in early]
        for k in late:
            self._copy(self.states[k], g.next_states[k])
        for k, where in zip(early, held, strict=True):
            self._loop(g.state_widths[k], f"{self.states[k]}[i] = {where}[i];")
            self._read_memory(where)

    def scratch(self) -> int:
        """Floats of scratch memory; sets every offset. Values that are alive together do not overlap."""
        placed: list[Memory] = []
        for piece in sorted(self.memory.values(), key=lambda m: (-m.size, m.first)):
            together = [m for m in placed if m.first <= piece.last and piece.first <= m.last]
            for low, high in sorted((m.offset, m.offset + m.size) for m in together):
                if piece.offset + piece.size <= low:
                    break
                piece.offset = max(piece.offset, high)
            placed.append(piece)
        return max((m.offset + m.size for m in placed), default=0)

    def _has_memory(self, index: int) -> bool:
        """Products, joins and sums over a row; and what is read more than once and costs something."""
        node = self.graph.build[index]
        if node.op in LEAVES or node.op in ("slice", "detach"):
            return False
        if node.op in ("matmul", "concat", "rowsum", "rowmax"):
            return not self._is_fused(index)
        if node.op == "sum" and any(self.graph.build[a].op == "matmul" for a in node.args):
            return True
        return self.uses[index] > 1 or index in self._factors()

    def _is_fused(self, index: int) -> bool:
        """A product that only one sum reads is added up in that sum's loop."""
        b = self.graph.build
        if b[index].op != "matmul" or self.uses[index] != 1:
            return False
        sums = (n for i, n in enumerate(b.nodes) if n.op == "sum" and self.uses[i])
        return any(index in n.args and n.width == b[index].width for n in sums)

    def _factors(self) -> set[int]:
        b = self.graph.build
        return {n.args[0] for i, n in enumerate(b.nodes) if n.op == "matmul" and self.uses[i]}

    def _fill(self, index: int) -> None:
        node = self.graph.build[index]
        piece = Memory(node.width, self.statements, self.statements)
        self.lines.append(f"    /* {node.op}, {node.width} */")
        name = f"t{index}"
        if node.op == "concat":
            at = 0
            for part in node.args:
                width = self.graph.build.width(part)
                self._loop(width, f"{name}[{at} + i] = {self.at(part)};")
                at += width
        elif node.op in ("rowsum", "rowmax"):
            self._reduction(name, node)
        elif node.op == "matmul":
            self._products(name, node.width, [index], [])
        elif node.op == "sum" and any(self._is_fused(a) for a in node.args):
            products = [a for a in node.args if self._is_fused(a)]
            self._products(name, node.width, products, [a for a in node.args if a not in products])
        else:
            self._loop(node.width, f"{name}[i] = {self.at(index)};")
        self.memory[index] = piece
        self.statements += 1

    def _loop(self, width: int, statement: str) -> None:
        self.lines.append(f"    for (i = 0; i < {width}; i++) {statement}")

    def _copy(self, name: str, index: int) -> None:
        self._loop(self.graph.build.width(index), f"{name}[i] = {self.at(index)};")
        self.statements += 1

    def _aside(self, k: int) -> str:
        index = self.graph.next_states[k]
        place = len(self.graph.build.nodes) + k
        self.memory[place] = Memory(self.graph.state_widths[k], self.statements, self.statements)
        self._loop(self.graph.state_widths[k], f"t{place}[i] = {self.at(index)};")
        self.statements += 1
        return f"t{place}"

    def _read_memory(self, name: str) -> None:
        self.memory[int(name[1:])].last = self.statements
        self.statements += 1

    def _reduction(self, name: str, node: Node) -> None:
        (argument,) = node.args
        width = self.graph.build.width(argument)
        if node.op == "rowsum":
            self.lines.append(f"    {name}[0] = 0.0f;")
            self._loop(width, f"{name}[0] += {self.at(argument)};")
        else:
            self.lines.append(f"    {name}[0] = {self.at(argument, '0')};")
            self._loop(width, f"{name}[0] = fmaxf({name}[0], {self.at(argument)});")

    def _products(self, name: str, width: int, products: list[int], others: list[int]) -> None:
        self.lines.append(f"    for (i = 0; i < {width}; i++) {{")
        apart = self.small and any(not self.graph.build[index].attr[3] for index in products)
        self.lines.append(f"        float sum = 0.0f{', part' if apart else ''};")
        for index in products:
            node = self.graph.build[index]
            weight, row0, col0, transposed, size = (int(a) for a in node.attr)
            cols = self.graph.weights[weight].shape[1]
            row, col = ("k", "i") if transposed else ("i", "k")
            row, col = f"({row} + {row0})" if row0 else row, f"{col} + {col0}" if col0 else col
            place = f"{row} * {cols} + {col}"
            term = f"{self.prefix}_w{weight}[{place}] * {self.at(node.args[0], 'k')}"
            loop = f"        for (k = 0; k < {size}; k++)"
            unit = f"{self.prefix}_w{weight}_unit[{row}]"
            if not self.small:
                self.lines.append(f"{loop} sum += {term};")
            elif transposed:
                self.lines.append(f"{loop} sum += {unit} * {term};")
            else:
                self.lines += [
                    "        part = 0.0f;",
                    f"{loop} part += {term};",
                    f"        sum += {unit} * part;",
                ]
        total = " + ".join(["sum", *(self.at(a) for a in others)])
        self.lines.append(f"        {name}[i] = {total};")
        self.lines.append("    }")

    def at(self, index: int, i: str = "i", offset: int = 0) -> str:
        """Element `i + offset` of a node, as an expression."""
        node = self.graph.build[index]
        if index in self.memory:
            self.memory[index].last = max(self.memory[index].last, self.statements)
            return f"t{index}[{self._place(node, i, offset)}]"
        if node.op in LEAVES:
            return self._leaf(node, i, offset)
        if node.op == "slice":
            return self.at(node.args[0], "0" if node.width == 1 else i, offset + int(node.attr[0]))
        return self.elementwise(node, i, offset)

    def elementwise(self, node: Node, i: str, offset: int) -> str:
        parts = [self.at(a, i, offset if self.graph.build.width(a) > 1 else 0) for a in node.args]
        if node.op == "sum":
            return "(" + " + ".join(parts) + ")"
        if node.op == "blend":
            a, b, gate = parts
            return f"((1.0f - {gate}) * {a} + {gate} * {b})"
        if node.op in FUNCTIONS:
            self.used.add(node.op)
            return f"{self.prefix}_{node.op}({parts[0]})"
        return EXPRESSIONS[node.op].format(*parts)

    def _leaf(self, node: Node, i: str, offset: int) -> str:
        if node.op == "imm":
            return number(torch.tensor(node.attr[0], dtype=torch.float64).float().item())
        k, place = int(node.attr[0]), self._place(node, i, offset)
        if node.op == "vec":
            return f"{self.prefix}_b{k}[{place}]"
        if node.op == "state":
            return f"{self.states[k]}[{place}]"
        if node.op == "gather":
            table, which = self.graph.tables[k]
            found = f"{self.prefix}_e{k}[{self.inputs[which]} * {table.shape[1]} + {place}]"
            return f"({self.prefix}_e{k}_unit[{self.inputs[which]}] * {found})" if self.small else found
        said = self.ids[k]
        return said if said is not None else f"{self.inputs[k]}[{place}]"

    @staticmethod
    def _place(node: Node, i: str, offset: int) -> str:
        if node.width == 1:
            return "0"
        if i == "0":
            return str(offset)
        return f"{i} + {offset}" if offset else i
