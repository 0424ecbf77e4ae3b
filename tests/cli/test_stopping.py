"""Commands that end before their time: Ctrl-C in a training, output that cannot be written, finished runs."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nextstate.checks import InputError
from nextstate.cli import app
from nextstate.recipes import buzz, buzz_pretrain, memory_tasks, sort, text

GOES_ON = "run the same command again to go on"
LINE = "sphinx of black quartz, judge my vow\n"
KEPT_ANYWAY = "nextstate: interrupted; the same command goes on from the last checkpoint"


@pytest.fixture(autouse=True)
def _ctrl_c_is_not_ignored():
    """As it is where the tests themselves run in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def call(*arguments):
    """Exit code and stderr of a command run in this process; complaints as they are raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, InputError):
        return 2, str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Trainings of every kind that take a second, by name: the words of the command."""
    tiny = replace(sort.RECIPES["short"], largest=4, shortest=3, longest=3, hidden=8, batch=8)
    monkeypatch.setitem(sort.RECIPES, "short", tiny)
    monkeypatch.setattr("torch.set_flush_denormal", lambda on: True)  # of this process, tests included
    xor = memory_tasks.EXPERIMENTS["xor"]
    monkeypatch.setitem(
        memory_tasks.EXPERIMENTS, "xor", replace(xor, variants={"Elman": xor.variants["Elman"]})
    )
    (tmp_path / "book").write_text(LINE * 30)
    (tmp_path / "more.txt").write_text("good film\nbad film\n" * 200)
    rows = [
        f"{'good' if n % 2 else 'bad'} {'film ' * (n % 5)}{n // 4},{'up' if n % 2 else 'down'}"
        for n in range(80)
    ]
    (tmp_path / "own.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    labelled = [
        *("train", "buzz", tmp_path / "own.csv", "--hidden", 8, "--vocabulary", 100, "--epochs", 8),
        *("--start", "scratch"),
    ]
    sizes = ["--hidden", 16, "--features", 8, "--rows", 4, "--length", 16, "--dropout", 0.3]
    return {
        "sort": ["train", "sort", "--steps", 100],
        "text": ["train", "text", tmp_path / "book", "--steps", 60, *sizes],
        "buzz": labelled,
        "buzz, reading": [*labelled, "--unlabelled", tmp_path / "more.txt"],
        "experiment": ["experiment", "xor", "--steps", 120],
    }


LOSSES = {
    "sort": (sort, "sorting_loss"),
    "text": (text, "text_loss"),
    "buzz": (buzz, "adversarial_loss"),
    "buzz, reading": (buzz_pretrain, "sampled_loss"),
    "experiment": (memory_tasks, "_loss"),
}


def asked_at(monkeypatch, kind, at, *numbers):
    """The training of a kind sends its own process signals in the course of its step `at`."""
    module, name = LOSSES[kind]
    plain, steps = getattr(module, name), 0

    def asking(*arguments, **named):
        nonlocal steps
        steps += 1
        if steps == at:
            for number in numbers:
                os.kill(os.getpid(), number)
        return plain(*arguments, **named)

    monkeypatch.setattr(module, name, asking)


def outcome(out):
    """What a run leaves, but for the times it took."""
    if (out / "results.json").exists():
        found = json.loads((out / "results.json").read_text())["networks"]
        return [network["curve"] for network in found]
    return (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", LOSSES)
def test_ctrl_c_in_the_third_step_keeps_it_and_the_same_command_goes_on_to_the_same_bits(
    kind, small, tmp_path, monkeypatch
):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    code, told = call(*small[kind], "--out", whole)
    assert code == 0, told
    with monkeypatch.context() as patch:
        asked_at(patch, kind, 3, signal.SIGINT)
        code, told = call(*small[kind], "--out", cut)
    assert code == 130
    assert told.splitlines()[-1] == f"nextstate: interrupted after 3 steps; {GOES_ON}"
    assert "Traceback" not in told
    assert [path.name for path in cut.glob("checkpoints*/**/step-*")] == ["step-000000003"]
    with monkeypatch.context() as patch:  # a third call of the loss has to be step 6
        asked_at(patch, kind, 3, signal.SIGTERM)
        code, told = call(*small[kind], "--out", cut)
    assert (code, told.splitlines()[-1]) == (130, f"nextstate: interrupted after 6 steps; {GOES_ON}")
    assert call(*small[kind], "--out", cut)[0] == 0
    assert outcome(cut) == outcome(whole)


def test_a_second_ctrl_c_ends_it_at_once(small, tmp_path, monkeypatch):
    asked_at(monkeypatch, "sort", 3, signal.SIGINT, signal.SIGINT)
    code, told = call(*small["sort"], "--out", tmp_path / "run")
    assert code == 130
    assert told.startswith(KEPT_ANYWAY)
    assert told.count("\n") == 1
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_signal_to_the_process_leaves_one_line_and_a_checkpoint(tmp_path):
    command = [*(sys.executable, "-m", "nextstate", "train", "sort"), "--out", str(tmp_path), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        step = json.loads(process.stdout.readline())["step"]
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    [kept] = tmp_path.glob("checkpoints/step-*")
    steps = int(kept.name.removeprefix("step-"))
    assert step < steps < 250, "before the first checkpoint that it would have written anyway"
    assert told == f"nextstate: interrupted after {steps} steps; {GOES_ON}\n"


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    ("words", "buffered"),
    [("sort 2 1", True), ("sort", False), ("generate --length 3", False)],  # each starts a process
)
def test_output_that_cannot_be_written_is_one_line_and_code_1(words, buffered):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "" if buffered else "1"}
    with FULL.open("w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "nextstate", *words.split()],
            input="2 1\n", stdout=out, stderr=subprocess.PIPE, text=True, timeout=120, env=environment,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "nextstate: the output cannot be written: No space left on device\n"


def test_a_reader_that_is_gone_is_no_fault():
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": ""}
    command = f"{sys.executable} -m nextstate sort 2 1 | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, env=environment)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("kind", ["sort", "text", "buzz"])
def test_a_run_that_has_finished_is_neither_repeated_nor_replaced(kind, small, tmp_path):
    out = tmp_path / "run"
    assert call(*small[kind], "--out", out)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    code, told = call(*small[kind], "--out", out)
    assert code == 0
    assert told.splitlines()[-1] == (
        f"train {kind}: {out} holds this very run, finished: {out}/model.safetensors; "
        "to train anew name another --out"
    )
    code, told = call(*small[kind], "--out", out, "--seed", 7)
    assert code == 2
    assert f"{out} holds a finished run with other settings or data; name another --out" in told
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    (out / "run.json").unlink()
    code, told = call(*small[kind], "--out", out)
    assert code == 2
    assert f"{out} holds model.safetensors, which a new run would replace; name another --out" in told
    assert {path for path in before if path.name != "run.json"} == set(out.iterdir())


def test_other_texts_under_the_same_name_are_another_run(small, tmp_path):
    data = tmp_path / "own.csv"
    assert call(*small["buzz"], "--out", tmp_path / "run")[0] == 0
    data.write_text(data.read_text().replace("film", "book", 1))
    code, told = call(*small["buzz"], "--out", tmp_path / "run")
    assert code == 2
    assert "other settings or data" in told


@pytest.mark.parametrize("kind", ["sort", "buzz"])
def test_folders_of_ones_own_are_not_removed(kind, small, tmp_path):
    mine = tmp_path / "run" / "checkpoints" / "mine"
    mine.mkdir(parents=True)
    code, told = call(*small[kind], "--out", tmp_path / "run")
    assert code == 2
    assert "a run removes" in told
    assert mine.exists()


@pytest.mark.parametrize("kind", ["sort", "text", "buzz"])
@pytest.mark.parametrize("minutes", ["1e300", "nan", "inf", "0", "-1", "40321"])
def test_minutes_that_no_run_lasts_are_refused(kind, minutes, small, tmp_path):
    words = [word for word in small[kind] if kind != "text"] or ["train", "text", tmp_path / "book"]
    code, told = call(*words, "--minutes", minutes, "--out", tmp_path / "run")
    assert code == 2
    asked = f"train {kind}: minutes is {float(minutes)}; it must be positive and at most 40320 (four weeks)"
    assert told == asked
    assert not (tmp_path / "run").exists()


def test_the_experiment_says_when_its_code_is_never_1(small, tmp_path, monkeypatch):
    xor = memory_tasks.EXPERIMENTS["xor"]
    wrong = {"Elman": replace(xor.variants["Elman"], solves=True)}
    monkeypatch.setitem(memory_tasks.EXPERIMENTS, "xor", replace(xor, variants=wrong, steps=2))
    assert call("experiment", "xor", "--out", tmp_path / "a")[0] == 1
    assert call("experiment", "xor", "--out", tmp_path / "b", "--steps", 2)[0] == 0
    told = " ".join(CliRunner().invoke(app, ["experiment", "--help"]).stdout.replace("│", " ").split())
    assert "with --steps never" in told
