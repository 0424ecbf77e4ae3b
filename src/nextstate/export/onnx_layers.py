"""Cells as ONNX: the standard operators where a cell is one of them, `Scan` for every other cell.

Wrappers are taken apart, so that each cell of a stack becomes the best operator for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.cell import Cell
from nextstate.cells import GRU, LSTM, CoupledLSTM, Elman, PeepholeLSTM, ResetBeforeGRU
from nextstate.combine import Dropped, Embedded, LearnedStart, Quantised, Residual, Stacked
from nextstate.export.graph import step_graph
from nextstate.export.onnx_graph import Graph
from nextstate.export.onnx_scan import Frame, ScanWriter
from nextstate.states import Tree, leaves, rebuild


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the graph, time first, and an example of one step of it, [1, ...]."""

    name: str
    like: Tensor


@dataclass(frozen=True, slots=True)
class Standard:
    """How a cell becomes one operator: which of its gates (by place) stand where in ONNX's order.

    ONNX: GRU z, r, h; LSTM i, o, f, c; peepholes i, o, f. `None` is a gate that the operator has and the
    cell has not.
    """

    operator: str
    gates: tuple[int | None, ...]
    attributes: dict[str, Any]


STANDARD: dict[type[Cell], Standard] = {
    GRU: Standard("GRU", (1, 0, 2), {"linear_before_reset": 1}),
    ResetBeforeGRU: Standard("GRU", (1, 0, 2), {"linear_before_reset": 0}),
    LSTM: Standard("LSTM", (0, 3, 1, 2), {}),
    PeepholeLSTM: Standard("LSTM", (0, 3, 1, 2), {}),
    CoupledLSTM: Standard("LSTM", (0, 2, None, 1), {"input_forget": 1}),
    Elman: Standard("RNN", (0,), {}),
}
ACTIVATIONS: dict[str, tuple[Any, ...]] = {
    "Tanh": (torch.tanh, F.tanh, nn.Tanh),
    "Relu": (torch.relu, F.relu, nn.ReLU),
    "Sigmoid": (torch.sigmoid, F.sigmoid, nn.Sigmoid),
}


def standard(cell: Cell) -> Standard | None:
    """The operator of a cell, or None where there is none for it."""
    found = STANDARD.get(type(cell))
    if found is None or not isinstance(cell, Elman):
        return found
    for name, forms in ACTIVATIONS.items():
        if cell.activation in forms or type(cell.activation) in forms:
            return Standard("RNN", (0,), {"activations": [name]})
    return None


@dataclass(slots=True)
class Layers:
    """Writes cells, one after the other, into one graph.

    `lengths` [B] are the steps of each row. `bounds`: how many ids an input may take, by its name.
    """

    g: Graph
    frame: Frame
    lengths: str
    operation: str
    bounds: dict[str, int] = field(default_factory=dict)
    operators: list[str] = field(default_factory=list)
    """What each cell became, in order."""

    def run(
        self, cell: Cell, us: list[Value], u: Tree, s0: list[str], backward: bool = False
    ) -> tuple[list[Value], Tree, list[str]]:
        """Outputs (past a row's end anything), the tree of one output, last states; `u` is the input's tree.

        `backward` reads each row from its own last step to its first.
        """
        if backward and not isinstance(cell, LearnedStart) and standard(cell) is None:
            vs, v, last = self.run(cell, [self.reverse(x) for x in us], u, s0)
            return [self.reverse(x) for x in vs], v, last
        part = _PARTS.get(type(cell))
        if part is not None:
            return part(self, cell, us, u, s0, backward)
        if standard(cell) is not None:
            return self._standard(cell, us, s0, backward)
        return self._scan(cell, us, u, s0)

    def reverse(self, x: Value) -> Value:
        name = self.g.op("ReverseSequence", x.name, self.lengths, batch_axis=1, time_axis=0)
        return Value(name, x.like)

    def flat(self, x: Value, rows: int) -> str:
        """Features in one dimension, after `rows` dimensions of rows; ids stay as they are."""
        if x.like.dim() == 2 and x.like.is_floating_point():
            return x.name
        if not x.like.is_floating_point() and x.like.dtype != torch.bool:
            return x.name
        name = x.name if x.like.is_floating_point() else self.g.cast(x.name, "FLOAT")
        return self.g.op("Reshape", name, self.g.integers(*[0] * rows, x.like[0].numel()))

    def shaped(self, name: str, like: Tensor, rows: int) -> str:
        """The features as a tensor like [1, ...] has them."""
        if like.dim() != 2:
            name = self.g.op("Reshape", name, self.g.integers(*[0] * rows, *like.shape[1:]))
        return self.g.cast(name, "BOOL") if like.dtype == torch.bool else name

    def _scan(
        self, cell: Cell, us: list[Value], u: Tree, s0: list[str]
    ) -> tuple[list[Value], Tree, list[str]]:
        s = cell.initial_state(1)
        step = step_graph(self.operation, cell, rebuild(u, [x.like for x in us]), s)
        for table, k in step.tables:
            self.bound(us[k].name, len(table))
        rows = leaves(s)
        flat = [self.flat(Value(name, row), 1) for name, row in zip(s0, rows, strict=True)]
        read = {int(n.attr[0]) for n in step.build.nodes if n.op == "seq"}
        entered = [self._entered(x) if k in read else "" for k, x in enumerate(us)]
        outs, last = ScanWriter(self.g, step, entered, [x.name for x in us], flat, self.frame).write()
        self.operators.append(f"Scan ({type(cell).__name__})" if rows else f"({type(cell).__name__})")
        v = _real(step.v_like)
        vs = [Value(self.shaped(name, x, 2), x) for name, x in zip(outs, leaves(v), strict=True)]
        return vs, v, [self.shaped(name, x, 1) for name, x in zip(last, rows, strict=True)]

    def _entered(self, x: Value) -> str:
        """An input as rows of float32 features."""
        integer = not x.like.is_floating_point() and x.like.dtype != torch.bool
        if not integer:
            return self.flat(x, 2)
        return self.flat(Value(self.g.cast(x.name, "FLOAT"), x.like.float()), 2)

    def bound(self, name: str, rows: int) -> None:
        self.bounds[name] = min(rows, self.bounds.get(name, rows))

    def _standard(
        self, cell: Any, us: list[Value], s0: list[str], backward: bool
    ) -> tuple[list[Value], Tree, list[str]]:
        g, kind = self.g, standard(cell)
        assert kind is not None
        h = cell.hidden_size

        def ordered(x: Tensor) -> Tensor:
            blank = x.new_zeros((h, *x.shape[1:]))
            return torch.cat([blank if k is None else x[k * h : (k + 1) * h] for k in kind.gates])[None]

        zero = cell.weight_ih.new_zeros(len(cell.weight_ih))
        biases = [zero if b is None else b for b in (cell.bias_ih, cell.bias_hh)]
        inputs = [us[0].name]
        inputs += [
            g.number(ordered(w.detach()).numpy(), hint="weight") for w in (cell.weight_ih, cell.weight_hh)
        ]
        inputs.append(g.number(torch.cat([ordered(b.detach()) for b in biases], 1).numpy(), hint="bias"))
        inputs.append(g.cast(self.lengths, "INT32"))
        inputs += [g.op("Unsqueeze", s, g.integers(0)) for s in s0]
        if isinstance(cell, PeepholeLSTM):
            i, f, o = cell.peephole.detach().chunk(3)
            inputs.append(g.number(torch.cat([i, o, f])[None].numpy(), hint="peephole"))
        direction = "reverse" if backward else "forward"
        found = g.op(
            kind.operator, *inputs, outputs=1 + len(s0), hidden_size=h, direction=direction, **kind.attributes
        )
        last = [g.op("Squeeze", x, g.integers(0)) for x in found[1:]]
        # A row without steps keeps its start; runtimes hand back zeros for it.
        some = g.op("Unsqueeze", g.op("Greater", self.lengths, g.number(0, np.int64)), g.integers(1))
        last = [g.op("Where", some, new, old) for new, old in zip(last, s0, strict=True)]
        self.operators.append(f"{kind.operator} ({type(cell).__name__})")
        v = torch.zeros(1, h)
        return [Value(g.op("Squeeze", found[0], g.integers(1)), v)], v, last


def _real(tree: Tree) -> Tree:
    """Examples [1, ...] of the tensors that a trace has shown."""
    return rebuild(tree, [torch.zeros(1, *x.shape[1:], dtype=x.dtype) for x in leaves(tree)])


def _widths(cell: Cell) -> int:
    return len(leaves(cell.initial_state(1)))


def _stacked(
    layers: Layers, cell: Any, us: list[Value], u: Tree, s0: list[str], backward: bool
) -> tuple[list[Value], Tree, list[str]]:
    last: list[str] = []
    for part in cell.cells:
        count = _widths(part)
        us, u, end = layers.run(part, us, u, s0[:count])
        s0 = s0[count:]
        last += end
    return us, u, last


def _residual(
    layers: Layers, cell: Any, us: list[Value], u: Tree, s0: list[str], backward: bool
) -> tuple[list[Value], Tree, list[str]]:
    vs, v, last = layers.run(cell.cell, us, u, s0)
    return [Value(layers.g.op("Add", us[0].name, vs[0].name), vs[0].like)], v, last


def _embedded(
    layers: Layers, cell: Any, us: list[Value], u: Tree, s0: list[str], backward: bool
) -> tuple[list[Value], Tree, list[str]]:
    table = cell.table.detach()
    layers.bound(us[0].name, len(table))
    name = layers.g.op("Gather", layers.g.number(table.numpy(), hint="table"), us[0].name, axis=0)
    return layers.run(cell.cell, [Value(name, table[:1])], table[:1], s0)


def _same(
    layers: Layers, cell: Any, us: list[Value], u: Tree, s0: list[str], backward: bool
) -> tuple[list[Value], Tree, list[str]]:
    return layers.run(cell.cell, us, u, s0, backward)


def _dropped(
    layers: Layers, cell: Any, us: list[Value], u: Tree, s0: list[str], backward: bool
) -> tuple[list[Value], Tree, list[str]]:
    count = _widths(cell.cell)
    vs, v, last = layers.run(cell.cell, us, u, s0[:count])
    return vs, v, [*last, *s0[count:]]


_PARTS: dict[type, Callable[..., tuple[list[Value], Tree, list[str]]]] = {
    Stacked: _stacked, Residual: _residual, Embedded: _embedded, Dropped: _dropped,
    LearnedStart: _same, Quantised: _same,
}  # fmt: skip
