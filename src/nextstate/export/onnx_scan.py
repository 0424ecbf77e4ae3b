"""A cell over a sequence as ONNX's `Scan`: what needs no state before it, what feeds none after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nextstate.compiler.ir import Builder
from nextstate.export.graph import StepGraph
from nextstate.export.onnx_graph import Graph, emit

CONSTANT, INPUT, STATE = 1, 2, 4
"""What a node is made of, beside parameters; the highest decides where it stands."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The names of the sequence's own sizes and masks in the outermost graph.

    `steps` and `batch` are [1] integers, `valid` [T, B, 1] is true within each row's own length.
    """

    steps: str
    batch: str
    valid: str


class ScanWriter:
    """Writes one cell; `us` are the inputs as rows [T, B, w], `ids` as ids [T, B], `s0` rows [B, w]."""

    def __init__(
        self, g: Graph, step: StepGraph, us: list[str], ids: list[str], s0: list[str], frame: Frame
    ) -> None:
        self.g, self.step, self.us, self.ids, self.s0, self.frame = g, step, us, ids, s0, frame
        self.build: Builder = step.build
        self.moving = [k for k in range(len(s0)) if not step.constant(k)]
        self.kinds = self._kinds()
        self.inside = self._inside()
        self.outer: dict[int, str] = {}

    def write(self) -> tuple[list[str], list[str]]:
        """Outputs [T, B, w] (past a row's end anything) and last states [B, w], by name."""
        last = list(self.s0)
        if self.moving:
            for k, name in zip(self.moving, self._loop(), strict=True):
                last[k] = name
        return [self._full(self.value(root), root) for root in self.step.outputs], last

    def _kinds(self) -> list[int]:
        found: list[int] = []
        for node in self.build.nodes:
            kind = {"seq": INPUT, "gather": INPUT}.get(node.op, 0)
            if node.op == "state":
                kind = STATE if int(node.attr[0]) in self.moving else CONSTANT
            for argument in node.args:
                kind |= found[argument]
            found.append(kind)
        return found

    def _inside(self) -> set[int]:
        """Nodes that need the state and that the next state needs."""
        found: set[int] = set()
        pending = [self.step.next_states[k] for k in self.moving]
        while pending:
            index = pending.pop()
            if index not in found and self.kinds[index] & STATE:
                found.add(index)
                pending.extend(self.build[index].args)
        return found

    def value(self, index: int) -> str:
        """A node in the outer graph, for all steps at once."""
        if index not in self.outer:
            self.outer[index] = self._outside(index)
        return self.outer[index]

    def _outside(self, index: int) -> str:
        g, node = self.g, self.build[index]
        if node.op == "imm":
            return g.number(node.attr[0])
        if node.op == "vec":
            return g.number(self.step.vecs[int(node.attr[0])].numpy(), hint="bias")
        if node.op == "seq":
            return self.us[int(node.attr[0])]
        if node.op == "gather":
            table, ids = self.step.tables[int(node.attr[0])]
            return g.op("Gather", g.number(table.numpy(), hint="table"), self.ids[ids], axis=0)
        if node.op == "state":
            return self.s0[int(node.attr[0])]
        if node.op == "concat":
            return g.op("Concat", *(self._full(self.value(a), a) for a in node.args), axis=-1)
        return emit(g, node, [self.value(a) for a in node.args], self.step.weights)

    def _full(self, name: str, index: int) -> str:
        """With all of [T, B, w], where the value is the same for every step or row."""
        if self.kinds[index] & (INPUT | STATE):
            return name
        wanted = (self.frame.steps, self.frame.batch, self.g.integers(self.build.width(index)))
        return self.g.op("Expand", name, self.g.op("Concat", *wanted, axis=0))

    def _loop(self) -> list[str]:
        """The Scan: its last states; the values that leave it are entered in `outer`."""
        from onnx import TensorProto, helper

        body = _Body(self)
        olds = {k: self.g.name("old") for k in self.moving}
        valid = self.g.name("valid")
        for k, name in olds.items():
            for index, node in enumerate(self.build.nodes):
                if node.op == "state" and int(node.attr[0]) == k:
                    body.done[index] = name
        news = {}
        for k in self.moving:
            new = body.full(self.step.next_states[k], olds[k])
            news[k] = body.g.op("Where", valid, new, olds[k])
        leaving = self._leaving()
        outs = [body.g.op("Identity", body.value(index)) for index in leaving]

        def row(name: str, width: int) -> Any:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])

        widths = self.step.state_widths
        entering = [self._full(self.value(index), index) for index in body.entering]
        inputs = [row(olds[k], widths[k]) for k in self.moving]
        inputs.append(helper.make_tensor_value_info(valid, TensorProto.BOOL, ["batch", 1]))
        inputs += [row(name, self.build.width(i)) for i, name in body.entering.items()]
        outputs = [row(news[k], widths[k]) for k in self.moving]
        outputs += [row(name, self.build.width(i)) for name, i in zip(outs, leaving, strict=True)]
        inner = helper.make_graph(body.g.nodes, self.g.name("step"), inputs, outputs)
        names = self.g.op(
            "Scan",
            *(self.s0[k] for k in self.moving),
            self.frame.valid,
            *entering,
            outputs=len(outputs),
            body=inner,
            num_scan_inputs=1 + len(entering),
        )
        names = [names] if isinstance(names, str) else names
        for index, name in zip(leaving, names[len(self.moving) :], strict=True):
            self.outer[index] = name
        return names[: len(self.moving)]

    def _leaving(self) -> list[int]:
        """The values of the loop (and states before each step) that outputs are made of."""
        found: dict[int, None] = {}
        pending, seen = list(self.step.outputs), set[int]()
        while pending:
            index = pending.pop()
            if index in seen or not self.kinds[index] & STATE:
                continue
            seen.add(index)
            if index in self.inside or self.build[index].op == "state":
                found[index] = None
            else:
                pending.extend(self.build[index].args)
        return list(found)


class _Body:
    """The graph inside the Scan: one step of [B, w] rows."""

    def __init__(self, outer: ScanWriter) -> None:
        self.outer, self.g = outer, Graph(outer.g)
        self.done: dict[int, str] = {}
        self.entering: dict[int, str] = {}

    def value(self, index: int) -> str:
        if index not in self.done:
            self.done[index] = self._value(index)
        return self.done[index]

    def _value(self, index: int) -> str:
        o, node = self.outer, self.outer.build[index]
        kind = o.kinds[index]
        if not kind & STATE:
            if not kind & INPUT:
                return o.value(index)
            self.entering[index] = self.g.name("now")
            return self.entering[index]
        if node.op == "concat":
            like = next(self.value(a) for a in node.args if o.kinds[a] & STATE)
            return self.g.op("Concat", *(self.full(a, like) for a in node.args), axis=-1)
        return emit(self.g, node, [self.value(a) for a in node.args], o.step.weights)

    def full(self, index: int, like: str) -> str:
        """With all of [B, w], where the value is the same for every row; `like` is one that has them."""
        name = self.value(index)
        if self.outer.kinds[index]:
            return name
        batch = self.g.op("Shape", like, start=0, end=1)
        width = self.g.integers(self.outer.build.width(index))
        return self.g.op("Expand", name, self.g.op("Concat", batch, width, axis=0))


def write_step(g: Graph, step: StepGraph, ids: list[str], s: list[str]) -> tuple[list[str], list[str]]:
    """One step that reads ids [B] alone, in a graph of its own: outputs and next states [B, w]."""
    done: list[str] = []
    batch = g.op("Shape", ids[0], start=0, end=1)

    def full(index: int) -> str:
        return g.op("Expand", done[index], g.op("Concat", batch, g.integers(step.build.width(index)), axis=0))

    for node in step.build.nodes:
        if node.op == "imm":
            done.append(g.number(node.attr[0]))
        elif node.op == "vec":
            done.append(g.number(step.vecs[int(node.attr[0])].numpy(), hint="bias"))
        elif node.op == "gather":
            table, k = step.tables[int(node.attr[0])]
            done.append(g.op("Gather", g.number(table.numpy(), hint="table"), ids[k], axis=0))
        elif node.op == "state":
            done.append(s[int(node.attr[0])])
        elif node.op == "concat":
            done.append(g.op("Concat", *(full(a) for a in node.args), axis=-1))
        else:
            done.append(emit(g, node, [done[a] for a in node.args], step.weights))
    return [full(k) for k in step.outputs], [full(k) for k in step.next_states]
