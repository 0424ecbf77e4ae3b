"""The commands as a script sees them: stdout, stderr, exit codes, files left behind."""

import json
import os
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import nextstate
from nextstate import _engine
from nextstate.checks import InputError
from nextstate.cli import app
from nextstate.engines.registry import MissingCpuEngine, usable
from nextstate.run import ENGINES


def call(*arguments, text=None):
    """Exit code, stdout and complaint of a command run in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=text)
    if isinstance(result.exception, InputError):
        return 2, result.stdout, str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def script(*arguments, text=""):
    """The same in a process of its own."""
    command = [sys.executable, "-m", "nextstate", *map(str, arguments)]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)


def test_info():
    code, out, _ = call("info")
    assert code == 0
    assert "reference" in out
    facts = json.loads(call("info", "--json")[1])
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    found = _engine.info()
    assert facts["kernels"].startswith(f"{found['isa']} of {', '.join(found['available'])}; products in")
    assert ("bfloat16" in facts["kernels"]) == found["bf16"]
    gpu = ["torch"] if torch.cuda.is_available() else []
    assert facts["engines"] == ["cpu", *gpu, "scan", "newton", "quasi-newton", "reference"]
    for line in (f"threads    {facts['threads']}", f"engines    {', '.join(facts['engines'])}"):
        assert line in out.splitlines()


def test_info_without_the_extension_names_neither_its_engine_nor_kernels(monkeypatch):
    monkeypatch.setitem(ENGINES, "cpu", MissingCpuEngine("not there"))
    monkeypatch.setitem(sys.modules, "nextstate._engine", None)
    monkeypatch.delattr(nextstate, "_engine")
    facts = json.loads(call("info", "--json")[1])
    assert "cpu" not in facts["engines"]
    assert "reference" in facts["engines"]
    assert facts["kernels"].startswith("not installed")


@pytest.mark.parametrize("gpu", [False, True])
def test_torchs_fused_kernels_can_run_where_there_is_a_gpu(monkeypatch, gpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert ("torch" in usable(ENGINES)) == gpu


def test_one_list(model):
    assert call("sort", "--model", model, 3, 1, 4, 2) == (0, "1 2 3 4\n", "")
    assert call("sort", "--model", model, "--json", "3,1,2") == (0, "[1, 2, 3]\n", "")


def test_a_list_a_line_in_order(model):
    text = "3 1 2\n[4, 1]\n2,2,1\n4"
    assert call("sort", "--model", model, text=text) == (0, "1 2 3\n1 4\n1 2 2\n4\n", "")
    assert call("sort", "--model", model, text="") == (0, "", "")
    many = [[1 + (k * j) % 4 for j in range(1 + k % 5)] for k in range(5000)]
    text = "".join(" ".join(map(str, numbers)) + "\n" for numbers in many)
    code, out, _ = call("sort", "--model", model, "--json", text=text)
    assert code == 0
    answers = [json.loads(line) for line in out.splitlines()]
    assert [len(answer) for answer in answers] == [len(numbers) for numbers in many]
    right = [answer == sorted(numbers) for answer, numbers in zip(answers, many, strict=True)]
    assert sum(right) >= 0.99 * len(many)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["3", "x"], "number 2 is 'x'"),
        (["1.5"], "'1.5'"),
        (["1_0"], "'1_0'"),
        (["5"], "number 1 is 5; this model sorts whole numbers from 1 to 4"),
        (["0", "1"], "number 1 is 0"),
        (["-1"], "number 1 is -1"),
        (["1"] * 6, "the list has 6 numbers; this model sorts lists of 1 to 5"),
        ([""], "the list is empty"),
        (["--jsn", "1"], "'--jsn'"),
    ],
)
def test_bad_lists_are_refused(model, words, complaint):
    code, out, message = call("sort", "--model", model, *words)
    assert code == 2
    assert out == ""
    assert complaint in message


@pytest.mark.parametrize("bad", ["", "7", "1 1 1 1 1 1", "[1, [2]]", "one"])
def test_lines_before_a_bad_one_are_answered_and_the_bad_one_is_named(model, bad):
    code, out, message = call("sort", "--model", model, text=f"2 1\n3 1\n{bad}\n1 2\n")
    assert code == 2
    assert out == "1 2\n1 3\n"
    assert message.startswith("line 3: ")


def test_evaluation(model):
    code, out, _ = call("eval", "sort", "--model", model, "--lists", 50, "--json")
    assert code == 0
    report = json.loads(out)
    assert report["trained_lengths"] == [1, 5]
    assert report["laws"]["uniform"]["lists"] == 50
    assert set(report["lengths"]) == {"1", "2", "3", "4", "5"}
    assert report["lengths"]["3"]["lists"] == 10 * len(report["laws"])
    assert report["laws"]["permutation"]["lists_right"] > 0.95
    assert set(report["beyond"]) == {"6", "8", "12", "16"}
    assert report["beyond"]["16"]["lists_right"] < report["laws"]["uniform"]["lists_right"]
    again = json.loads(call("eval", "sort", "--model", model, "--lists", 50, "--json")[1])
    assert again == report
    code, out, _ = call("eval", "sort", "--model", model, "--lists", 6, "--lengths", "2-3,5")
    assert code == 0
    assert "by law" in out
    assert "beyond" in out


@pytest.mark.parametrize(
    ("lengths", "complaint"),
    [
        ("x", "expected numbers and ranges such as 1-40,48"),
        ("3-", "expected numbers and ranges such as 1-40,48"),
        ("-", "expected numbers and ranges such as 1-40,48"),
        (",", "expected numbers and ranges such as 1-40,48"),
        ("0", "every length must be at least 1"),
        ("5-2", "5-2 ends before it begins: expected 2-5"),
        ("3,5-2", "5-2 ends before it begins: expected 2-5"),
    ],
)
def test_bad_lengths_are_refused(model, lengths, complaint):
    code, _, message = call("eval", "sort", "--model", model, "--lists", 5, "--lengths", lengths)
    assert code == 2
    assert message == f"eval sort: lengths is {lengths!r}; {complaint}"


def test_lists_are_rounded_up_to_as_many_of_every_length_and_it_is_said(model):
    code, out, message = call("eval", "sort", "--model", model, "--lists", 7, "--json")
    report = json.loads(out)
    assert code == 0
    assert message == "eval sort: 10 lists of every law, 2 of every one of 5 lengths, instead of 7\n"
    assert report["laws"]["uniform"]["lists"] == 10
    assert report["lists_of_a_length"] == 2
    assert "rounded up" in " ".join(call("eval", "sort", "--help")[1].replace("│", " ").split())
    assert call("eval", "sort", "--model", model, "--lists", 5, "--json")[2] == ""


@pytest.fixture
def tiny_recipe(monkeypatch):
    """The short recipe with a small network, so that the command itself can be tried in a second."""
    from dataclasses import replace

    from nextstate.recipes import sort

    small = replace(sort.RECIPES["short"], largest=4, shortest=3, longest=3, hidden=8, batch=8)
    monkeypatch.setitem(sort.RECIPES, "short", small)


def test_training_leaves_model_card_curve_and_records(tmp_path, tiny_recipe):
    out = tmp_path / "run"
    code, stdout, message = call("train", "sort", "--steps", 40, "--out", out, "--seed", 5, "--json")
    assert code == 0
    records = [json.loads(line) for line in stdout.splitlines()]
    assert records[-1]["step"] == 40
    assert records[-1]["evaluation"]["elements_right"] > 0
    assert "wrote" in message
    assert {path.name for path in out.iterdir()} == {
        "model.safetensors",
        "model.md",
        "curve.png",
        "curve.jsonl",
        "run.json",
    }
    assert [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()] == records
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "seed 5" in (out / "model.md").read_text()
    assert call("sort", "--model", out / "model.safetensors", 1, 2, 3)[0] == 0


def test_an_interrupted_training_goes_on_to_the_same_model(tmp_path, tiny_recipe, monkeypatch):
    import nextstate.recipes.sort as recipes

    options = ("--steps", 40, "--seed", 2)
    assert call("train", "sort", "--out", tmp_path / "whole", *options)[0] == 0

    real = recipes.fit

    def interrupted(*arguments, **named):
        for record in real(*arguments, **named):
            if record.step == 22:
                raise KeyboardInterrupt
            yield record

    monkeypatch.setattr(recipes, "fit", interrupted)
    assert call("train", "sort", "--out", tmp_path / "cut", *options)[0] == 130
    monkeypatch.setattr(recipes, "fit", real)
    code, _, message = call("train", "sort", "--out", tmp_path / "cut", "--steps", 41, "--seed", 2)
    assert code == 2
    assert "other settings" in message
    assert call("train", "sort", "--out", tmp_path / "cut", *options)[0] == 0
    whole, cut = tmp_path / "whole" / "model.safetensors", tmp_path / "cut" / "model.safetensors"
    assert whole.read_bytes() == cut.read_bytes()
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / "curve.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] == 40


@pytest.mark.parametrize(
    "options",
    [
        ("--minutes", 0),
        ("--minutes", "inf"),
        ("--device", "tpu"),
        ("--precision", "16-mixed"),
        ("--steps", 0),
        ("--seed", 2**64),
        pytest.param(
            ("--device", "cuda"),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_bad_training_options_are_refused(tmp_path, options):
    assert call("train", "sort", "--out", tmp_path / "run", *options)[0] == 2
    assert not (tmp_path / "run").exists()


def test_every_verb_explains_itself():
    for verb in ([], ["info"], ["sort"], ["train"], ["train", "sort"], ["eval"], ["eval", "sort"]):
        code, out, _ = call(*verb, "--help")
        assert code == 0
        assert "Usage" in out


def test_a_process_complains_on_stderr_in_one_line(model):
    done = script("sort", "--model", model, 9)
    assert done.returncode == 2
    assert done.stdout == ""
    expected = "nextstate: sort: number 1 is 9; this model sorts whole numbers from 1 to 4\n"
    assert done.stderr == expected


def test_a_closed_pipe_ends_it_quietly(model):
    command = f"{sys.executable} -m nextstate sort --model {model} | head -1"
    text = "2 1\n" * 200_000
    done = subprocess.run(command, shell=True, input=text, capture_output=True, text=True, timeout=60)
    assert done.stdout == "1 2\n"
    assert done.stderr == ""


def test_answers_come_while_the_input_is_open(model):
    """A program on the other end of two pipes gets its answer before it closes its own."""
    command = [sys.executable, "-m", "nextstate", "sort", "--model", str(model)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdin.write("3 2\n")
        process.stdin.flush()
        assert process.stdout.readline() == "2 3\n"
        process.stdin.write("4 1\n")
        process.stdin.close()
        assert process.stdout.readline() == "1 4\n"


def test_sorting_imports_neither_training_nor_plots(model):
    code = (
        "import sys; from nextstate.cli import app; "
        f"app(['sort', '--model', {str(model)!r}, '2', '1'], standalone_mode=False); "
        "slow = {'matplotlib', 'lightning_fabric', 'rich.progress', 'nextstate.training', 'torch._dynamo'}; "
        "assert not slow & set(sys.modules), slow & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
