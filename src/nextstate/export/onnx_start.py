"""The frame of every ONNX graph of ours: named inputs, sizes and masks, states that may be left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from nextstate.cell import Cell
from nextstate.export.names import paths
from nextstate.export.onnx_graph import Graph
from nextstate.export.onnx_layers import Layers, Value
from nextstate.export.onnx_scan import Frame
from nextstate.states import Tree, leaves, rebuild

OPERATION = "export.onnx"
EVERY_STEP = np.iinfo(np.int64).max
"""The default of `lengths`: more steps than any sequence has."""


Given = dict[str, Tensor | None]
"""Inputs by name; None for one that is left out."""


@dataclass(slots=True)
class Port:
    """A named tensor of the finished graph; `dims` are numbers or names, `default` makes it optional."""

    name: str
    dims: tuple[int | str, ...]
    dtype: torch.dtype
    default: Tensor | None = None


@dataclass(slots=True)
class Model:
    """A module as a graph: `meaning` maps the inputs, by name, to the outputs in order."""

    g: Graph
    inputs: list[Port]
    outputs: list[Port]
    meaning: Callable[[Given], list[Tensor]]
    layers: Layers
    results: list[str] = field(default_factory=list)


class Start:
    """The beginning of every graph: sizes, masks, lengths and states, from inputs that may be left out."""

    def __init__(self, first: str, time: int) -> None:
        """`first` is the input whose dimension `time` (0 or 1) is time and the other one the batch."""
        g = self.g = Graph()
        self.inputs: list[Port] = []
        self.steps = g.op("Shape", first, start=time, end=time + 1)
        self.batch = g.op("Shape", first, start=1 - time, end=2 - time)
        given = g.op("Expand", "lengths", self.batch)
        self.lengths = g.op("Min", given, self.steps)
        scalar = g.op("Squeeze", self.steps, g.integers(0))
        times = g.op("Range", g.number(0, np.int64), scalar, g.number(1, np.int64))
        self.live = g.op("Less", g.op("Unsqueeze", times, g.integers(1)), self.lengths)
        frame = Frame(self.steps, self.batch, g.op("Unsqueeze", self.live, g.integers(2)))
        self.layers = Layers(g, frame, self.lengths, OPERATION)

    def states(self, prefix: str, tree: Tree) -> list[str]:
        """Inputs for a state, by default the cell's own start: names of [B, ...] values."""
        found = []
        for name, x in zip(paths(prefix, tree), leaves(tree), strict=True):
            self.inputs.append(Port(name, (f"{name}_rows", *x.shape[1:]), x.dtype, x))
            parts = [self.batch] + ([self.g.integers(*x.shape[1:])] if x.dim() > 1 else [])
            found.append(self.g.op("Expand", name, self.g.op("Concat", *parts, axis=0)))
        return found

    def own(self, *cells: Cell) -> list[str]:
        """The cells' own starts as numbers: [B, ...] values."""
        found = []
        for x in (x for cell in cells for x in leaves(cell.initial_state(1))):
            parts = [self.batch] + ([self.g.integers(*x.shape[1:])] if x.dim() > 1 else [])
            number = self.g.number(x.detach().numpy(), hint="start")
            found.append(self.g.op("Expand", number, self.g.op("Concat", *parts, axis=0)))
        return found

    def ends(self) -> None:
        """The last input."""
        self.inputs.append(Port("lengths", ("lengths_rows",), torch.int64, torch.tensor([EVERY_STEP])))

    def cleared(self, x: Value) -> Value:
        """Zeros past each row's end, so that nothing there can do harm."""
        g = self.g
        mask = self.layers.frame.valid
        if x.like.dim() != 2:
            mask = g.op("Reshape", self.live, g.integers(0, 0, *[1] * (x.like.dim() - 1)))
        if x.like.dtype == torch.bool:
            return Value(g.op("And", mask, x.name), x.like)
        kinds = {torch.float32: np.float32, torch.int64: np.int64, torch.int32: np.int32}
        return Value(g.op("Where", mask, x.name, g.number(0, kinds[x.like.dtype])), x.like)


def there(given: Given, name: str) -> Tensor:
    """An input that cannot be left out."""
    found = given[name]
    assert found is not None
    return found


def state_of(given: Given, prefix: str, tree: Tree) -> Tree | None:
    """The state that was given, None if it was left out."""
    parts = [given[name] for name in paths(prefix, tree)]
    return None if any(x is None for x in parts) else rebuild(tree, [x for x in parts if x is not None])


def state_ports(s: Tree) -> list[Port]:
    """The last state as outputs."""
    return [
        Port(name, ("batch", *x.shape[1:]), x.dtype)
        for name, x in zip(paths("sT", s), leaves(s), strict=True)
    ]


def read_out(g: Graph, x: str, layer: nn.Linear) -> str:
    """A linear layer."""
    y = g.op("MatMul", x, g.number(layer.weight.detach().T.numpy(), hint="weight"))
    return y if layer.bias is None else g.op("Add", y, g.number(layer.bias.detach().numpy(), hint="bias"))
