"""The command `export` on the models that come along, and on names that are taken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import nextstate as ns
from nextstate.cli import app
from nextstate.networks.document_classifier import cut
from nextstate.recipes.sorter import SHIPPED

MODELS = SHIPPED.parent


def invoke(*arguments: object):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_the_sentiment_model_scores_in_onnxruntime(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    out = tmp_path / "buzz.onnx"
    done = invoke(MODELS / "buzz.safetensors", "--to", "onnx", "--out", out, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["outputs"] == ["logits [batch, 3]"]
    assert "the model's n-grams are no part of the file" in done.stderr
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(out, options)
    model = ns.Buzzometer.load()
    pieces = cut(
        [model.words.ids(text) for text in ("I loved it.", "Lost my bag and nobody answers.", "")], 64
    )
    given = {"ids": pieces.ids.T.contiguous().numpy(), "lengths": pieces.lengths.numpy()}
    (found,) = session.run(None, given)
    with torch.no_grad():
        expected = model.network(pieces).numpy()
    assert np.abs(found - expected).max() < 1e-4
    assert found[0].argmax() != found[1].argmax()


def test_nothing_is_written_where_one_of_the_files_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "x_decoder.h").mkdir()
    done = invoke(SHIPPED, "--to", "c", "--out", tmp_path / "x.c")
    assert isinstance(done.exception, ns.InputError)
    assert "x_decoder.h cannot be written: a folder has that name" in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["x_decoder.h"]
