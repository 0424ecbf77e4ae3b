"""Networks as ONNX graphs: language model, classifier, encoder-decoder."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from nextstate.cell import Cell
from nextstate.checks import refuse
from nextstate.export.graph import step_graph
from nextstate.export.onnx_cells import both
from nextstate.export.onnx_graph import Graph
from nextstate.export.onnx_layers import Value
from nextstate.export.onnx_scan import write_step
from nextstate.export.onnx_start import (
    OPERATION,
    Given,
    Model,
    Port,
    Start,
    read_out,
    state_of,
    state_ports,
    there,
)  # fmt: skip
from nextstate.networks import (
    Bidirectional,
    Concatenation,
    EncoderDecoder,
    Ends,
    LanguageModel,
    Last,
    Max,
    Mean,
    SequenceClassifier,
)  # fmt: skip
from nextstate.networks.document_classifier import DocumentClassifier, Pieces
from nextstate.run import unfold
from nextstate.states import Tree, leaves


def of_language_model(model: LanguageModel, us: Tree | None) -> Model:
    s = model.cell.initial_state(1)
    port = Port("ids", ("batch", "time"), torch.int64)
    start = Start("ids", 1)
    names = start.states("s0", s)
    start.ends()
    one = torch.zeros(1, dtype=torch.int64)
    ids = start.cleared(Value(start.g.op("Transpose", "ids", perm=[1, 0]), one))
    vs, _, last = start.layers.run(model.cell, [ids], one, names)
    logits = read_out(start.g, start.cleared(vs[0]).name, model.readout)
    results = [start.g.op("Transpose", logits, perm=[1, 0, 2]), *last]
    outputs = [Port("logits", ("batch", "time", model.vocabulary), torch.float32)]
    outputs += state_ports(s)
    start.layers.bound("ids", model.vocabulary)

    def meaning(given: Given) -> list[Tensor]:
        s0 = state_of(given, "s0", s)
        found, end = model(there(given, "ids"), s0, given["lengths"])
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
    if model.table is not None:
        x = looked_up(start, model.table)
    else:
        x = Value(g.op("Transpose", port.name, perm=[1, 0, 2]), torch.zeros(1, model.inputs))
    for layer in model.layers:
        if isinstance(layer, Bidirectional):
            cells = (layer.forward_cell, layer.backward_cell)
            vs, _, _ = both(start, layer, [x], x.like, start.own(*cells))
        else:
            assert isinstance(layer, Cell)
            vs, _, _ = start.layers.run(layer, [x], x.like, start.own(layer))
        x = vs[0]
    logits = read_out(g, pooled(start, model.pooling, x), model.readout)
    outputs = [Port("logits", ("batch", model.readout.out_features), torch.float32)]

    def meaning(given: Given) -> list[Tensor]:
        return [model(there(given, port.name), given["lengths"])]

    return Model(g, [port, *start.inputs], outputs, meaning, start.layers, [logits])


def looked_up(start: Start, table: Tensor) -> Value:
    """The rows of a table that the input `ids` [batch, time] chooses, time first."""
    g = start.g
    turned = Value(g.op("Transpose", "ids", perm=[1, 0]), torch.zeros(1, dtype=torch.int64))
    rows = g.number(table.detach().numpy(), hint="table")
    start.layers.bound("ids", len(table))
    return Value(g.op("Gather", rows, start.cleared(turned).name, axis=0), torch.zeros(1, table.shape[1]))


def of_document_classifier(model: DocumentClassifier, us: Tree | None) -> Model:
    """Each row is a text that is read as one piece, whatever its length."""
    start = Start("ids", 1)
    start.ends()
    x = looked_up(start, model.table)
    cells = (model.layer.forward_cell, model.layer.backward_cell)
    vs, _, _ = both(start, model.layer, [x], x.like, start.own(*cells))
    g, combination = start.g, model.combination
    sides = g.op("Concat", vs[0].name, x.name, axis=-1)
    product = g.op("MatMul", sides, g.number(combination.weight.detach().T.contiguous().numpy()))
    zs = g.op("Relu", g.op("Add", product, g.number(combination.bias.detach().numpy())))
    features = Value(zs, torch.zeros(1, combination.out_features))
    logits = read_out(g, pooled(start, Concatenation(Max(), Mean()), features), model.readout)

    def meaning(given: Given) -> list[Tensor]:
        ids, lengths = there(given, "ids"), given["lengths"]
        every = torch.full((len(ids),), ids.shape[1])
        pieces = Pieces(ids.T, every if lengths is None else lengths, torch.arange(len(ids)), len(ids))
        return [model(pieces)]

    port = Port("ids", ("batch", "time"), torch.int64)
    outputs = [Port("logits", ("batch", model.readout.out_features), torch.float32)]
    return Model(start.g, [port, *start.inputs], outputs, meaning, start.layers, [logits])


def of_encoder_decoder(network: EncoderDecoder, us: Tree | None) -> Model:
    """Greedy writing: the ids [batch, steps] and their logits, `steps` by default as many as were read."""
    port = Port("source", ("batch", "time"), torch.int64)
    start = Start("source", 1)
    g = start.g
    start.ends()
    start.inputs.append(Port("steps", (1,), torch.int64, torch.zeros(1, dtype=torch.int64)))
    one = torch.zeros(1, dtype=torch.int64)
    ids = start.cleared(Value(g.op("Transpose", "source", perm=[1, 0]), one))
    encoder = network.encoder
    _, _, last = start.layers.run(encoder, [ids], one, start.own(encoder))
    parts = zip(last, leaves(encoder.initial_state(1)), strict=True)
    flat = [g.op("Reshape", name, g.integers(0, x[0].numel())) for name, x in parts]
    summary = g.op("Concat", *flat, axis=-1)
    if isinstance(network.projection, nn.Linear):
        summary = read_out(g, summary, network.projection)
    s0 = [*start.own(network.decoder)[:-1], summary]
    start.layers.bound("source", network.source_vocabulary)
    written, logits = _written(start, network, s0)
    outputs = [
        Port("written", ("batch", "steps"), torch.int64),
        Port("logits", ("batch", "steps", network.target_vocabulary), torch.float32),
    ]
    results = [g.op("Transpose", written, perm=[1, 0]), g.op("Transpose", logits, perm=[1, 0, 2])]

    def meaning(given: Given) -> list[Tensor]:
        source, steps = there(given, "source"), given["steps"]
        s = network.decoder.initial_state(len(source))
        s = s._replace(summary=network.summarise(source, given["lengths"]))
        first = torch.full((len(source),), network.start)
        count = source.shape[1] if steps is None or not steps else int(steps)
        found, _ = unfold(network.decoder, s, first, steps=count, feed=lambda v: v.argmax(-1))
        return [found.argmax(-1).T, found.transpose(0, 1)]

    return Model(g, [port, *start.inputs], outputs, meaning, start.layers, results)


def _written(start: Start, network: EncoderDecoder, s0: list[str]) -> tuple[str, str]:
    """The decoder fed with its own best ids: [steps, B] and their logits [steps, B, V], by a Scan."""
    from onnx import TensorProto, helper

    g, decoder = start.g, network.decoder
    s = decoder.initial_state(1)
    step = step_graph(OPERATION, decoder, torch.zeros(1, dtype=torch.int64), s)
    body = Graph(g)
    olds, previous, tick = [g.name("old") for _ in s0], g.name("previous"), g.name("tick")
    rows = [body.op("Reshape", old, g.integers(0, w)) for old, w in zip(olds, step.state_widths, strict=True)]
    (logits,), news = write_step(body, step, [previous], rows)
    shaped = [
        body.op("Reshape", new, g.integers(0, *x.shape[1:])) for new, x in zip(news, leaves(s), strict=True)
    ]
    best = body.op("ArgMax", logits, axis=-1, keepdims=0)
    outs = [body.op("Identity", x) for x in (best, logits)]
    floats = [helper.make_tensor_value_info(x, TensorProto.FLOAT, None) for x in (*olds, *shaped, outs[1])]
    ids = [helper.make_tensor_value_info(x, TensorProto.INT64, None) for x in (previous, tick, best, outs[0])]
    count = len(olds)
    inner = helper.make_graph(
        body.nodes,
        g.name("write"),
        [*floats[:count], ids[0], ids[1]],
        [*floats[count : 2 * count], ids[2], ids[3], floats[-1]],
    )
    first = g.op("Expand", g.number([network.start], np.int64), start.batch)
    steps = g.op("Where", g.op("Greater", "steps", g.number(0, np.int64)), "steps", start.steps)
    ticks = g.op("Expand", g.integers(0), steps)
    found = g.op("Scan", *s0, first, ticks, outputs=count + 3, body=inner, num_scan_inputs=1)
    start.layers.operators.append(f"Scan ({type(decoder).__name__})")
    return found[-2], found[-1]
