"""`nextstate inspect` and `nextstate experiment` as a script sees them."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from nextstate.checks import InputError
from nextstate.cli import app


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, InputError):
        return 2, result.stdout, str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def machine(tmp_path):
    from nextstate.machines import compile
    from nextstate.machines.library import tomita
    from nextstate.machines.models import save_model

    path = tmp_path / "tomita.safetensors"
    save_model(compile(tomita(4), cell="gru"), path)
    return path


@pytest.fixture
def text_model(tmp_path):
    from nextstate.recipes.text_model import Shape, TextModel
    from nextstate.tasks.text import Bytes

    shape, path = Shape("LSTM", 2, 4, 8), tmp_path / "text.safetensors"
    TextModel(shape, Bytes(), shape.network(256)).save(path)
    return path


def test_a_sorter_with_pictures(model, tmp_path):
    out = tmp_path / "report"
    code, stdout, message = call("inspect", model, "--out", out, "--json")
    assert code == 0
    found = json.loads(stdout)
    assert [part["name"] for part in found["parts"]] == ["encoder", "decoder"]
    assert found["parts"][0]["longest"] == 5
    assert found["parts"][0]["loss_gradient"][0] > 0
    assert "reads 64 lists of 5 numbers" in message
    assert {path.name for path in out.iterdir()} == {"encoder.png", "decoder.png", "report.json"}
    assert json.loads((out / "report.json").read_text()) == found
    assert json.loads(call("inspect", model, "--json")[1]) == found


def test_lists_of_ones_own(model, tmp_path):
    data = tmp_path / "lists.txt"
    data.write_text("3 1 2\n\n[4, 1]\n1\n")
    code, stdout, message = call("inspect", model, "--data", data)
    assert code == 0
    assert "3 lists of 3 numbers at most" in message
    assert "your sequences, 3 steps back" in stdout or "your sequences are 3 long" in stdout


def test_a_model_of_text(text_model, tmp_path):
    data = tmp_path / "words.txt"
    data.write_text("to be or not to be, that is the question " * 8)
    code, stdout, message = call("inspect", text_model, "--data", data, "--json")
    assert code == 0
    assert "1 pieces of 256 tokens of the file" in message
    [part] = json.loads(stdout)["parts"]
    assert part["state_size"] == 32
    assert part["longest"] == 256
    assert {"cell.cells.0 f", "cell.cells.1 f"} <= set(part["gates"])


def test_a_machine_forgets_at_once(machine, tmp_path):
    code, stdout, _ = call("inspect", machine)
    assert code == 0
    assert "wipes out all memory" in stdout
    data = tmp_path / "words"
    data.write_text("0101\n0\n")
    assert "1 words of 4 letters" in call("inspect", machine, "--data", data)[2]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "is empty"),
        ("3 x\n", "line 1 is '3 x'; expected whole numbers"),
        ("3\n9\n", "inspect: line 2: number 1 is 9"),
        ("[]\n", "inspect: line 1: the list is empty"),
    ],
)
def test_bad_data_is_refused(model, tmp_path, content, complaint):
    data = tmp_path / "data"
    data.write_text(content)
    code, stdout, message = call("inspect", model, "--data", data)
    assert (code, stdout) == (2, "")
    assert complaint in message


def test_bad_files_are_refused(model, machine, tmp_path):
    (tmp_path / "no.safetensors").write_text("nothing")
    for path in (tmp_path / "absent", tmp_path / "no.safetensors"):
        assert call("inspect", path)[0] == 2
    assert "cannot read" in call("inspect", model, "--data", tmp_path / "absent")[2]
    data = tmp_path / "words"
    data.write_text("012\n")
    assert "the letters are" in call("inspect", machine, "--data", data)[2]


def test_the_experiment_on_descent(tmp_path):
    code, stdout, message = call("experiment", "gradient-descent", "--out", tmp_path / "gd", "--json")
    assert code == 0
    assert json.loads(stdout)["plain: steps to 1e-6"] > 400
    assert "wrote" in message
    assert (tmp_path / "gd" / "results.png").read_bytes().startswith(b"\x89PNG")


def test_a_short_experiment(tmp_path, monkeypatch):
    from nextstate.recipes.memory_tasks import EXPERIMENTS

    monkeypatch.setattr("torch.set_flush_denormal", lambda on: True)  # of this process, tests included
    for name in list(EXPERIMENTS["xor"].variants)[1:]:
        monkeypatch.delitem(EXPERIMENTS["xor"].variants, name)
    out = tmp_path / "xor"
    code, stdout, message = call("experiment", "xor", "--steps", 2, "--out", out, "--json")
    assert code == 0
    assert json.loads(stdout)["networks"][0]["steps"] == 2
    assert {path.name for path in out.iterdir()} == {"results.json", "results.png"}
    assert "Elman: step 2" in message
    (out / "run.json").write_text("{}")
    assert "other settings" in call("experiment", "xor", "--steps", 2, "--out", out)[2]
    code, _, message = call("experiment", "sleep")
    assert code == 2
    assert "no experiment is called 'sleep'" in message


def test_they_explain_themselves():
    for verb in ("inspect", "experiment"):
        code, out, _ = call(verb, "--help")
        assert code == 0
        assert "Usage" in out
