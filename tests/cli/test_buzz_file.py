"""`nextstate buzz --file`: files and options that are not what they should be; a stand-in for the model."""

import gzip
import io
import json
import signal
import subprocess
import sys
import time

import pytest

from nextstate.buzzometer import Buzzometer, Explanation, Score, WordContribution
from nextstate.cli import main


class Pleased:
    """Finds every text positive, at once."""

    def score(self, texts):
        return [Score("positive", 0.5, 0.75, {"positive": 0.75, "negative": 0.25})] * len(texts)

    def explain(self, text):
        return Explanation(0.5, 0.0, [WordContribution(text[-1:], len(text) - 1, len(text), 0.5)])


@pytest.fixture
def run(monkeypatch, capsys):
    monkeypatch.setattr(Buzzometer, "load", lambda path=None: Pleased())

    def run(*arguments, stdin=b""):
        stream = None if stdin is None else io.TextIOWrapper(io.BytesIO(stdin))
        monkeypatch.setattr(sys, "stdin", stream)
        monkeypatch.setattr(sys, "argv", ["nextstate", "buzz", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, *capsys.readouterr()

    return run


LATE = b'{"text": "a"}\n{"text": "b", "label": 1, "stars": 2}\n'


def test_fields_that_are_not_in_the_output_are_told(run, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(LATE)
    told = (
        "fields of rows are not in the output, since the first rows do not name them; a .jsonl output keeps"
    )
    code, _, err = run("--file", tmp_path / "in.jsonl", "--out", tmp_path / "out.csv")
    assert (code, f"buzz: 2 {told}" in err) == (0, True)
    code, out, err = run("--file", tmp_path / "in.jsonl")
    assert json.loads(out.splitlines()[1])["input_label"] == 1
    assert err == "buzz: the column 'label' of the input is called 'input_label' in the output\n"


def test_half_a_character_on_standard_output(run):
    text = b'{"text": "so good \\ud83d"}\n'
    for format, shown in (("jsonl", r'"so good \ud83d"'), ("csv", "so good")):
        code, out, err = run(
            "--file", "-", "--format", format, stdin=text if format == "jsonl" else b"text\nso good\n"
        )
        assert (code, err) == (0, "")
        assert shown in out


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_an_argument_that_is_no_utf_8_is_shown_with_a_replacement(run, options):
    code, out, _ = run("so good \udcff", *options)
    assert (code, "\ufffd" in out) == (0, True)


def test_a_dash_for_the_output_is_standard_output(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("text\ngood\n")
    assert run("--file", "a.csv", "--out", "-")[:2] == run("--file", "a.csv")[:2]
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_dash_is_no_folder_for_many_files(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("text\ngood\n")
    code, _, err = run("--file", "*.csv", "--out", "-")
    assert (code, "--out is - and --file *.csv names many files" in err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_no_folder_is_made_for_an_input_that_is_not_there(run, tmp_path):
    code, _, err = run("--file", tmp_path / "no.csv", "--out", tmp_path / "new" / "b.csv")
    assert (code, "no.csv" in err) == (2, True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("terminal", ["", "1"])
def test_a_text_commands_no_terminal(run, monkeypatch, terminal):
    monkeypatch.setenv("FORCE_COLOR", terminal)
    code, out, _ = run("so\x1b[2Jgood\x9b7m\x07\x7f")
    assert code == 0
    assert ("so\u241b[2Jgood\ufffd7m\u2407" in out) is bool(terminal)
    assert not {"\x9b", "\x07", "\x7f"} & set(out)
    assert "\x1b[2J" not in out
    assert "\u2421 +0.50" in out  # the word that the stand-in says moved the score is the last character


def test_closed_standard_input_is_refused(run):
    code, _, err = run(stdin=None)
    assert (code, err) == (2, "nextstate: table: standard input is closed; name a file\n")


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_half_written(tmp_path, asked):
    words = [sys.executable, "-m", "nextstate", "buzz", "--file", "-", "--out", str(tmp_path / "b.csv")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdin.write(b"good\n")
        process.stdin.flush()
        end = time.monotonic() + 60
        while not list(tmp_path.glob(".writing-*")) and time.monotonic() < end:
            time.sleep(0.05)
        assert list(tmp_path.glob(".writing-*"))
        process.send_signal(asked)
        assert process.wait(60) == 128 + asked
    assert not list(tmp_path.iterdir())


def test_other_encodings_are_read_or_told(run, tmp_path):
    (tmp_path / "a.csv").write_bytes("text\nil était\n".encode("utf-16"))
    assert run("--file", tmp_path / "a.csv")[1:] == (
        "text,label,score,probability\nil était,positive,0.5,0.75\n",
        "",
    )
    (tmp_path / "a.csv").write_bytes("text\nil était\ngood\n".encode("latin-1"))
    code, _, err = run("--file", tmp_path / "a.csv")
    assert (code, err.startswith("buzz: in 1 rows something is no UTF-8")) == (0, True)


def test_a_damaged_file_is_refused_in_one_line(run, tmp_path):
    packed = gzip.compress("".join(f"{n * n}\n" for n in range(9000)).encode())
    (tmp_path / "a.txt.gz").write_bytes(packed[:-100])
    code, out, err = run("--file", tmp_path / "a.txt.gz", "--out", tmp_path / "b.csv")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "a.txt.gz beyond row " in err
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt.gz"]


def test_an_open_quotation_mark_is_told(run, tmp_path):
    (tmp_path / "a.csv").write_text('text,n\ngood,1\n"bad,2\ngood,3\n')
    code, out, err = run("--file", tmp_path / "a.csv")
    assert code == 0
    assert "row 2 is kept without a score: a quotation mark opened in this row is never closed" in err
    assert out.startswith('text,n,label,score,probability\ngood,1,positive,0.5,0.75\n"bad,2\ngood,3\n",,,,')


def test_the_format_is_known_where_rows_are_counted(run, tmp_path, monkeypatch):
    (tmp_path / "data").write_text("text\ngood\n")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    code, _, err = run("--file", tmp_path / "data", "--format", "csv", "--out", tmp_path / "b.csv")
    assert code == 0, err
    assert (tmp_path / "b.csv").read_text().splitlines()[1] == "good,positive,0.5,0.75"


def test_the_format_of_many_files(run, tmp_path):
    (tmp_path / "part-1").write_text("text\ngood\n")
    code, _, err = run("--file", tmp_path / "part-*", "--format", "csv", "--out", tmp_path / "out")
    assert code == 0, err
    assert (tmp_path / "out" / "part-1").read_text().splitlines()[1] == "good,positive,0.5,0.75"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--file", "a.csv", "--file", "b.csv"],
            "--file is given 2 times; give a pattern in quotation marks",
        ),
        (["--file", "*.csv", "--words", "3"], "--words 3 goes with texts"),
        (["--file", "*.csv", "--workers", "3"], "--workers 3 goes with --engine ray and many files"),
        (["good", "--workers", "3"], "--workers 3 goes with --engine ray and many files"),
        (["--file", "?" * 300], "no file is called ???"),
        (["--file", "x" * 300, "--format", "csv"], "File name too long"),
        (["--file", "a.csv", "--out", "x" * 300], "name too long; name another one"),
        (["--file", "a.csv", "--out", "b.parquet.gz"], "expected b.parquet"),
    ],
)
def test_what_would_not_be_heeded_or_cannot_be_is_refused(run, tmp_path, monkeypatch, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("text\ngood\n")
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert complaint in err
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_what_other_runs_are_writing_stays(run, tmp_path):
    (tmp_path / "a.csv").write_text("text\ngood\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".writing-1-b.csv").touch()
    assert run("--file", tmp_path / "*.csv", "--out", tmp_path / "out")[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".writing-1-b.csv", "a.csv"]
