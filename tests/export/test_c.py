"""C files: every cell compiled by gcc without a warning and stepped beside the module."""

from __future__ import annotations

import copy
import ctypes
import errno
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import nextstate as ns
from agreement import assert_close
from export.cells import OPERATIONS, ROWS, USERS, operation_cell, randomise_
from nextstate.combine.quantised import _rounded
from nextstate.compiler.evaluate import POINTWISE
from nextstate.export import c_code
from nextstate.export.stream import as_cell
from nextstate.networks.document_classifier import DocumentClassifier
from nextstate.states import Tree, leaves, rebuild, tree_map

GCC = shutil.which("gcc")
FLAGS = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1", "-fPIC", "-shared"]
STEPS = 6


def networks() -> dict[str, tuple[nn.Module, Tree]]:
    ids = torch.randint(7, (STEPS, 1))
    stack = [ns.GRU(8, 6), ns.Residual(ns.LSTM(6, 6))]
    return {
        "language model": (ns.LanguageModel(7, 8, *stack, ns.GRU(6, 8), tied=True), ids),
        "classifier of ids": (ns.SequenceClassifier(stack, inputs=8, classes=3, vocabulary=7), ids),
        "classifier": (ns.SequenceClassifier(ns.GRU(4, 6), inputs=4, classes=2), torch.randn(STEPS, 1, 4)),
        "torch LSTM": (nn.LSTM(4, 6, num_layers=2), torch.randn(STEPS, 1, 4)),
    }


def subjects() -> dict[str, tuple[nn.Module, Tree]]:
    torch.manual_seed(0)
    found: dict[str, tuple[nn.Module, Tree]] = {}
    for row in ROWS:
        found[row.name] = row.cell(dtype=torch.float32).eval(), row.us(STEPS, 1, dtype=torch.float32)
    for name, kind in USERS.items():
        found[name] = randomise_(kind()), torch.randn(STEPS, 1, 4)
    for name in OPERATIONS:
        found[f"op {name}"] = operation_cell(name), torch.randn(STEPS, 1, 3)
    found |= {name: (randomise_(net), us) for name, (net, us) in networks().items()}
    return found


SUBJECTS = subjects()
BROKEN = ("GRU", "LSTM", "Stacked GRU LSTM")


def c_name(name: str) -> str:
    return "m_" + re.sub(r"\W", "_", name)


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> tuple[ctypes.CDLL, Path]:
    """All modules in one shared object, and some of them once more with a wrong sigmoid."""
    if GCC is None:
        pytest.skip("gcc is not installed")
    folder = tmp_path_factory.mktemp("c")
    sources = [
        ns.export.c(net, folder / f"{c_name(name)}.c", us).source for name, (net, us) in SUBJECTS.items()
    ]
    right = c_code.EXPRESSIONS["tanh"]
    c_code.EXPRESSIONS["tanh"] = "sinf({0})"
    try:
        for name in BROKEN:
            net, us = SUBJECTS[name]
            sources.append(ns.export.c(net, folder / f"broken_{c_name(name)}.c", us).source)
    finally:
        c_code.EXPRESSIONS["tanh"] = right
    subprocess.run([GCC, *FLAGS, "-o", folder / "all.so", *sources, "-lm"], check=True)
    return ctypes.CDLL(str(folder / "all.so")), folder


def floats(count: int):
    return (ctypes.c_float * count)()


def argument(x: Tensor):
    """One tensor of one step's input."""
    if x.dim() == 0:
        return ctypes.c_int(int(x))
    return (ctypes.c_float * x.numel())(*x.float().reshape(-1).tolist())


def stepped(library: ctypes.CDLL, name: str, us: Tree, v: Tree, s: Tree) -> tuple[Tree, Tree]:
    """The outputs of all steps and the last state, from the C code; `v` and `s` say how they look."""
    state = floats(max(1, sum(x[0].numel() for x in leaves(s))))
    library[f"{name}_reset"](state)
    found: list[list[Tensor]] = []
    for t in range(STEPS):
        outs = [floats(x[0].numel()) for x in leaves(v)]
        step = library[f"{name}_step"]
        assert step(state, *(argument(u[t, 0]) for u in leaves(us)), *outs) == 0
        rows = [torch.tensor(list(o)) for o in outs]
        found.append([row.view(1, *x.shape[1:]) for row, x in zip(rows, leaves(v), strict=True)])
    vs = rebuild(v, [torch.stack(column) for column in zip(*found, strict=True)])
    values = torch.tensor(list(state))[: sum(x[0].numel() for x in leaves(s))]
    parts = values.split([x[0].numel() for x in leaves(s)]) if leaves(s) else ()
    return vs, rebuild(s, [p.view(x.shape) for p, x in zip(parts, leaves(s), strict=True)])


def compare(library: ctypes.CDLL, prefix: str, name: str) -> None:
    agree(library, prefix + c_name(name), *SUBJECTS[name])


def agree(library: ctypes.CDLL, name: str, net: nn.Module, us: Tree) -> None:
    cell = as_cell("test", net.eval())
    with torch.no_grad():
        s = cell.initial_state(1)
        vs, last = ns.scan(cell, us, s, engine="reference")
    found = stepped(library, name, us, tree_map(lambda x: x[0], vs), s)
    assert_close(found, (tree_map(lambda x: x.float(), vs), last), 1e-6)


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_module_steps_as_in_python(library, name: str) -> None:
    compare(library[0], "", name)


@pytest.mark.parametrize("name", BROKEN)
def test_another_function_is_noticed(library, name: str) -> None:
    with pytest.raises(AssertionError, match="differs by"):
        compare(library[0], "broken_", name)


SMALL = ("GRU", "LSTM", "Elman", "language model", "classifier of ids")


@pytest.mark.parametrize("name", SMALL)
def test_one_byte_a_weight(name: str, tmp_path: Path) -> None:
    """The numbers of `Quantised`, in a quarter of the memory."""
    if GCC is None:
        pytest.skip("gcc is not installed")
    net, us = SUBJECTS[name]
    small = copy.deepcopy(net).eval()
    with torch.no_grad():
        for x in small.parameters():
            if x.dim() > 1:
                x.copy_(_rounded(x, "int8"))
    whole = ns.export.c(net, tmp_path / "whole.c", us)
    found = ns.export.c(net, tmp_path / "m.c", us, weights="int8")
    subprocess.run([GCC, *FLAGS, "-o", tmp_path / "m.so", found.source, "-lm"], check=True)
    library = ctypes.CDLL(str(tmp_path / "m.so"))
    agree(library, "m", small, us)
    with pytest.raises(AssertionError, match="differs by"):
        agree(library, "m", net, us)  # the rounding is seen
    assert found.constants < whole.constants
    assert (found.state, found.scratch) == (whole.state, whole.scratch)


def test_a_quarter_of_the_memory(tmp_path: Path) -> None:
    found = ns.export.c(ns.GRU(64, 64), tmp_path / "m.c", weights="int8")
    assert found.constants == 2 * 192 * (64 + 4 + 4)  # a byte a weight, a unit a row, the biases
    with pytest.raises(ns.InputError, match="weights is 'int4'; expected one of float32, int8"):
        ns.export.c(ns.GRU(3, 4), tmp_path / "m.c", weights="int4")


def test_nothing_lies_aside_if_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "m.h").mkdir()
    with pytest.raises(ns.InputError, match=r"m\.h cannot be written: a folder has that name"):
        ns.export.c(ns.GRU(3, 4), tmp_path / "m.c")
    assert [p.name for p in tmp_path.iterdir()] == ["m.h"]


@pytest.mark.parametrize("before", [(), ("m.c",), ("m.h",)], ids=["new", "old source", "old header"])
def test_a_source_without_its_header_is_not_left(
    before: tuple[str, ...], tmp_path: Path, monkeypatch
) -> None:
    for name in before:
        (tmp_path / name).write_text("old")
    replace = os.replace

    def failing(source: Path, target: Path) -> None:
        if target.name == "m.c":
            raise OSError(errno.EPERM, "Operation not permitted")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(ns.InputError, match=r"m\.c cannot be written: Operation not permitted"):
        ns.export.c(ns.GRU(3, 4), tmp_path / "m.c")
    assert tuple(p.name for p in tmp_path.iterdir()) == before


def test_no_operation_of_the_compiler_is_forgotten() -> None:
    special = {"sum", "blend", "rowsum", "rowmax"}
    assert set(POINTWISE) <= {*c_code.EXPRESSIONS, *c_code.FUNCTIONS, *special}


def test_sizes_are_those_of_the_compiled_file(library, tmp_path: Path) -> None:
    found = ns.export.c(ns.GRU(16, 32), tmp_path / "gru.c")
    assert (found.constants, found.state) == (4 * 3 * 32 * (16 + 32 + 2), 4 * 32)
    subprocess.run([GCC, "-std=c99", "-Os", "-c", found.source, "-o", tmp_path / "gru.o"], check=True)
    said = subprocess.run(["size", "-A", tmp_path / "gru.o"], capture_output=True, text=True, check=True)
    sections = dict(line.split()[:2] for line in said.stdout.splitlines() if line.startswith("."))
    assert int(sections[".bss"]) == found.scratch
    assert found.constants <= int(sections[".rodata"]) < found.constants + 64


def test_an_id_outside_the_table_changes_nothing(library) -> None:
    state, v = floats(100), floats(100)
    lib, name = library[0], c_name("language model")
    lib[f"{name}_reset"](state)
    assert lib[f"{name}_step"](state, ctypes.c_int(3), v) == 0
    before = list(state), list(v)
    for bad in (-1, 7):
        assert lib[f"{name}_step"](state, ctypes.c_int(bad), v) == -1
    assert (list(state), list(v)) == before


def test_a_file_stands_alone(library) -> None:
    text = (library[1] / "m_GRU.c").read_text()
    assert re.findall(r"#include (.*)", text) == ['"m_GRU.h"', "<math.h>"]
    assert "malloc" not in text


@pytest.mark.parametrize(
    ("module", "file", "words"),
    [
        (ns.Bidirectional(ns.GRU(3, 4), ns.GRU(3, 4)), "m.c", "Bidirectional reads from the end"),
        (nn.GRU(3, 4, bidirectional=True), "m.c", "GRU reads from the end"),
        (
            ns.SequenceClassifier(ns.Bidirectional(ns.GRU(3, 4), ns.GRU(3, 4)), inputs=3, classes=2),
            "m.c",
            "a layer reads from the end",
        ),
        (
            ns.SequenceClassifier(ns.GRU(3, 4), inputs=3, classes=2, pooling=ns.networks.Max()),
            "m.c",
            "the pooling Max has no step",
        ),
        (DocumentClassifier(9, 3, 4, 2), "m.c", "DocumentClassifier reads from the end of the sequence too"),
        (nn.Linear(3, 4), "m.c", "the module is a Linear; expected a Cell"),
        (ns.GRU(3, 4).double(), "m.c", "float64"),
        (nn.GRU(3, 4, device="meta"), "m.c", "on meta and has no numbers"),
        (ns.GRU(3, 4), "m.cpp", "'m.cpp'; expected a name in C"),
        (ns.GRU(3, 4), "my-model.c", "'my-model.c'"),
        (ns.GRU(3, 4), "while.c", "'while.c'"),
        (ns.GRU(3, 4), "none/m.c", "there is no folder"),
    ],
)
def test_what_has_no_step_is_refused(module, file: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ns.InputError, match=words):
        ns.export.c(module, tmp_path / file)
    assert not list(tmp_path.iterdir())


class Halved(ns.LanguageModel):
    def forward(self, ids, s0=None, lengths=None):
        logits, end = super().forward(ids, s0, lengths)
        return logits / 2, end


class Doubted(ns.SequenceClassifier):
    def forward(self, x, lengths=None):
        return super().forward(x, lengths).softmax(-1)


class Told(ns.LanguageModel):
    """With a method more, and the forward of its kind."""

    def chance(self, ids: Tensor) -> Tensor:
        return self(ids)[0].softmax(-1)


def hooked() -> nn.Module:
    model = ns.SequenceClassifier(ns.GRU(3, 4), inputs=3, classes=2)
    model.register_forward_hook(lambda module, given, found: 2 * found)
    return model


def put_over() -> nn.Module:
    model = ns.LanguageModel(7, 4, ns.GRU(4, 4))
    model.forward = lambda ids: model.readout.bias  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Halved(7, 4, ns.GRU(4, 4)), "Halved has a forward of its own.*as LanguageModel joins them"),
        (Doubted(ns.GRU(3, 4), inputs=3, classes=2), "Doubted has a forward of its own.*SequenceClassifier"),
        (put_over(), "LanguageModel has a forward of its own"),
        (hooked(), r"the SequenceClassifier has forward hooks \(.*lambda.*\); take them off first"),
    ],
    ids=["model", "classifier", "instance", "hook"],
)
def test_a_network_that_computes_something_else_is_refused(module, words: str, tmp_path: Path) -> None:
    with pytest.raises(ns.InputError, match=words):
        ns.export.c(module, tmp_path / "m.c")
    assert not list(tmp_path.iterdir())


def test_a_network_with_a_method_more_is_written(tmp_path: Path) -> None:
    model = Told(7, 4, ns.GRU(4, 4))
    ns.export.c(model, tmp_path / "m.c")
    plain = ns.LanguageModel(7, 4, ns.GRU(4, 4))
    plain.load_state_dict(model.state_dict())
    (tmp_path / "plain").mkdir()
    ns.export.c(plain, tmp_path / "plain" / "m.c")
    texts = [(folder / "m.c").read_text() for folder in (tmp_path, tmp_path / "plain")]
    assert texts[0].replace("Told", "LanguageModel") == texts[1]


class Named(NamedTuple):
    """A field that C has no name for, beside the name that it would get by its place."""

    s1: Tensor
    float: Tensor


class Guarded(ns.Cell):
    """A number in the step that is too small for float32."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.recurrent = nn.Linear(3, 4), nn.Linear(4, 4)

    def initial_state(self, batch_size, *, device=None, dtype=None):
        return Named(*torch.zeros(2, batch_size, 4, device=device, dtype=dtype))

    def forward(self, u, s):
        x = self.input(u) + self.recurrent(s[0])
        h = torch.tanh(x / (x.abs() + 1e-60))
        return h, Named(h, s[1] + h)


def test_numbers_and_names_that_c_does_not_have(tmp_path: Path) -> None:
    if GCC is None:
        pytest.skip("gcc is not installed")
    cell, us = randomise_(Guarded()), torch.randn(STEPS, 1, 3)
    found = ns.export.c(cell, tmp_path / "m.c", us)
    subprocess.run([GCC, *FLAGS, "-o", tmp_path / "m.so", found.source, "-lm"], check=True)
    agree(ctypes.CDLL(str(tmp_path / "m.so")), "m", cell, us)


@pytest.mark.parametrize(
    ("us", "words"),
    [
        ("abc", "us is str; expected"),
        (torch.zeros(3), r"us has shape \(3,\), expected \[T, B, ...\]"),
        (torch.zeros(0, 2, 3), "one step and one row at least"),
    ],
)
def test_an_example_that_is_none_is_refused(us, words: str, tmp_path: Path) -> None:
    with pytest.raises(ns.InputError, match=words):
        ns.export.c(ns.GRU(3, 4), tmp_path / "m.c", us)
    assert not list(tmp_path.iterdir())
