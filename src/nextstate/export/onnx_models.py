"""What can be exported as ONNX: for each kind of module its inputs, its outputs and the graph between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from nextstate.cell import Cell
from nextstate.cells import LSTMState
from nextstate.checks import refuse
from nextstate.explain import guess
from nextstate.export.onnx_graph import Graph
from nextstate.export.onnx_layers import Layers, Value
from nextstate.export.onnx_scan import Frame
from nextstate.networks import (
    Bidirectional,
    Concatenation,
    Ends,
    Last,
    LanguageModel,
    Max,
    Mean,
    SequenceClassifier,
)
from nextstate.nn.views import cells_of
from nextstate.run import scan
from nextstate.states import Tree, leaves, rebuild, tree_map

OPERATION = "export.onnx"
EVERY_STEP = np.iinfo(np.int64).max
"""The default of `lengths`: more steps than any sequence has."""


@dataclass(slots=True)
class Port:
    """A named tensor of the finished graph. `dims` are numbers or names; `default` makes an input optional."""

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
    meaning: Callable[[dict[str, Tensor | None]], list[Tensor]]
    layers: Layers
    results: list[str] = field(default_factory=list)


def paths(prefix: str, tree: Tree) -> list[str]:
    """A name for each tensor of a tree: s0, s0_h and s0_c, s0_0_h, ..."""
    if isinstance(tree, Tensor):
        return [prefix]
    fields = getattr(tree, "_fields", range(len(tree)))
    return [x for name, part in zip(fields, tree, strict=True) for x in paths(f"{prefix}_{name}", part)]


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


def _sequence(names: list[str], us: Tree) -> list[Port]:
    return [
        Port(name, ("time", "batch", *u.shape[2:]), u.dtype)
        for name, u in zip(names, leaves(us), strict=True)
    ]


def _entered(start: Start, ports: list[Port]) -> list[Value]:
    """Inputs of a loop; ids past a row's end become 0, since they are looked up."""
    values = [Value(p.name, torch.zeros(1, *p.dims[2:], dtype=p.dtype)) for p in ports]  # type: ignore[arg-type]
    return [start.cleared(x) if x.like.dtype in (torch.int64, torch.int32) else x for x in values]


def _outputs(
    start: Start, vs: list[Value], v: Tree, last: list[str], s: Tree
) -> tuple[list[Port], list[str]]:
    ports = [
        Port(name, ("time", "batch", *x.like.shape[1:]), x.like.dtype)
        for name, x in zip(paths("vs", v), vs, strict=True)
    ]
    ports += [
        Port(name, ("batch", *x.shape[1:]), x.dtype)
        for name, x in zip(paths("sT", s), leaves(s), strict=True)
    ]
    return ports, [*(start.cleared(x).name for x in vs), *last]


def of_cell(cell: Cell, us: Tree | None) -> Model:
    us = guess(OPERATION, cell) if us is None else us
    s = cell.initial_state(1)
    ports = _sequence(paths("us", us), us)
    start = Start(ports[0].name, 0)
    names = start.states("s0", s)
    start.ends()
    vs, v, last = start.layers.run(cell, _entered(start, ports), tree_map(lambda u: u[0], us), names)
    outputs, results = _outputs(start, vs, v, last, s)

    def meaning(given: dict[str, Tensor | None]) -> list[Tensor]:
        return _scanned(cell, us, s, ports, given)

    return Model(start.g, [*ports, *start.inputs], outputs, meaning, start.layers, results)


def _scanned(
    cell: Cell, us: Tree, s: Tree, ports: list[Port], given: dict[str, Tensor | None]
) -> list[Tensor]:
    inputs = rebuild(us, [_there(given, p.name) for p in ports])
    starts = [given[name] for name in paths("s0", s)]
    s0 = None if any(x is None for x in starts) else rebuild(s, [x for x in starts if x is not None])
    vs, last = scan(cell, inputs, s0, lengths=given["lengths"], engine="reference")
    return [*leaves(vs), *leaves(last)]


def _there(given: dict[str, Tensor | None], name: str) -> Tensor:
    found = given[name]
    assert found is not None
    return found


def both(
    start: Start, layer: Bidirectional, us: list[Value], u: Tree, s0: list[str]
) -> tuple[list[Value], Tree, list[str]]:
    """Both directions side by side."""
    count = len(leaves(layer.forward_cell.initial_state(1)))
    run = start.layers.run
    vs_f, v, end_f = run(layer.forward_cell, us, u, s0[:count])
    vs_b, _, end_b = run(layer.backward_cell, us, u, s0[count:], backward=True)
    joined = [
        Value(start.g.op("Concat", f.name, b.name, axis=-1), torch.cat([f.like, b.like], -1))
        for f, b in zip(vs_f, vs_b, strict=True)
    ]
    return joined, rebuild(v, [x.like for x in joined]), [*end_f, *end_b]


def of_bidirectional(layer: Bidirectional, us: Tree | None) -> Model:
    us = guess(OPERATION, layer.forward_cell) if us is None else us
    s = (layer.forward_cell.initial_state(1), layer.backward_cell.initial_state(1))
    ports = _sequence(paths("us", us), us)
    start = Start(ports[0].name, 0)
    names = start.states("s0", s)
    start.ends()
    vs, v, last = both(start, layer, _entered(start, ports), tree_map(lambda u: u[0], us), names)
    outputs, results = _outputs(start, vs, v, last, s)

    def meaning(given: dict[str, Tensor | None]) -> list[Tensor]:
        inputs = rebuild(us, [_there(given, p.name) for p in ports])
        starts = [given[name] for name in paths("s0", s)]
        s0 = None if any(x is None for x in starts) else rebuild(s, [x for x in starts if x is not None])
        found, ends = layer(inputs, s0, given["lengths"])
        return [*leaves(found), *leaves(ends)]

    return Model(start.g, [*ports, *start.inputs], outputs, meaning, start.layers, results)


def _read_out(g: Graph, x: str, layer: nn.Linear) -> str:
    y = g.op("MatMul", x, g.number(layer.weight.detach().T.numpy(), hint="weight"))
    return y if layer.bias is None else g.op("Add", y, g.number(layer.bias.detach().numpy(), hint="bias"))


def of_language_model(model: LanguageModel, us: Tree | None) -> Model:
    s = model.cell.initial_state(1)
    port = Port("ids", ("batch", "time"), torch.int64)
    start = Start("ids", 1)
    names = start.states("s0", s)
    start.ends()
    one = torch.zeros(1, dtype=torch.int64)
    ids = start.cleared(Value(start.g.op("Transpose", "ids", perm=[1, 0]), one))
    vs, _, last = start.layers.run(model.cell, [ids], one, names)
    logits = _read_out(start.g, start.cleared(vs[0]).name, model.readout)
    results = [start.g.op("Transpose", logits, perm=[1, 0, 2]), *last]
    outputs = [Port("logits", ("batch", "time", model.vocabulary), torch.float32)]
    outputs += [
        Port(n, ("batch", *x.shape[1:]), x.dtype) for n, x in zip(paths("sT", s), leaves(s), strict=True)
    ]
    start.layers.bound("ids", model.vocabulary)

    def meaning(given: dict[str, Tensor | None]) -> list[Tensor]:
        starts = [given[name] for name in paths("s0", s)]
        s0 = None if any(x is None for x in starts) else rebuild(s, [x for x in starts if x is not None])
        found, end = model(_there(given, "ids"), s0, given["lengths"])
        return [found, *leaves(end)]

    return Model(start.g, [port, *start.inputs], outputs, meaning, start.layers, results)


def pooled(start: Start, pooling: nn.Module, vs: Value) -> str:
    """One vector a row, as the poolings of `nextstate.networks` make it: [B, F]."""
    g, layers = start.g, start.layers
    some = g.op("Unsqueeze", g.op("Greater", layers.lengths, g.number(0, np.int64)), g.integers(1))

    def first(x: Value) -> str:
        taken = g.op("Gather", x.name, g.number(0, np.int64), axis=0)
        return g.op("Where", some, taken, g.number(0.0))

    if type(pooling) is Last:
        return first(layers.reverse(vs))
    if type(pooling) is Ends:
        half = vs.like.shape[-1] // 2
        sizes = g.integers(half, half)
        forward, backward = g.op("Split", vs.name, sizes, outputs=2, axis=-1)
        like = vs.like[:, :half]
        ends = first(layers.reverse(Value(forward, like))), first(Value(backward, like))
        return g.op("Concat", *ends, axis=-1)
    if type(pooling) is Mean:
        total = g.op("ReduceSum", start.cleared(vs).name, g.integers(0), keepdims=0)
        count = g.cast(g.op("Max", layers.lengths, g.integers(1)), "FLOAT")
        return g.op("Div", total, g.op("Unsqueeze", count, g.integers(1)))
    if type(pooling) is Max:
        low = g.op("Where", layers.frame.valid, vs.name, g.number(-np.inf))
        return g.op("Where", some, g.op("ReduceMax", low, axes=[0], keepdims=0), g.number(0.0))
    if type(pooling) is Concatenation:
        return g.op("Concat", *(pooled(start, part, vs) for part in pooling.poolings), axis=-1)
    return refuse(OPERATION, f"no form in ONNX is known for the pooling {type(pooling).__name__}")


def of_classifier(model: SequenceClassifier, us: Tree | None) -> Model:
    reads = model.table is not None
    port = (
        Port("ids", ("batch", "time"), torch.int64)
        if reads
        else Port("features", ("batch", "time", model.inputs), torch.float32)
    )
    start = Start(port.name, 1)
    start.ends()
    g = start.g
    turned = g.op("Transpose", port.name, perm=[1, 0] if reads else [1, 0, 2])
    x = Value(turned, torch.zeros(1, model.inputs))
    if model.table is not None:
        ids = start.cleared(Value(turned, torch.zeros(1, dtype=torch.int64)))
        table = g.number(model.table.detach().numpy(), hint="table")
        x = Value(g.op("Gather", table, ids.name, axis=0), x.like)
        start.layers.bound("ids", len(model.table))
    for layer in model.layers:
        cells = (layer.forward_cell, layer.backward_cell) if isinstance(layer, Bidirectional) else (layer,)
        parts = [part for cell in cells for part in leaves(cell.initial_state(1))]
        s0 = []
        for part in parts:
            wanted = g.op("Concat", start.batch, g.integers(*part.shape[1:]), axis=0)
            s0.append(g.op("Expand", g.number(part.detach().numpy(), hint="start"), wanted))
        if isinstance(layer, Bidirectional):
            vs, _, _ = both(start, layer, [x], x.like, s0)
        else:
            vs, _, _ = start.layers.run(layer, [x], x.like, s0)
        x = vs[0]
    logits = _read_out(g, pooled(start, model.pooling, x), model.readout)
    outputs = [Port("logits", ("batch", model.readout.out_features), torch.float32)]

    def meaning(given: dict[str, Tensor | None]) -> list[Tensor]:
        return [model(_there(given, port.name), given["lengths"])]

    return Model(g, [port, *start.inputs], outputs, meaning, start.layers, [logits])


def of_torch(layer: nn.RNNBase, us: Tree | None) -> Model:
    """A layer of `torch.nn` (or its drop-in), with its own names and shapes, and `lengths` besides."""
    first = layer.batch_first
    dims: tuple[Any, ...] = ("batch", "time") if first else ("time", "batch")
    port = Port("input", (*dims, layer.input_size), torch.float32)
    start = Start("input", int(first))
    g, directions = start.g, 1 + layer.bidirectional
    count, width = layer.num_layers * directions, layer.proj_size or layer.hidden_size
    sizes = {"h": width} | ({"c": layer.hidden_size} if isinstance(layer, nn.LSTM) else {})
    starts = []
    for name, size in sizes.items():
        start.inputs.append(
            Port(f"{name}_0", (count, f"{name}_0_rows", size), torch.float32, torch.zeros(count, 1, size))
        )
        whole = g.op("Concat", g.integers(count), start.batch, g.integers(size), axis=0)
        full = g.op("Expand", f"{name}_0", whole)
        starts.append([g.op("Gather", full, g.number(k, np.int64), axis=0) for k in range(count)])
    start.ends()
    cells = cells_of(layer)
    x = Value(
        g.op("Transpose", "input", perm=[1, 0, 2]) if first else "input", torch.zeros(1, layer.input_size)
    )
    ends: list[list[str]] = []
    for k in range(0, count, directions):
        found = []
        for d in range(directions):
            s0 = [part[k + d] for part in starts]
            vs, _, last = start.layers.run(cells[k + d], [x], x.like, s0, backward=bool(d))
            found.append(vs[0])
            ends.append(last)
        name = found[0].name if directions == 1 else g.op("Concat", *(v.name for v in found), axis=-1)
        x = Value(name, torch.zeros(1, directions * width))
    y = start.cleared(x).name
    results = [g.op("Transpose", y, perm=[1, 0, 2]) if first else y]
    outputs = [Port("output", (*dims, directions * width), torch.float32)]
    for place, (name, size) in enumerate(sizes.items()):
        parts = [g.op("Unsqueeze", end[place], g.integers(0)) for end in ends]
        results.append(g.op("Concat", *parts, axis=0))
        outputs.append(Port(f"{name}_n", (count, "batch", size), torch.float32))

    def meaning(given: dict[str, Tensor | None]) -> list[Tensor]:
        x, lengths = _there(given, "input"), given["lengths"]
        hx = tuple(given[f"{name}_0"] for name in sizes)
        state = None if hx[0] is None else hx if len(hx) == 2 else hx[0]
        if lengths is None:
            y, last = layer(x, state)
        else:
            packed = pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=False)
            y, last = layer(packed, state)
            y, _ = pad_packed_sequence(y, batch_first=first, total_length=x.shape[int(first)])
        return [y, *(last if isinstance(last, tuple) else (last,))]

    return Model(g, [port, *start.inputs], outputs, meaning, start.layers, results)


KINDS: dict[type[nn.Module], Callable[[Any, Tree | None], Model]] = {
    Cell: of_cell, Bidirectional: of_bidirectional, LanguageModel: of_language_model,
    SequenceClassifier: of_classifier, nn.RNNBase: of_torch,
}  # fmt: skip


def model_of(module: nn.Module, us: Tree | None) -> Model:
    for kind, make in KINDS.items():
        if isinstance(module, kind):
            return make(module, us)
    known = "a Cell, Bidirectional, LanguageModel, SequenceClassifier, or a layer of torch.nn or nextstate.nn"
    return refuse(OPERATION, f"the module is a {type(module).__name__}; expected {known}")
