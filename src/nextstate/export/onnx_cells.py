"""Cells, both directions, and the layers of `torch.nn` as ONNX graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from nextstate.cell import Cell
from nextstate.export.names import paths
from nextstate.export.onnx_layers import Value
from nextstate.export.onnx_start import (
    OPERATION,
    Given,
    Model,
    Port,
    Start,
    state_of,
    state_ports,
    there,
)
from nextstate.export.stream import check_layer, example_of
from nextstate.networks import Bidirectional
from nextstate.nn.views import cells_of
from nextstate.run import scan
from nextstate.states import Tree, leaves, rebuild, tree_map


def sequence(names: list[str], us: Tree) -> list[Port]:
    return [
        Port(name, ("time", "batch", *u.shape[2:]), u.dtype)
        for name, u in zip(names, leaves(us), strict=True)
    ]


def entered(start: Start, ports: list[Port]) -> list[Value]:
    """Inputs of a loop; ids past a row's end become 0, since they are looked up."""
    values = [Value(p.name, torch.zeros(1, *p.dims[2:], dtype=p.dtype)) for p in ports]  # type: ignore[arg-type]
    return [start.cleared(x) if x.like.dtype in (torch.int64, torch.int32) else x for x in values]


def ports_out(
    start: Start, vs: list[Value], v: Tree, last: list[str], s: Tree
) -> tuple[list[Port], list[str]]:
    ports = [
        Port(name, ("time", "batch", *x.like.shape[1:]), x.like.dtype)
        for name, x in zip(paths("vs", v), vs, strict=True)
    ]
    ports += state_ports(s)
    return ports, [*(start.cleared(x).name for x in vs), *last]


def of_cell(cell: Cell, us: Tree | None) -> Model:
    us = example_of(OPERATION, cell, us)
    s = cell.initial_state(1)
    ports = sequence(paths("us", us), us)
    start = Start(ports[0].name, 0)
    names = start.states("s0", s)
    start.ends()
    vs, v, last = start.layers.run(cell, entered(start, ports), tree_map(lambda u: u[0], us), names)
    outputs, results = ports_out(start, vs, v, last, s)

    def meaning(given: Given) -> list[Tensor]:
        inputs = rebuild(us, [there(given, p.name) for p in ports])
        s0 = state_of(given, "s0", s)
        vs, last = scan(cell, inputs, s0, lengths=given["lengths"], engine="reference")
        return [*leaves(vs), *leaves(last)]

    return Model(start.g, [*ports, *start.inputs], outputs, meaning, start.layers, results)


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
    us = example_of(OPERATION, layer.forward_cell, us)
    s = (layer.forward_cell.initial_state(1), layer.backward_cell.initial_state(1))
    ports = sequence(paths("us", us), us)
    start = Start(ports[0].name, 0)
    names = start.states("s0", s)
    start.ends()
    vs, v, last = both(start, layer, entered(start, ports), tree_map(lambda u: u[0], us), names)
    outputs, results = ports_out(start, vs, v, last, s)

    def meaning(given: Given) -> list[Tensor]:
        inputs = rebuild(us, [there(given, p.name) for p in ports])
        s0 = state_of(given, "s0", s)
        found, ends = layer(inputs, s0, given["lengths"])
        return [*leaves(found), *leaves(ends)]

    return Model(start.g, [*ports, *start.inputs], outputs, meaning, start.layers, results)


def of_torch(layer: nn.RNNBase, us: Tree | None) -> Model:
    """A layer of `torch.nn` (or its drop-in), with its own names and shapes, and `lengths` besides."""
    check_layer(OPERATION, layer)
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

    def meaning(given: Given) -> list[Tensor]:
        x, lengths = there(given, "input"), given["lengths"]
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
