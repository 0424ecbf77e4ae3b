"""`nextstate train buzz`: what it refuses before it writes, what it takes, and what it leaves behind."""

import io
import json
import re
import shlex
import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from nextstate.checks import InputError
from nextstate.cli import app, run_told
from nextstate.cli.train_buzz import read_texts
from nextstate.training import Record

SMALL = ("--start", "scratch", "--hidden", 4, "--vocabulary", 100)


def call(*arguments):
    """Exit code and stderr of a command run in this process; complaints as they are raised."""
    result = CliRunner().invoke(app, ["train", "buzz", *map(str, arguments)])
    if isinstance(result.exception, InputError):
        return 2, str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr


def table(path, counts, text="text", label="label"):
    rows = [f"{said} film {n},{said}" for said, count in counts.items() for n in range(count)]
    path.write_text("\n".join([f"{text},{label}", *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    ("counts", "untaught"), [({"up": 6, "down": 6}, "'down', 'up'"), ({"up": 3, "down": 40}, "'up'")]
)
def test_a_label_without_a_text_to_train_on_is_named_before_anything_is_written(tmp_path, counts, untaught):
    data, out = table(tmp_path / "own.csv", counts), tmp_path / "run"
    code, told = call(data, *SMALL, "--held-back", 0.5, "--test", 0.45, "--out", out)
    assert code == 2
    assert told == (
        f"train buzz: --held-back 0.5 and --test 0.45 leave no text with the label {untaught} to train on; "
        "lower --held-back or --test"
    )
    assert not out.exists()


@pytest.mark.parametrize(
    ("held_back", "test"), [("0.6", "0.6"), ("-0.1", "0.1"), ("0.1", "nan"), ("1.0", "0.0")]
)
def test_shares_that_are_none_are_refused_by_their_options(tmp_path, held_back, test):
    data = table(tmp_path / "own.csv", {"up": 6, "down": 6})
    code, told = call(data, "--held-back", held_back, "--test", test, "--out", tmp_path / "run")
    assert code == 2
    assert told == (
        f"train buzz: --held-back is {held_back} and --test {test}; expected shares of at least 0 whose sum "
        "is below 1"
    )
    assert not (tmp_path / "run").exists()


def test_options_that_exclude_each_other_are_refused(tmp_path):
    data, more = table(tmp_path / "own.csv", {"up": 6, "down": 6}), tmp_path / "more.txt"
    more.write_text("good film\n")
    code, told = call(data, "--minutes", 1, "--epochs", 2, "--out", tmp_path / "run")
    assert (code, told) == (2, "train buzz: --minutes is 1.0 and --epochs 2.0; give one of them")
    code, told = call(data, "--start", "shipped", "--unlabelled", more, "--out", tmp_path / "run")
    assert code == 2
    assert told == (
        f"train buzz: --start is 'shipped' and --unlabelled {more}; a run that reads texts without labels "
        "begins from scratch: give one of them"
    )
    code, told = call(data, "--start", "nowhere", "--out", tmp_path / "run")
    assert (code, told) == (2, "train buzz: --start is 'nowhere'; expected 'shipped' or 'scratch'")
    assert not (tmp_path / "run").exists()


def test_texts_without_labels_come_from_the_same_column_if_there_is_one(tmp_path):
    more = tmp_path / "more.csv"
    more.write_text("id,said,text\n1,good,other\n2,,other\n3,bad,other\n")
    assert read_texts(more, "said") == ["good", "bad"]
    assert read_texts(more, "Said") == read_texts(more, None) == ["other"] * 3, "else the usual one"
    more.write_text("id,kind\n1,good\n")
    with pytest.raises(InputError, match="no column 'said'; its columns are 'id', 'kind'"):
        read_texts(more, "said")
    with pytest.raises(InputError, match="which column holds the text"):
        read_texts(more, None)
    with pytest.raises(InputError, match=r"cannot read .*missing\.csv"):
        read_texts(tmp_path / "missing.csv", "said")


@pytest.mark.parametrize(("name", "content"), [("m.csv", "id,text\n1,\n"), ("m.txt", ""), ("m.txt", " \n\n")])
def test_a_file_without_texts_to_read_is_refused(tmp_path, name, content):
    data, more = table(tmp_path / "own.csv", {"up": 6, "down": 6}), tmp_path / name
    more.write_text(content)
    code, told = call(data, "--unlabelled", more, "--out", tmp_path / "run")
    assert code == 2
    assert told == f"train buzz: --unlabelled is {more}, which holds no text; expected one a row or line"
    assert not (tmp_path / "run").exists()


def test_texts_of_one_group_stay_in_one_part(tmp_path):
    data, out = tmp_path / "own.csv", tmp_path / "run"
    rows = [f"{said} text {n},{said},{said}{n // 4}" for said in ("up", "down") for n in range(40)]
    data.write_text("\n".join(["text,label,film", *rows]) + "\n")
    words = (data, *SMALL, "--epochs", 1, "--held-back", 0.15, "--test", 0.15)
    assert "held back: 12 texts" in call(*words, "--out", out)[1]
    code, told = call(*words, "--group-column", "film", "--out", tmp_path / "grouped")
    assert (code, "held back: 16 texts" in told) == (0, True), told
    assert "--group-column film" in (tmp_path / "grouped" / "model.md").read_text()
    rows = [row.rpartition(",")[0] + ",all" for row in rows]
    data.write_text("\n".join(["text,label,film", *rows]) + "\n")
    code, told = call(*words, "--group-column", "film", "--out", tmp_path / "none")
    assert code == 2
    assert "'film' has 1 groups, too few to leave one for --held-back and --test" in told
    assert not (tmp_path / "none").exists()
    code, told = call(*words, "--group-column", "films", "--out", tmp_path / "none")
    assert code == 2
    assert "no column 'films'; its columns are 'text', 'label', 'film'" in told


def test_the_command_of_the_card_is_that_of_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "my own.csv", {"up": 12, "down": 8}, "said so", "kind|of")
    (tmp_path / "more texts.csv").write_text("id,said so\n" + "1,good film\n2,bad film\n" * 9)
    given = [
        *("--text-column", "said so", "--label-column", "kind|of", "--unlabelled", "more texts.csv"),
        *(
            "--hidden",
            4,
            "--vocabulary",
            101,
            "--epochs",
            2.5,
            "--held-back",
            0.3,
            "--test",
            0.2,
            "--seed",
            3,
        ),
    ]
    code, told = call("my own.csv", *given, "--out", "run")
    assert code == 0, told
    card = (tmp_path / "run" / "model.md").read_text()
    [command] = [line for line in card.splitlines() if line.startswith("nextstate train buzz")]
    words = shlex.split(command)[3:]
    assert words[0] == "my own.csv"
    assert dict(zip(words[1::2], words[2::2], strict=True)) == {
        **dict(zip(given[::2], map(str, given[1::2]), strict=True)),
        "--start": "scratch",
    }
    code, told = call(*words, "--out", "run")
    assert code == 0, told
    assert told.splitlines()[-1].startswith("train buzz: run holds this very run, finished")


def test_the_card_of_a_run_by_the_clock_tells_its_epochs(tmp_path):
    data, out = table(tmp_path / "own.csv", {"up": 6, "down": 6}), tmp_path / "run"
    code, told = call(data, *SMALL, "--minutes", 0.05, "--held-back", 0.2, "--test", 0, "--out", out)
    assert code == 0, told
    card = (out / "model.md").read_text()
    steps = int(re.search(r"(\d+) steps in", card)[1])
    assert steps > 6, "more than the recipe's epochs"
    epochs = float(re.search(r"epochs\D*([\d.]+)", card)[1])
    assert epochs == pytest.approx(steps, rel=0.01), "every step reads all of these texts"


def test_a_finished_run_tells_what_it_wrote_and_keeps_no_checkpoints(tmp_path):
    data, out = table(tmp_path / "own.csv", {"up": 6, "down": 6}), tmp_path / "run"
    words = (data, *SMALL, "--epochs", 1, "--held-back", 0.2, "--test", 0, "--out", out)
    code, told = call(*words)
    assert code == 0, told
    assert told.splitlines()[-1] == f"wrote model.safetensors, model.md to {out}"
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "model.md", "run.json"}
    left = [out / folder / "step-000000002" for folder in ("checkpoints", "checkpoints-reading")]
    for folder in left:  # as after a kill between the note and the removal
        folder.mkdir(parents=True)
    code, told = call(*words)
    assert code == 0
    assert "holds this very run, finished" in told
    assert not any(folder.parent.exists() for folder in left)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("evaluation", [{"accuracy": 0.5}, {}])
def test_records_are_shown_as_json_as_lines_or_live(monkeypatch, capsys, evaluation):
    """With a line for every evaluation, also for one that has no figures because no text was held back."""
    records = [Record(step, step / 2, 0.5, 0.1, 1.0, 1.0, 1.0, 0) for step in (1, 2)]
    records[1] = replace(records[1], evaluation=evaluation)

    def show(json_output):
        with run_told.shown(lambda record: f"step {record.step}", json_output) as take:
            for record in records:
                take(record)

    show(True)
    assert [Record(**json.loads(line)) for line in capsys.readouterr().out.splitlines()] == records
    show(False)
    assert capsys.readouterr().err == "step 2\n"
    monkeypatch.setattr(sys, "stderr", Terminal())
    show(False)
    plain = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", sys.stderr.getvalue())
    assert [line.strip() for line in plain.splitlines()].count("step 2") == 1, "above the line that moves"
