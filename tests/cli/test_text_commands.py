"""`train text`, `generate` and `eval text` as a script sees them."""

import json
import os
import shlex
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from nextstate.checks import InputError
from nextstate.cli import app
from nextstate.cli.train_text import _sources
from nextstate.training import NonFiniteGradient, fit

LINE = "sphinx of black quartz, judge my vow\r\n"
DROPPED = ["--weight-dropout", 0.2]
SMALL = ["--cell", "GRU", "--layers", 1, "--hidden", 48, "--features", 16, "--rows", 4, "--length", 38]


def call(*arguments, text=None):
    """Exit code, stdout as bytes and complaint of a command run in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=text)
    if isinstance(result.exception, InputError):
        return 2, result.stdout_bytes, str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout_bytes, result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text of two files and a model trained on it."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "texts").mkdir()
    for name in ("a", "b"):
        (folder / "texts" / name).write_bytes(LINE.encode() * 30)
    code, _, told = call(
        "train", "text", folder / "texts", "--steps", 250, "--rate", 0.01, "--out", folder / "run", *SMALL
    )
    assert code == 0, told
    folder.joinpath("told").write_text(told)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return folder / "run" / "model.safetensors"


def test_training_leaves_model_card_and_curve_and_says_how_the_text_was_cut(folder):
    run = folder / "run"
    assert {path.name for path in run.iterdir()} == {
        "model.safetensors",
        "model.md",
        "curve.png",
        "curve.jsonl",
        "run.json",
    }
    told = (folder / "told").read_text()
    assert "2,052 characters for training, the last 228 for validation" in told
    assert "nats a character" in told
    records = [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]
    assert records[-1]["step"] <= 250
    assert records[-1]["evaluation"]["nats_per_character"] < 0.5
    card = (run / "model.md").read_text()
    assert "nextstate train text a b --cell GRU" in card
    assert "nats a character" in card
    assert "\n- decay: 0.4\n" in card, "the rule's for so short a text"


def test_text_is_written_and_crlf_kept(model):
    code, out, _ = call(
        "generate", "--model", model, "--prime", "sphinx", "--temperature", 0, "--stop", "vow\r\n"
    )
    assert (code, out) == (0, LINE.encode() + b"\n")
    code, out, _ = call(
        "generate",
        "--model",
        model,
        "--prime-file",
        "-",
        "--length",
        5,
        "--top-k",
        1,
        "--json",
        text="sphinx of b",
    )
    assert json.loads(out) == {"prime": "sphinx of b", "text": "lack ", "seed": 0}


def test_the_same_seed_gives_the_same_text(model):
    def text(seed):
        return call("generate", "--model", model, "--seed", seed, "--temperature", 2, "--top-p", 0.95)[1]

    assert text(3) == text(3)
    assert text(3) != text(4)


def test_text_comes_as_it_is_written(model):
    """Characters arrive one by one, before the end is known: the command never ends by itself here."""
    command = [
        sys.executable,
        "-m",
        "nextstate",
        "generate",
        "--model",
        str(model),
        "--length",
        "100000000",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        first = process.stdout.read(50)
        process.kill()
    assert len(first) == 50


def test_evaluation(folder, model):
    text = folder / "texts" / "a"
    code, out, _ = call(
        "eval", "text", text, "--model", model, "--json", "--picture", folder / "new" / "s.png"
    )
    report = json.loads(out)
    assert code == 0
    assert report["characters"] == report["tokens"] == 30 * len(LINE)
    assert 0 < report["nats_per_character"] < 0.5
    assert report["bits_per_character"] == pytest.approx(report["nats_per_character"] * 1.442695)
    assert set(report["dynamic"]) == {"nats_per_character", "bits_per_character", "perplexity"}
    assert (folder / "new" / "s.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = call("eval", "text", "-", "--model", model, "--no-dynamic", "--json", text=LINE * 30)
    assert json.loads(out)["nats_per_character"] == report["nats_per_character"]
    code, out, _ = call("eval", "text", text, "--model", model, "--no-dynamic", "--last", 0.1)
    assert out.startswith(b"114 characters, 114 tokens\n")
    code, out, _ = call(
        "eval", "text", "-", "--model", model, "--no-dynamic", "--json", text="qqqq zzzz xxxx"
    )
    assert json.loads(out)["nats_per_character"] > 1


def test_an_interrupted_run_is_taken_up_again(tmp_path, monkeypatch):
    text = tmp_path / "text"
    text.write_bytes(LINE.encode() * 30)
    whole = [*SMALL, "--steps", 20, "--dropout", 0.3, *DROPPED, "--seed", 2]

    def train(out, *more):
        return call("train", "text", text, "--out", tmp_path / out, *whole, *more)

    assert train("quiet")[0] == 0

    def until_killed(*arguments, **options):
        for record in fit(*arguments, **options):
            yield record
            if record.step >= 12:
                raise KeyboardInterrupt

    monkeypatch.setattr("nextstate.recipes.text.fit", until_killed)
    assert train("disturbed")[0] != 0
    monkeypatch.undo()
    assert (tmp_path / "disturbed" / "run.json").exists()
    code, _, told = train("disturbed", "--rate", 0.5)
    assert code == 2
    assert "unfinished run" in told
    assert train("disturbed")[0] == 0
    models = [(tmp_path / out / "model.safetensors").read_bytes() for out in ("quiet", "disturbed")]
    assert models[0] == models[1]
    lines = (tmp_path / "disturbed" / "curve.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps))


def test_weights_are_left_out_on_request_and_the_run_can_be_repeated(tmp_path):
    text = tmp_path / "my text"
    text.write_bytes(LINE.encode() * 30)
    whole = [*SMALL, "--steps", 6, "--unit", "bpe", "--vocabulary", 260, "--validation", 0.2]
    models = []
    for share in (0.3, 0.3, 0.0):
        out = tmp_path / f"run{len(models)}"
        code, _, told = call("train", "text", text, "--out", out, *whole, "--weight-dropout", share)
        assert code == 0, told
        models.append((out / "model.safetensors").read_bytes())
    assert models[0] == models[1] != models[2]
    card = (tmp_path / "run0" / "model.md").read_text()
    [command] = [line for line in card.splitlines() if line.startswith("nextstate train text")]
    assert command.startswith("nextstate train text 'my text' ")
    words = shlex.split(command)[4:]
    assert call("train", "text", text, "--out", tmp_path / "again", *words)[0] == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == models[0]
    code, _, told = call(
        "train", "text", text, "--out", tmp_path / "no", *whole, "--cell", "MinGRU", *DROPPED
    )
    assert code == 2
    assert "there is no weight 'cell.weight_hh'" in told


def test_what_is_no_runs_is_neither_overwritten_nor_removed(tmp_path):
    for folder in ("corpus", "checkpoints"):
        (tmp_path / folder).mkdir()
        kept = tmp_path / folder / "mine.txt"
        kept.write_bytes(LINE.encode() * 30)
        code, _, told = call("train", "text", tmp_path / folder, "--out", tmp_path, "--steps", 2, *SMALL)
        assert code == 2
        assert f"a run removes {tmp_path / folder}, which holds mine.txt; name another --out" in told
        assert kept.read_bytes() == LINE.encode() * 30
        kept.rename(tmp_path / "mine.txt")


def test_a_folder_that_runs_write_into_is_read_without_what_they_wrote(tmp_path):
    (tmp_path / "a").write_text(LINE * 30)
    for out in (tmp_path, tmp_path / "run", tmp_path):
        code, _, told = call("train", "text", tmp_path / "a", "--out", out, "--steps", 2, *SMALL)
        assert code == 0, told
    (tmp_path / "run" / "model.safetensors").unlink()
    wanted = _sources([tmp_path], tmp_path)
    assert [path.name for path in wanted] == [
        "a",
        "curve.jsonl",
        "curve.png",
        "model.md",
        "run.json",
    ]  # those of another run
    assert [path.name for path in _sources([tmp_path / "model.md"], tmp_path)] == ["model.md"]
    (tmp_path / "run" / "corpus").mkdir()
    (tmp_path / "run" / "corpus" / "text").write_text("left by a kill")
    with pytest.raises(InputError, match="hold nothing but files of a run"):
        _sources([tmp_path / "run"], tmp_path / "run")


@pytest.mark.parametrize("note", ["", "[]", '{"wishes": 1}', '{"steps": 3}'])
def test_a_note_of_another_kind_of_run_is_refused(tmp_path, note):
    (tmp_path / "run.json").write_text(note)
    code, _, told = call("train", "text", "-", "--out", tmp_path, "--steps", 2, *SMALL, text=LINE * 30)
    assert code == 2
    assert "unfinished run with other settings or data" in told
    assert (tmp_path / "run.json").read_text() == note


def test_a_run_that_comes_apart_says_what_to_do(tmp_path, monkeypatch):
    def apart(*arguments, **options):
        raise NonFiniteGradient("the gradient's norm is nan at step 3")
        yield

    monkeypatch.setattr("nextstate.recipes.text.fit", apart)
    code, _, told = call(
        "train", "text", "-", "--out", tmp_path / "run", "--steps", 4, "--rate", 9, *SMALL, text=LINE * 30
    )
    assert code == 2
    assert "norm is nan at step 3; try a --rate below 9" in told


def test_time_is_planned_and_units_are_learned(tmp_path):
    code, out, told = call(
        *("train", "text", "-", "--minutes", 0.05, "--unit", "bpe", "--vocabulary", 270, "--json"),
        *("--out", tmp_path / "run", *SMALL),
        text=LINE * 60,
    )
    assert code == 0, told
    records = [json.loads(line) for line in out.decode().splitlines()]
    assert records[-1]["progress"] == 1.0
    assert records[-1]["seconds"] < 20
    assert "bpe, 270 tokens" in told


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["train", "text", "missing.txt"], "missing.txt is neither a file nor a folder"),
        (["train", "text", "-", "--out", "OUT"], "the text is empty"),
        (["train", "text", "-", "--minutes", 1, "--steps", 1], "give one of them"),
        (["train", "text", "-", "--out", "FILE"], "is a file; name a folder"),
        (["train", "text", "FILE", "--out", "OUT", "--minutes", 0], "minutes is 0.0; it must be positive"),
        (
            ["train", "text", "FILE", "--out", "OUT", "--minutes", "inf"],
            "minutes is inf; it must be positive",
        ),
        (["train", "text", "FILE", "--out", "OUT", "--steps", 1, "--rate", "nan"], "rate is nan"),
        (["eval", "text", "FILE", "--picture", "FOLDER"], "a folder; name a file"),
        (["eval", "text", "FILE", "--picture", "FILE/x.png"], "is a file; name a folder to write into"),
        (["generate", "--seed", 2**70], "--seed"),
        (["train", "text", "-", "--out", "OUT", "--unit", "words"], "unit is 'words'"),
        (["eval", "text", "-"], "the text is empty"),
        (["eval", "text", "-", "--model", "missing"], "cannot read a model of text from missing"),
        (["generate", "--prime", "a", "--prime-file", "b"], "give one of them"),
        (["generate", "--prime-file", "missing"], "cannot read missing"),
        (["generate", "--model", "missing"], "cannot read a model of text"),
    ],
)
def test_bad_input_ends_with_code_2(tmp_path, words, complaint, model):
    (tmp_path / "file").write_text(LINE * 9)
    places = {"OUT": tmp_path / "out", "FILE": tmp_path / "file", "FOLDER": tmp_path}
    places["FILE/x.png"] = tmp_path / "file" / "x.png"
    words = [places.get(word, word) for word in words]
    if words[0] != "train" and "--model" not in words:
        words = [*words, "--model", model]
    code, out, told = call(*words, text="")
    assert code == 2
    assert complaint in told
    assert out == b""
