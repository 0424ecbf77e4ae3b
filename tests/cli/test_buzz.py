"""`nextstate buzz`, `train buzz` and `eval buzz` as a person types them, with a small model made here."""

import csv
import io
import json
import os
import re
import subprocess
import sys

import pytest
import torch

from nextstate.buzzometer import Buzzometer, Shape
from nextstate.cli import main
from nextstate.networks.document_classifier import DocumentClassifier
from nextstate.tasks.buzz.calibration import Temperature
from nextstate.tasks.buzz.words import Words

LABELS = ("negative", "neutral", "positive")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that was not trained: "good" and "bad" stand at the two ends of every unit, which then fade."""
    torch.manual_seed(0)
    words = Words(["good", "bad", "film"], buckets=4)
    network = DocumentClassifier(len(words), 4, 4, 3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.table[words.ids("good")[0]] = 3.0
        network.table[words.ids("bad")[0]] = -3.0
        one = torch.eye(4)
        network.combination.weight[:, 8:] = torch.cat([one, -one])  # the words themselves, by sign
        says = torch.tensor([-0.3, 0.0, 0.3])[:, None].expand(3, 4)
        network.readout.weight[:, 8:] = torch.cat([says, -says], 1)  # the mean over all steps
    path = tmp_path_factory.mktemp("buzz") / "model.safetensors"
    Buzzometer(network, words, Shape(4, 4, LABELS, 100, Temperature())).save(path)
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments, stdin=""):
        raw = stdin if isinstance(stdin, bytes) else stdin.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
        monkeypatch.setattr(sys, "argv", ["nextstate", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_a_text_has_a_label_a_score_a_probability_and_its_words(run, model):
    code, out, _ = run("buzz", "a good film", "--model", model)
    assert code == 0
    assert re.search(r"positive +score \+0\.\d\d .* probability 0\.\d\d", out)
    assert "good +" in out
    code, out, _ = run("buzz", "bad", "good film", "--json", "--model", model)
    first, second = map(json.loads, out.splitlines())
    assert (first["label"], second["label"]) == ("negative", "positive")
    assert set(first["probabilities"]) == set(LABELS)
    assert second["words"][0]["word"] == "good"
    assert run("buzz", "--model", model, "--", "track")[0] == 0, "a text with the name of a sub-command"


def test_every_row_comes_out_in_order(run, model, tmp_path):
    source, out = tmp_path / "r.csv", tmp_path / "s.csv"
    rows = [f'{n},"{"good" if n % 3 else "bad"} film {"x " * (n * 7 % 40)}"' for n in range(50)]
    source.write_text("\n".join(["n,text", *rows[:20], "20", *rows[20:]]) + "\n")
    code, _, err = run("buzz", "--file", source, "--column", "text", "--out", out, "--model", model)
    assert (code, out.exists()) == (0, True)
    assert "row 21 is kept without a score: it has 1 fields" in err
    found = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["n"] for row in found] == [str(n) for n in [*range(20), 20, *range(20, 50)]]
    assert found[20]["label"] == found[20]["score"] == ""
    for row in found[:20] + found[21:]:
        assert row["label"] == ("positive" if int(row["n"]) % 3 else "negative")
        assert (float(row["score"]) > 0) == (row["label"] == "positive")
        assert 1 / 3 < float(row["probability"]) <= 1


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_other_formats_out(run, model, tmp_path, ending):
    source, out = tmp_path / "r.txt", tmp_path / f"s.{ending}"
    source.write_text("good\n\nbad\n")
    assert run("buzz", "--file", source, "--out", out, "--model", model)[0] == 0
    if ending == "jsonl":
        found = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        found = pytest.importorskip("pyarrow.parquet").read_table(out).to_pylist()
    assert [row["label"] for row in found] == ["positive", "neutral", "negative"]
    assert found[1]["score"] == 0


def test_standard_input(run, model):
    code, out, _ = run("buzz", "--model", model, stdin="good\nbad film\n")
    assert code == 0
    assert [line.split("\t")[:2] for line in out.splitlines()[1:]] == [
        ["good", "positive"],
        ["bad film", "negative"],
    ]
    _, out, _ = run("buzz", "--json", "--model", model, stdin=b"good\n\xff\x00\n")
    assert [json.loads(line)["label"] for line in out.splitlines()] == ["positive", "neutral"]
    _, out, _ = run(
        "buzz", "--file", "-", "--format", "csv", "--column", "b", "--model", model, stdin="a,b\n1,bad\n"
    )
    assert out.splitlines()[1].startswith("1,bad,negative,-")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["good", "--file", "x.csv"], "not both"),
        (["--file", "missing.csv"], "cannot read missing.csv"),
        (["good", "--model", "missing"], "cannot read a model"),
        (["good", "--out", "x.csv"], "--out goes with --file"),
    ],
)
def test_bad_input_is_refused(run, model, arguments, complaint):
    arguments = arguments if "--model" in arguments else [*arguments, "--model", model]
    code, out, err = run("buzz", *arguments)
    assert (code, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["p.csv", "sub/../p.csv", "link.csv", "hard.csv"])
def test_the_input_is_not_overwritten_by_whatever_name(run, model, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "p.csv"
    source.write_text("text\ngood\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.csv").symlink_to(source)
    (tmp_path / "hard.csv").hardlink_to(source)
    for file, out in ((source, name), (name, source)):
        code, _, err = run("buzz", "--file", file, "--out", out, "--model", model)
        assert code == 2
        assert (
            err == f"nextstate: buzz: --out is {out}, the same file as the input {file}; name another one\n"
        )
    assert source.read_text() == "text\ngood\n"
    assert (tmp_path / "link.csv").is_symlink()
    assert run("buzz", "--file", source, "--out", "q.csv", "--model", model)[0] == 0


def test_what_standard_input_reads_is_not_overwritten(model, tmp_path):
    source = tmp_path / "p.txt"
    source.write_text("good\n")
    words = [sys.executable, "-m", "nextstate", "buzz", "--out", str(source), "--model", str(model)]
    with source.open() as file:
        done = subprocess.run(words, stdin=file, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("the same file as what standard input reads; name another one\n")
    assert source.read_text() == "good\n"


def test_of_many_files_none_is_overwritten(run, model, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("text\ngood\n")
    code, _, err = run("buzz", "--file", tmp_path / "*.csv", "--out", tmp_path, "--model", model)
    assert code == 2
    assert f"--out is {tmp_path}/a.csv, the same file as the input" in err
    assert (tmp_path / "a.csv").read_text() == "text\ngood\n"


def test_the_folder_of_the_output_is_made_or_refused(run, model, tmp_path):
    (tmp_path / "r.txt").write_text("good\n")
    out = tmp_path / "new" / "er" / "s.csv"
    assert run("buzz", "--file", tmp_path / "r.txt", "--out", out, "--model", model)[0] == 0
    assert "positive" in out.read_text()
    out = tmp_path / "r.txt" / "s.csv"
    code, _, err = run("buzz", "--file", tmp_path / "r.txt", "--out", out, "--model", model)
    assert code == 2
    assert "r.txt is a file; name a folder to write into" in err


def test_a_wrong_column_names_the_right_ones(run, model, tmp_path):
    (tmp_path / "r.csv").write_text("a,b\n1,2\n")
    code, _, err = run("buzz", "--file", tmp_path / "r.csv", "--column", "text", "--model", model)
    assert code == 2
    assert "no column 'text'; its columns are 'a', 'b'" in err


def table(path, count):
    rows = [
        (f"{'good' if n % 2 else 'bad'} {'film ' * (n % 5)}{n // 4}", "up" if n % 2 else "down")
        for n in range(count)
    ]
    path.write_text("said,kind\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return path


def test_training_on_own_labels(run, tmp_path):
    data, out = table(tmp_path / "own.csv", 200), tmp_path / "run"
    common = ("--text-column", "said", "--label-column", "kind")
    options = ("--out", out, "--start", "scratch", "--hidden", 8, "--vocabulary", 100, "--epochs", 12)
    code, _, err = run("train", "buzz", data, *common, *options)
    assert code == 0, err
    assert "trained on: 160 texts (down 80, up 80)" in err
    names = {path.name for path in out.iterdir()}
    assert names == {"model.safetensors", "model.md", "confusion.png", "calibration.png", "run.json"}
    assert "| down | 10 |" in (out / "model.md").read_text()
    code, told, _ = run("eval", "buzz", data, *common, "--model", out / "model.safetensors", "--json")
    assert code == 0
    assert json.loads(told)["accuracy"] > 0.95
    code, told, _ = run("buzz", "good", "--model", out / "model.safetensors", "--json")
    answer = json.loads(told)
    assert (answer["label"], answer["score"]) == ("up", None)


def test_reading_first(run, tmp_path):
    data, more = table(tmp_path / "own.csv", 60), tmp_path / "more.txt"
    more.write_text("good film\nbad film\n" * 30)
    out = tmp_path / "run"
    code, _, err = run(
        "train", "buzz", data, "--text-column", "said", "--label-column", "kind", "--unlabelled", more,
        "--out", out, "--hidden", 8, "--vocabulary", 100, "--epochs", 1,
    )  # fmt: skip
    assert code == 0, err
    assert (out / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("text,label\na,1\nb,1\nc,1\n", "expected two or more"),
        ("text,label\na,1\nb,2\nc,1\n", "three texts each"),
        ("text,kind\na,1\n", "no column 'label'"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(run, tmp_path, content, complaint):
    (tmp_path / "own.csv").write_text(content)
    code, _, err = run("train", "buzz", tmp_path / "own.csv", "--out", tmp_path / "run", "--start", "scratch")
    assert code == 2
    assert complaint in err


def test_eval_speaks_for_itself_and_takes_few_texts(run, model, tmp_path):
    (tmp_path / "one.csv").write_text("text,label\ngood film,positive\n")
    code, out, _ = run("eval", "buzz", tmp_path / "one.csv", "--model", model, "--json")
    assert (code, json.loads(out)["texts"]) == (0, 1)
    (tmp_path / "none.csv").write_text("text,label\ngood film,\n")
    code, _, err = run("eval", "buzz", tmp_path / "none.csv", "--model", model)
    assert code == 2
    assert "eval buzz: row 1 is left out: its 'label' is empty" in err
    assert "nextstate: eval buzz: " in err
    assert "train buzz" not in err


@pytest.mark.parametrize("epochs", ["0", "-1", "nan", "inf", "1e9"])
def test_epochs_that_no_run_lasts_are_refused(run, tmp_path, epochs):
    data = table(tmp_path / "own.csv", 20)
    code, _, err = run("train", "buzz", data, "--epochs", epochs, "--out", tmp_path / "run")
    assert code == 2
    assert f"--epochs is {float(epochs)}; expected more than 0" in err
    assert not (tmp_path / "run").exists()


def test_eval_knows_the_sign_where_there_is_no_neutral(run, model, tmp_path):
    (tmp_path / "t.csv").write_text(
        "text,label\n" + "good film,positive\nbad film,negative\nfilm good,negative\n" * 3
    )
    code, out, _ = run(
        "eval", "buzz", tmp_path / "t.csv", "--model", model, "--json", "--out", tmp_path / "p"
    )
    assert code == 0
    assert json.loads(out)["confusion"] == [[3, 3], [0, 3]]
    assert (tmp_path / "p" / "confusion.png").stat().st_size > 1000
    (tmp_path / "u.csv").write_text("text,label\n" + "a,x\nb,y\n" * 3)
    code, _, err = run("eval", "buzz", tmp_path / "u.csv", "--model", model)
    assert code == 2
    assert "also has ['x', 'y']" in err


def test_a_terminal_without_the_characters_of_a_text_gets_their_numbers():
    words = [sys.executable, "-m", "nextstate", "buzz", "nice \u2013 film \U0001f600"]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 0
    assert "film" in done.stdout
    assert done.stderr == ""
