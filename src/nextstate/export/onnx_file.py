"""A module as an ONNX file, compared with the module before the file is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nextstate.accelerate import cell_of_it
from nextstate.cell import Cell
from nextstate.checks import refuse
from nextstate.defaults import usual_defaults
from nextstate.export.graph import frozen
from nextstate.export.onnx_cells import of_bidirectional, of_cell, of_torch
from nextstate.export.onnx_graph import IR_VERSION, OPSET
from nextstate.export.onnx_networks import (
    of_classifier,
    of_document_classifier,
    of_encoder_decoder,
    of_language_model,
)
from nextstate.export.onnx_start import OPERATION, Model, Port
from nextstate.networks import Bidirectional, EncoderDecoder, LanguageModel, SequenceClassifier
from nextstate.networks.document_classifier import DocumentClassifier
from nextstate.states import Tree
from nextstate.writing import whole

TOLERANCE = 2e-5
"""Largest difference allowed, relative to the largest number of an output (or to 1)."""

SIZES = ((1, 1), (9, 3), (4, 6), (17, 2))
"""(steps, rows) of the comparisons."""


KINDS: dict[type[nn.Module], Callable[[Any, Tree | None], Model]] = {
    Cell: of_cell, Bidirectional: of_bidirectional, LanguageModel: of_language_model,
    SequenceClassifier: of_classifier, DocumentClassifier: of_document_classifier,
    EncoderDecoder: of_encoder_decoder, nn.RNNBase: of_torch,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What `onnx` wrote: inputs and outputs with their dimensions, the operator of each cell, the size in
    bytes, and the largest relative difference from the module that was found."""

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: tuple[str, ...]
    size: int
    difference: float


@usual_defaults()
def onnx(module: nn.Module, path: str | Path, us: Tree | None = None) -> OnnxFile:
    """Write a module as an ONNX file in which batch and time are free, and check it in onnxruntime.

    onnx : (module, path) -> OnnxFile

    A cell becomes ([u], s0, lengths) -> ([v], sT) as `scan` has it: `us` [time, batch, ...], `vs` with zeros
    past each row's end, `sT` each row's own last state. `s0` [batch, ...] (or [1, ...] for all rows) and
    `lengths` [batch] may be left out: the cell's own start, every step. The tensors of a state are named by
    their fields: s0_h, s0_c.

    `Bidirectional` has a pair of states. `LanguageModel` and `SequenceClassifier` take ids (or features)
    [batch, time] and give `logits`; so does `DocumentClassifier`, which reads each row as one piece.
    `EncoderDecoder` reads `source` ids and writes its best ids. Layers of `torch.nn` and `nextstate.nn` keep
    torch's names (input, h_0, c_0; output, h_n, c_n), `batch_first` and the other shapes. Everything is
    exported in eval mode.

    GRU, ResetBeforeGRU, LSTM, PeepholeLSTM, CoupledLSTM and Elman (tanh, relu, sigmoid) become ONNX's GRU,
    LSTM and RNN, also inside Stacked, Residual, Embedded, LearnedStart and Dropped; every other cell a
    `Scan` around its traced step, with what needs no state before it. Operator set 17, float32.

    The file is run in onnxruntime on random inputs, lengths and states of several sizes and compared with the
    module; one that differs by more than 2e-5 of the largest number is not left behind.

    `us` is an example of the input [T, B, ...] of a cell, needed only where it cannot be guessed.

    Raises InputError for a module or a step that has no form in ONNX, for numbers that are not float32, if
    the file disagrees with the module, and if `onnx` or `onnxruntime` is not installed.

    >>> import tempfile
    >>> from nextstate import GRU, export
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = export.onnx(GRU(3, 5), Path(folder) / "gru.onnx")
    >>> found.inputs, found.operators
    (('us [time, batch, 3]', 's0 [s0_rows, 5]', 'lengths [lengths_rows]'), ('GRU (GRU)',))
    """
    _require()
    if not isinstance(module, nn.Module):
        refuse(OPERATION, f"the module is a {type(module).__name__}; expected a torch.nn.Module")
    path = Path(path)
    if not path.parent.is_dir():
        refuse(OPERATION, f"there is no folder {path.parent}")
    with torch.no_grad():
        model = _model(frozen(OPERATION, module), us)
        data = _bytes(model, type(module).__name__)
        difference = _compare(model, data)
    with whole(OPERATION, path) as aside:
        aside.write_bytes(data)
    return OnnxFile(
        path,
        tuple(_said(port) for port in model.inputs),
        tuple(_said(port) for port in model.outputs),
        tuple(model.layers.operators),
        len(data),
        difference,
    )


def _model(module: nn.Module, us: Tree | None) -> Model:
    for kind, make in KINDS.items():
        if isinstance(module, kind):
            return make(module, us)
    known = ", ".join(kind.__name__ for kind in KINDS if kind is not nn.RNNBase)
    known = f"a layer of torch.nn or nextstate.nn, or {known}{cell_of_it(module)}"
    return refuse(OPERATION, f"the module is a {type(module).__name__}; expected {known}")


def _said(port: Port) -> str:
    return f"{port.name} [{', '.join(map(str, port.dims))}]"


def _require() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        refuse(OPERATION, f"{error.name} is not installed: pip install 'nextstate[export]'")


def _bytes(model: Model, name: str) -> bytes:
    """The checked file. Inputs that may be left out have a number of the same name."""
    from onnx import TensorProto, checker, helper, numpy_helper

    kinds = {
        torch.float32: TensorProto.FLOAT, torch.int64: TensorProto.INT64, torch.int32: TensorProto.INT32,
        torch.bool: TensorProto.BOOL,
    }  # fmt: skip

    def info(port: Port) -> Any:
        return helper.make_tensor_value_info(port.name, kinds[port.dtype], list(port.dims))

    g = model.g
    for port, result in zip(model.outputs, model.results, strict=True):
        g.nodes.append(helper.make_node("Identity", [result], [port.name]))
    defaults = [
        numpy_helper.from_array(np.ascontiguousarray(port.default.numpy()), port.name)
        for port in model.inputs
        if port.default is not None
    ]
    graph = helper.make_graph(
        g.nodes, name, [info(p) for p in model.inputs], [info(p) for p in model.outputs],
        [*g.initializers, *defaults],
    )  # fmt: skip
    made = helper.make_model(
        graph,
        producer_name="nextstate",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    checker.check_model(made, full_check=True)
    return made.SerializeToString()


def _compare(model: Model, data: bytes) -> float:
    """The largest relative difference; raises InputError if it is too large."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    draw = torch.Generator().manual_seed(0)
    worst = 0.0
    for case, (steps, batch) in enumerate(SIZES):
        given = {p.name: _drawn(p, steps, batch, model, draw, plain=case == 1) for p in model.inputs}
        expected = model.meaning(given)
        found = session.run(None, {name: x.numpy() for name, x in given.items() if x is not None})
        for port, x, y in zip(model.outputs, found, expected, strict=True):
            worst = max(worst, _difference(port.name, torch.from_numpy(np.array(x)), y, f"{steps} x {batch}"))
    return worst


def _drawn(
    port: Port, steps: int, batch: int, model: Model, draw: torch.Generator, plain: bool
) -> Tensor | None:
    """A random value of an input, or None to leave it out."""
    if port.default is not None and plain:
        return None
    if port.name == "lengths":
        # torch packs no row of length 0
        least = 1 if any(p.name == "h_0" for p in model.inputs) else 0
        return torch.randint(least, steps + 1, (batch,), generator=draw)
    sizes = {"time": steps}
    dims = [d if isinstance(d, int) else sizes.get(d, batch) for d in port.dims]
    if port.dtype == torch.bool:
        return torch.rand(dims, generator=draw) < 0.3
    if not port.dtype.is_floating_point:
        rows = model.layers.bounds.get(port.name, 2)
        return torch.randint(rows, dims, generator=draw).to(port.dtype)
    return torch.randn(dims, generator=draw)


def _difference(name: str, found: Tensor, expected: Tensor, size: str) -> float:
    if found.shape != expected.shape:
        refuse(OPERATION, f"the file gives {name} {tuple(found.shape)}, the module {tuple(expected.shape)}")
    if not found.numel():
        return 0.0
    if not expected.isfinite().all():
        refuse(
            OPERATION,
            f"the module itself gives NaN or infinity in {name} on {size} steps x rows: there is nothing to "
            "compare the file with; nothing was written",
        )
    scale = max(1.0, float(expected.abs().max())) if expected.is_floating_point() else 1.0
    worst = float((found.double() - expected.double()).abs().max()) / scale
    if not worst <= TOLERANCE:
        refuse(
            OPERATION,
            f"the file disagrees with the module: {name} differs by {worst:.1e} on {size} steps x rows "
            f"(at most {TOLERANCE:.0e} is allowed); nothing was written",
        )
    return worst
