"""`nextstate export`: the shipped sorter sorts in onnxruntime and in C; wrong files are named and refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

from nextstate.checks import InputError
from nextstate.cli import app
from nextstate.machines import DFA, compile
from nextstate.machines.models import save_model
from nextstate.recipes.files import READERS, load_network
from nextstate.recipes.sorter import SHIPPED

NUMBERS = [5, 3, 9, 1, 32, 3]


def invoke(*arguments: object):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_the_sorter_sorts_in_onnxruntime(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    out = tmp_path / "sorter.onnx"
    done = invoke(SHIPPED, "--to", "onnx", "--out", out, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["operators"] == ["GRU (GRU)", "Scan (Decoder)"]
    assert report["bytes"] == out.stat().st_size
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(out, options)
    lists = np.array([NUMBERS, [2, 1, 7, 7, 99, 99]]) - 1
    written, _ = session.run(None, {"source": lists, "lengths": np.array([6, 4])})
    assert (written[0] + 1).tolist() == sorted(NUMBERS)
    assert (written[1, :4] + 1).tolist() == [1, 2, 7, 7]


MAIN = """
#include <stdio.h>
#include <string.h>
#include "sorter_decoder.h"
#include "sorter_encoder.h"
int main(void) {
    static sorter_encoder_state reader;
    static sorter_decoder_state writer;
    static float h[sizeof reader / sizeof(float)], logits[32];
    int numbers[] = {NUMBERS}, count = sizeof numbers / sizeof *numbers, i, k, last = 32;
    sorter_encoder_reset(&reader);
    sorter_decoder_reset(&writer);
    for (i = 0; i < count; i++) sorter_encoder_step(&reader, numbers[i] - 1, h);
    memcpy(writer.summary, &reader, sizeof reader);
    for (i = 0; i < count; i++) {
        sorter_decoder_step(&writer, last, logits);
        for (last = 0, k = 1; k < 32; k++)
            if (logits[k] > logits[last]) last = k;
        printf("%d ", last + 1);
    }
    return 0;
}
"""


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_the_sorter_sorts_in_c(weights: str, tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    done = invoke(SHIPPED, "--to", "c", "--out", tmp_path / "sorter.c", "--weights", weights)
    assert done.exit_code == 0, done.output
    assert "sorter_encoder_step(sorter_encoder_state *s, int32_t u, float v[128])" in done.stdout
    main = tmp_path / "main.c"
    main.write_text(MAIN.replace("NUMBERS", ", ".join(map(str, NUMBERS))))
    sources = [main, tmp_path / "sorter_encoder.c", tmp_path / "sorter_decoder.c"]
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    subprocess.run(["gcc", *flags, *sources, "-o", tmp_path / "sorter", "-lm"], check=True)
    said = subprocess.run([tmp_path / "sorter"], capture_output=True, text=True, check=True).stdout
    assert [int(word) for word in said.split()] == sorted(NUMBERS)


def test_a_machine_becomes_c(tmp_path: Path) -> None:
    file = tmp_path / "odd.safetensors"
    machine = DFA.table("1", {0: [1], 1: [0]}, accepting=[1])
    save_model(compile(machine, cell="gru", dtype=torch.float32), file)
    done = invoke(file, "--to", "c", "--out", tmp_path / "odd.c", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["file"] == str(tmp_path / "odd.c")


def altered(path: Path, metadata: dict[str, str] | None) -> None:
    with safe_open(SHIPPED, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata)


WRONG = {
    "missing": (lambda p: None, "there is no file"),
    "text": (
        lambda p: p.write_text("weights"),
        "is no safetensors file, or not all of one: it is text that begins with 'weights'",
    ),
    "cut": (
        lambda p: p.write_bytes(SHIPPED.read_bytes()[:-1000]),
        "is no safetensors file, or not all of one",
    ),
    "other layout": (
        lambda p: altered(p, {"nextstate-sorter-9": "{}"}),
        "holds 'nextstate-sorter-9'; this version reads nextstate-sorter-1",
    ),
    "somebody's": (
        lambda p: altered(p, {"format": "pt"}),
        "no model of this library: its metadata holds format",
    ),
    "nothing said": (lambda p: altered(p, None), "its metadata holds nothing"),
    "no sizes": (lambda p: altered(p, {"nextstate-sorter-1": "{}"}), "cannot read a sorter from"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_files_are_named_and_nothing_is_written(fault: str, tmp_path: Path) -> None:
    make, words = WRONG[fault]
    file, out = tmp_path / "model.safetensors", tmp_path / "out"
    make(file)
    out.mkdir()
    done = invoke(file, "--to", "c", "--out", out / "m.c")
    assert isinstance(done.exception, InputError)
    assert words in str(done.exception)
    assert not list(out.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((SHIPPED, "--to", "onnx", "--out", "x.c"), "expected a name that ends in .onnx"),
        ((SHIPPED, "--to", "c", "--out", f"{__file__}/x.c"), "is a file; name a folder to write into"),
        ((SHIPPED, "--to", "onnx", "--out", "x.onnx", "--weights", "int8"), "which only --to c can write"),
    ],
)
def test_wrong_names_are_refused(arguments, words: str) -> None:
    assert words in str(invoke(*arguments).exception)


@pytest.mark.parametrize("ending", ["c", "onnx"])
def test_the_folder_is_made(ending: str, tmp_path: Path) -> None:
    if ending == "onnx":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    file, out = tmp_path / "odd.safetensors", tmp_path / "new" / "er" / f"odd.{ending}"
    machine = DFA.table("1", {0: [1], 1: [0]}, accepting=[1])
    save_model(compile(machine, cell="gru", dtype=torch.float32), file)
    done = invoke(file, "--to", ending, "--out", out)
    assert done.exit_code == 0, done.output
    assert out.is_file()


def test_an_encoder_without_its_decoder_is_not_left(tmp_path: Path, monkeypatch) -> None:
    replace = os.replace

    def failing(source: Path, target: Path) -> None:
        if target.name == "sorter_decoder.c":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    done = invoke(SHIPPED, "--to", "c", "--out", tmp_path / "sorter.c")
    assert isinstance(done.exception, InputError)
    assert "sorter_decoder.c cannot be written: No space left on device" in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_unknown_options_are_refused() -> None:
    assert invoke(SHIPPED, "--to", "tflite", "--out", "x").exit_code == 2
    assert invoke(SHIPPED, "--to", "c", "--out", "x.c", "--fast").exit_code == 2
    assert invoke(SHIPPED, "--to", "c", "--out", "x.c", "--weights", "int4").exit_code == 2


def test_every_reader_exists() -> None:
    from importlib import import_module
    from operator import attrgetter

    for module, name in READERS.values():
        assert callable(attrgetter(name)(import_module(module)))
    assert type(load_network(SHIPPED)).__name__ == "EncoderDecoder"
