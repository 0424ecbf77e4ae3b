"""ONNX files: every cell and network in onnxruntime, batch and time free; those that disagree refused."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nextstate as ns
from agreement import assert_close
from export.cells import OPERATIONS, ROWS, USERS, catalogue_cell, operation_cell, randomise_
from nextstate.compiler.evaluate import POINTWISE
from nextstate.export import onnx_graph, onnx_layers
from nextstate.export.names import paths
from nextstate.networks import Concatenation, Ends, Last, Max, Mean
from nextstate.networks.document_classifier import DocumentClassifier, cut
from nextstate.states import Tree, leaves, rebuild, tree_map

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnx", reason="onnx is not installed")


def session(path: Path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options)


def run(path: Path, given: dict[str, Tensor]) -> list[Tensor]:
    found = session(path).run(None, {name: x.numpy() for name, x in given.items()})
    return [torch.from_numpy(np.array(x)) for x in found]


def spoiled(us: Tree, lengths: Tensor) -> Tree:
    """NaN, and ids that no table has, past each row's end."""
    past = torch.arange(leaves(us)[0].shape[0])[:, None] >= lengths

    def spoil(u: Tensor) -> Tensor:
        mask = past.reshape(*past.shape, *[1] * (u.dim() - 2))
        bad = torch.nan if u.is_floating_point() else 1 if u.dtype == torch.bool else 10**6
        return u.masked_fill(mask, bad)

    return tree_map(spoil, us)


def check_cell(cell: ns.Cell, us: Tree, path: Path) -> ns.export.OnnxFile:
    """The written file against the plain loop, on lengths and starts of our own."""
    found = ns.export.onnx(cell, path, us)
    lengths = torch.tensor([6, 0, 3])
    s0 = tree_map(torch.randn_like, cell.initial_state(3, dtype=torch.float32))
    with torch.no_grad():
        expected = ns.scan(cell, us, s0, lengths=lengths, engine="reference")
    given = dict(zip(paths("us", us), leaves(spoiled(us, lengths)), strict=True))
    given |= dict(zip(paths("s0", s0), leaves(s0), strict=True)) | {"lengths": lengths}
    results = run(path, given)
    assert [name.split(" ")[0] for name in found.outputs] == paths("vs", expected[0]) + paths(
        "sT", expected[1]
    )
    assert_close(rebuild(expected, results), expected)
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_cell(row, tmp_path: Path) -> None:
    check_cell(*catalogue_cell(row), tmp_path / "cell.onnx")


@pytest.mark.parametrize("name", USERS)
def test_cells_of_users(name: str, tmp_path: Path) -> None:
    found = check_cell(randomise_(USERS[name]()), torch.randn(6, 3, 4), tmp_path / "cell.onnx")
    assert found.operators == (f"Scan ({name})",)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation(name: str, tmp_path: Path) -> None:
    found = ns.export.onnx(operation_cell(name), tmp_path / "cell.onnx")
    assert found.difference < 2e-5


def test_no_operation_of_the_compiler_is_forgotten() -> None:
    tables = (
        onnx_graph.UNARY,
        onnx_graph.BINARY,
        onnx_graph.COMPARISON,
        onnx_graph.LOGIC,
        onnx_graph.COMPOSITE,
    )
    assert set(POINTWISE) - {"sum"} <= {op for table in tables for op in table}


@pytest.mark.parametrize(
    ("cell", "operator"),
    [
        (ns.GRU(3, 5), "GRU (GRU)"),
        (ns.ResetBeforeGRU(3, 5), "GRU (ResetBeforeGRU)"),
        (ns.LSTM(3, 5), "LSTM (LSTM)"),
        (ns.PeepholeLSTM(3, 5), "LSTM (PeepholeLSTM)"),
        (ns.CoupledLSTM(3, 5), "LSTM (CoupledLSTM)"),
        (ns.Elman(3, 5), "RNN (Elman)"),
        (ns.Elman(3, 5, activation=nn.Sigmoid()), "RNN (Elman)"),
        (ns.Elman(3, 5, activation=torch.sin), "Scan (Elman)"),
        (ns.LayerNormGRU(3, 5), "Scan (LayerNormGRU)"),
        (ns.Quantised(ns.GRU(3, 5), "int8"), "GRU (GRU)"),
    ],
)
def test_what_a_cell_becomes(cell: ns.Cell, operator: str, tmp_path: Path) -> None:
    assert ns.export.onnx(cell, tmp_path / "cell.onnx").operators == (operator,)


def networks() -> dict[str, nn.Module]:
    every = Concatenation(Last(), Ends(), Mean(), Max())
    both = ns.Bidirectional
    return {
        "two GRUs": both(ns.GRU(3, 5), ns.GRU(3, 4)),
        "LSTM and Scan": both(ns.LSTM(3, 5), ns.LayerNormGRU(3, 4)),
        "starts and stacks": both(ns.LearnedStart(ns.GRU(3, 5)), ns.Stacked(ns.GRU(3, 4), ns.GRU(4, 5))),
        "language model": ns.LanguageModel(
            11, 8, ns.LSTM(8, 9), ns.Residual(ns.GRU(9, 9)), ns.MinGRU(9, 8), tied=True
        ),
        "classifier of ids": ns.SequenceClassifier(
            [both(ns.GRU(8, 6), ns.GRU(8, 6)), both(ns.GRU(12, 4), ns.LearnedStart(ns.GRU(12, 4)))],
            inputs=8, classes=2, vocabulary=50, pooling=every,
        ),
        "classifier of features": ns.SequenceClassifier(ns.LayerNormLSTM(8, 6), inputs=8, classes=3),
        "classifier of documents": DocumentClassifier(vocabulary=12, features=8, hidden=6, classes=3),
        "encoder-decoder": ns.EncoderDecoder(7, 5, 6, summary_size=4, cell=ns.LSTM),
        "torch GRU": nn.GRU(3, 5, num_layers=2, bidirectional=True, batch_first=True),
        "LSTM with projections": ns.nn.LSTM(3, 5, proj_size=2, bidirectional=True),
        "LSTM without biases": ns.nn.LSTM(3, 5, bias=False),
        "RNN": ns.nn.RNN(3, 5, nonlinearity="relu"),
    }  # fmt: skip


@pytest.mark.parametrize("name", networks())
def test_networks(name: str, tmp_path: Path) -> None:
    found = ns.export.onnx(randomise_(networks()[name]), tmp_path / "net.onnx")
    assert found.difference < 2e-5
    assert found.size == (tmp_path / "net.onnx").stat().st_size


def test_a_classifier_reads_ragged_rows(tmp_path: Path) -> None:
    network = randomise_(networks()["classifier of ids"]).eval()
    ns.export.onnx(network, tmp_path / "net.onnx")
    ids, lengths = torch.randint(50, (4, 9)), torch.tensor([9, 0, 4, 1])
    spoil = ids.masked_fill(torch.arange(9) >= lengths[:, None], -5)
    with torch.no_grad():
        expected = network(ids, lengths)
    assert_close(run(tmp_path / "net.onnx", {"ids": spoil, "lengths": lengths})[0], expected)


def test_one_start_serves_all_rows_and_states_go_on(tmp_path: Path) -> None:
    cell, us = randomise_(ns.GRU(3, 5)), torch.randn(7, 4, 3)
    ns.export.onnx(cell, tmp_path / "gru.onnx")
    whole = run(tmp_path / "gru.onnx", {"us": us})
    first = run(tmp_path / "gru.onnx", {"us": us[:3], "s0": torch.zeros(1, 5)})
    rest = run(tmp_path / "gru.onnx", {"us": us[3:], "s0": first[1]})
    assert_close((torch.cat([first[0], rest[0]]), rest[1]), tuple(whole))


SWAPPED = {
    "gates": lambda m: m.setitem(
        onnx_layers.STANDARD, ns.GRU, replace(onnx_layers.STANDARD[ns.GRU], gates=(0, 1, 2))
    ),
    "form": lambda m: m.setitem(
        onnx_layers.STANDARD,
        ns.GRU,
        replace(onnx_layers.STANDARD[ns.GRU], attributes={"linear_before_reset": 0}),
    ),
    "operation": lambda m: (
        m.delitem(onnx_layers.STANDARD, ns.GRU),
        m.setitem(onnx_graph.UNARY, "sigmoid", "Tanh"),
    ),
    "mask": lambda m: m.setattr(
        onnx_layers.Layers, "reverse", lambda self, x: onnx_layers.Value(x.name, x.like)
    ),
}


@pytest.mark.parametrize("fault", SWAPPED)
def test_a_file_that_disagrees_is_not_written(fault: str, tmp_path: Path, monkeypatch) -> None:
    SWAPPED[fault](monkeypatch)
    module = randomise_(ns.GRU(3, 5))
    if fault == "mask":
        module = randomise_(ns.Bidirectional(ns.GRU(3, 5), ns.MinGRU(3, 5)))
    path = tmp_path / "gru.onnx"
    path.write_bytes(b"what was there")
    with pytest.raises(ns.InputError, match=r"disagrees with the module: .* nothing was written"):
        ns.export.onnx(module, path)
    assert path.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [path]


class Sorting(ns.Cell):
    def initial_state(self, batch_size, *, device=None, dtype=None):
        return torch.zeros(batch_size, 4, device=device, dtype=dtype)

    def forward(self, u, s):
        return u, (s + u).sort(-1).values.cumsum(-1)


@pytest.mark.parametrize(
    ("module", "us", "words"),
    [
        (
            nn.Sequential(nn.GRU(3, 4)),
            None,
            "the module is a Sequential; expected a layer of torch.nn",
        ),
        (3, None, "the module is a int"),
        (ns.GRU(3, 4).double(), None, r"float64; the file holds float32: export module.float\(\)"),
        (Sorting(), torch.zeros(1, 1, 4), r"Sorting has no such form: .*sort.*cumsum"),
        (ns.GRU(3, 4), "abc", "us is str; expected a tensor"),
        (ns.GRU(3, 4), torch.zeros(3), r"us has shape \(3,\), expected \[T, B, ...\]"),
        (ns.GRU(3, 4), torch.zeros(0, 0, 3), "one step and one row at least"),
        (ns.GRU(3, 4), torch.zeros(1, 1, 7), r"the input of one step is .*7.*expected \[B, 3\]"),
        (
            ns.SequenceClassifier(ns.GRU(3, 4), inputs=3, classes=2, pooling=type("Odd", (Last,), {})()),
            None,
            "pooling Odd",
        ),
    ],
)
def test_what_has_no_form_is_refused_with_the_reason(module, us, words: str, tmp_path: Path) -> None:
    with pytest.raises(ns.InputError, match=words):
        ns.export.onnx(module, tmp_path / "x.onnx", us)
    assert not list(tmp_path.iterdir())


def test_no_folder_and_no_runtime(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ns.InputError, match="there is no folder"):
        ns.export.onnx(ns.GRU(3, 4), tmp_path / "none" / "x.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        ns.InputError, match=r"onnxruntime is not installed: pip install 'nextstate\[export\]'"
    ):
        ns.export.onnx(ns.GRU(3, 4), tmp_path / "x.onnx")


def test_texts_are_read_as_one_piece_each(tmp_path: Path) -> None:
    network = randomise_(networks()["classifier of documents"]).eval()
    ns.export.onnx(network, tmp_path / "net.onnx")
    texts = [[3, 4, 5, 6, 7, 1, 2], [], [9, 1, 0], [8]]
    pieces = cut(texts, size=7)
    with torch.no_grad():
        expected = network(pieces)
    assert_close(
        run(tmp_path / "net.onnx", {"ids": pieces.ids.T.contiguous(), "lengths": pieces.lengths})[0], expected
    )


def test_a_module_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    cell = ns.GRU(3, 4)
    with torch.no_grad():
        cell.weight_ih[0, 0] = torch.nan
    with pytest.raises(ns.InputError, match="the module itself gives NaN or infinity in vs"):
        ns.export.onnx(cell, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())
