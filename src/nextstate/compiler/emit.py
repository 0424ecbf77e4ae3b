"""Write the blocks of a step: products into planes, then pointwise code with fused instructions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nextstate.compiler.ir import Builder, Node
from nextstate.compiler.normalise import count_uses
from nextstate.compiler.program import Block, Operand, Program
from nextstate.compiler.schedule import OUTSIDE, READABLE, Store, schedule

Place = tuple[int, int]
"""(stage, width): a block."""


class Emitter:
    """Emits the blocks of one step, last block first, so that each knows what later ones read from it.

    `leaf` gives the operand of a leaf, `keep` the memory of reductions that are saved for later.
    """

    def __init__(
        self,
        program: Program,
        build: Builder,
        stores: list[Store],
        leaf: Callable[[Node], Operand],
        scalar_saved: frozenset[int] = frozenset(),
        keep: dict[int, Operand] | None = None,
    ) -> None:
        self.program, self.build, self.leaf = program, build, leaf
        plan = schedule(build, scalar_saved)
        self.computed, self.scalar = plan.computed, plan.scalar
        self.reduced: dict[int, Operand] = dict(keep or {})
        self.uses = count_uses(build, [*(s.node for s in stores), *self.reduced])
        self.stores = self._placed(stores)
        self.home: dict[int, list[Operand]] = {}
        for store in stores:
            self._remember(store)
        self.exports: dict[Place, dict[int, Operand]] = {}

    def place(self, index: int) -> Place:
        node = self.build[index]
        width = self.build.width(node.args[0]) if node.op in ("rowsum", "rowmax") else node.width
        return self.computed[index], width

    def _placed(self, stores: list[Store]) -> dict[Place, list[Store]]:
        """Stores by block; delayed ones after the last read of what they overwrite."""
        found: dict[Place, list[Store]] = {}
        for store in stores:
            stage, width = self.place(store.node)
            if self.build[store.node].op in ("rowsum", "rowmax"):
                stage, width = stage + 1, 1
            if store.delay:
                # Conservative: after every stage that computes anything.
                live = [self.computed[i] for i, n in enumerate(self.build.nodes) if self.uses[i] and n.args]
                stage = max([stage, *live])
            found.setdefault((stage, width), []).append(store)
        return found

    def _remember(self, store: Store) -> None:
        access = "next" if store.access == "next" else ""
        if not store.delay:
            operand = ("buf", store.buffer, access, store.column)
            self.home.setdefault(store.node, []).append(operand)

    def blocks(self) -> list[Block]:
        places = set(self.stores)
        for index, node in enumerate(self.build.nodes):
            if self.uses[index] and node.op not in OUTSIDE and not self.scalar[index]:
                places.add(self.place(index))
            if self.uses[index] and node.op in ("rowsum", "rowmax"):
                places.add(self.place(index))
        written: list[Block] = []
        done: set[Place] = set()
        while pending := (places | set(self.exports)) - done:
            place = max(pending)
            done.add(place)
            block = _BlockWriter(self, place).write()
            if block.code or block.gemms:
                written.append(block)
        return written[::-1]

    def memory(self, index: int, place: Place, rows: bool) -> Operand:
        """Where a later block finds a node computed in an earlier one; `rows` if a product reads it."""
        for operand in self.home.get(index, []):
            kind = self.program.buffers[operand[1]]["kind"]
            if not rows or kind in ("seq", "state", "chunk", "scratch"):
                return operand
        operand = ("buf", self.program.buffer("scratch", self.build.width(index)), "", 0)
        self.home.setdefault(index, []).append(operand)
        self.exports.setdefault(self.place(index), {})[index] = operand
        return operand

    def reduction(self, index: int) -> Operand:
        if index not in self.reduced:
            self.reduced[index] = ("buf", self.program.buffer("rowscalar", 1), "", 0)
        return self.reduced[index]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One plane and the products it sums."""

    plane: int
    factors: tuple[tuple[Operand, int], ...]
    weights: tuple[tuple[int, int, int, bool], ...]


class _BlockWriter:
    def __init__(self, emitter: Emitter, place: Place) -> None:
        self.e, self.b, self.here = emitter, emitter.build, place
        self.block = Block(place[1])
        self.done: dict[int, Operand] = {}
        self.wanted: list[_Wanted] = []

    def write(self) -> Block:
        e = self.e
        for index, operand in e.exports.get(self.here, {}).items():
            self.store(index, operand)
        for index, node in enumerate(self.b.nodes):
            if node.op in ("rowsum", "rowmax") and e.uses[index] and e.place(index) == self.here:
                self.block.emit(node.op, self.value(node.args[0]), dst=e.reduction(index))
        stores = sorted(e.stores.get(self.here, []), key=lambda s: s.delay)
        ready = [(self.value(s.node), s) for s in stores]
        for value, s in ready:
            self.block.emit("mov", value, dst=("buf", s.buffer, s.access, s.column))
        self._group_products()
        self._write_in_place()
        return self.block

    def store(self, index: int, operand: Operand) -> None:
        self.block.emit("mov", self.value(index), dst=operand)

    def _group_products(self) -> None:
        """Planes that read the same left rows are computed together, up to four at a time."""
        groups: dict[tuple[tuple[Operand, int], ...], list[_Wanted]] = {}
        for wanted in self.wanted:
            groups.setdefault(wanted.factors, []).append(wanted)
        for factors, members in groups.items():
            for first in range(0, len(members), 4):
                part = members[first : first + 4]
                segments = [
                    {"a": a, "k": k, "w": [_reference(member.weights[place]) for member in part]}
                    for place, (a, k) in enumerate(factors)
                ]
                self.block.gemms.append({"dst": [m.plane for m in part], "segments": segments})

    def _write_in_place(self) -> None:
        """`x = f(..); mov buffer, x` with nothing between that reads the buffer: write f there at once."""
        code = self.block.code
        gemm_planes = {p for gemm in self.block.gemms for p in gemm["dst"]}
        place = 0
        while place < len(code):
            op, dst, source, *_ = code[place]
            if op == "mov" and source is not None and source[0] == "plane" and source[1] not in gemm_planes:
                maker = next((i for i in range(place) if code[i][1] == source), None)
                moved = [i for i, c in enumerate(code) if c[0] == "mov" and c[2] == source]
                if maker is not None and moved == [place] and not _touched(code[maker + 1 : place], dst):
                    name, _, a, b, c = code[maker]
                    if not _touched([code[maker]], dst):
                        code[maker] = (name, dst, a, b, c)
                        del code[place]
                        for later in range(maker + 1, len(code)):
                            n, d, *sources = code[later]
                            code[later] = (n, d, *(dst if s == source else s for s in sources))  # type: ignore[assignment]
                        continue
            place += 1

    def value(self, index: int) -> Operand:
        if index not in self.done:
            self.done[index] = self._value(index)
        return self.done[index]

    def _value(self, index: int) -> Operand:
        e, node = self.e, self.b[index]
        if node.op == "imm":
            return ("const", float(node.attr[0]))
        if node.op in OUTSIDE:
            return e.leaf(node)
        if node.op in ("rowsum", "rowmax"):
            return e.reduction(index)
        if not e.scalar[index] and e.place(index) != self.here:
            return e.memory(index, self.here, rows=False)
        if node.op == "matmul":
            return self.products([index])
        if node.op == "detach":
            return self.value(node.args[0])
        if node.op == "sum":
            return self.sum(node)
        if node.op in ("sigmoid", "tanh"):
            fused = self._curve(node)
            if fused is not None:
                return fused
        if node.op == "blend":
            a, b, gate = (self.value(x) for x in node.args)
            rest = self.block.emit("sub", ("const", 1.0), gate)
            return self.block.emit("fma", gate, b, self.block.emit("mul", rest, a))
        return self.block.emit(node.op, *(self.value(a) for a in node.args))

    def alone(self, index: int) -> bool:
        """Computed here, for one reader: it may be fused into that reader."""
        e = self.e
        return (
            e.uses[index] == 1 and index not in self.done and index not in e.home
            and (e.scalar[index] or e.place(index) == self.here)
        )  # fmt: skip

    def products(self, terms: Iterable[int]) -> Operand:
        """One plane for a sum of products."""
        plane = self.block.plane()
        factors, weights = [], []
        for term in terms:
            node = self.b[term]
            x = self.b[node.args[0]]
            source = self.e.leaf(x) if x.op in READABLE else self.e.memory(node.args[0], self.here, rows=True)
            weight, row0, col0, transposed, k = node.attr
            factors.append((source, int(k)))
            weights.append((int(weight), int(row0), int(col0), bool(transposed)))
        self.wanted.append(_Wanted(plane[1], tuple(factors), tuple(weights)))
        return plane

    def terms(self, node: Node) -> tuple[list[Operand], list[int], list[int]]:
        """A sum as plain operands (products first), single-use multiplications, and negated terms."""
        products, plain, fused, negative = [], [], [], []
        for term in node.args:
            inner = self.b[term]
            if inner.op == "matmul" and self.alone(term):
                products.append(term)
            elif inner.op == "mul" and self.alone(term):
                fused.append(term)
            elif inner.op == "neg" and self.alone(term):
                negative.append(inner.args[0])
            else:
                plain.append(self.value(term))
        ready = [self.products(products)] if products else []
        return ready + plain, fused, negative

    def sum(self, node: Node) -> Operand:
        plain, fused, negative = self.terms(node)
        return self._joined(plain, fused, negative)

    def _joined(self, plain: list[Operand], fused: list[int], negative: list[int]) -> Operand:
        emit = self.block.emit
        if plain:
            total, plain = plain[0], plain[1:]
        else:
            total = emit("mul", *(self.value(a) for a in self.b[fused[0]].args)) if fused else ("const", 0.0)
            fused = fused[1:]
        while len(plain) >= 2:
            total, plain = emit("add3", total, plain[0], plain[1]), plain[2:]
        if plain:
            total = emit("add", total, plain[0])
        for term in fused:
            total = emit("fma", *(self.value(a) for a in self.b[term].args), total)
        for term in negative:
            inner = self.b[term]
            if inner.op == "mul" and self.alone(term):
                total = emit("fnma", *(self.value(a) for a in inner.args), total)
            else:
                total = emit("sub", total, self.value(term))
        return total

    def _curve(self, node: Node) -> Operand | None:
        """sigmoid and tanh of a sum, in one instruction with its last additions."""
        inner = self.b[node.args[0]]
        if inner.op != "sum" or not self.alone(node.args[0]):
            return None
        plain, fused, negative = self.terms(inner)
        emit = self.block.emit
        if negative or not plain:
            return emit(node.op, self._joined(plain, fused, negative))
        if node.op == "tanh" and fused:
            head = self._joined(plain, fused[:-1], [])
            return emit("tanh_fma", *(self.value(a) for a in self.b[fused[-1]].args), head)
        if fused:
            return emit(node.op, self._joined(plain, fused, []))
        if node.op == "sigmoid" and len(plain) >= 3:
            head = self._joined(plain[:-2], [], [])
            return emit("sigmoid_add3", head, plain[-2], plain[-1])
        return emit(f"{node.op}_add", self._joined(plain[:-1], [], []), plain[-1])


def _reference(weight: tuple[int, int, int, bool]) -> dict[str, int | bool]:
    return {"w": weight[0], "row0": weight[1], "col0": weight[2], "trans": weight[3]}


def _touched(
    code: list[tuple[str, Operand, Operand | None, Operand | None, Operand | None]], buffer: Operand
) -> bool:
    """Whether instructions read or write the buffer (any column of it)."""
    return any(
        operand is not None and operand[0] == "buf" and operand[1:3] == buffer[1:3]
        for part in code
        for operand in part[1:]
    )
