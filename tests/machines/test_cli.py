"""The commands of `nextstate machine`: answers on stdout, exit code 2 for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nextstate import InputError
from nextstate.cli.machine import machine
from nextstate.machines import equivalent, load, save
from nextstate.machines.library import busy_beaver, counting_sort, marked_palindromes, tomita

EVEN = "dfa; alphabet 0 1; start e; accepting e; e 0 -> e; e 1 -> o; o 0 -> o; o 1 -> e"


def run(*words: str) -> Result:
    result = CliRunner().invoke(machine, list(words))
    if isinstance(result.exception, InputError):
        raise result.exception
    assert not result.exception or isinstance(result.exception, SystemExit), result.exception
    return result


def test_show_run_compile_extract(tmp_path: Path) -> None:
    file, model, back = tmp_path / "even.txt", tmp_path / "even.safetensors", tmp_path / "back.json"
    file.write_text(EVEN)
    assert "e 1 -> o" in run("show", str(file), "--out", str(tmp_path / "even.svg")).stdout
    assert (tmp_path / "even.svg").is_file()
    assert json.loads(run("run", str(file), "0110", "--json").stdout) == {"accepted": True, "ends": "e"}
    assert "accepted: no" in run("run", str(file), "01", "--network").stdout
    report = json.loads(run("compile", str(file), "--out", str(model), "--cell", "gru", "--json").stdout)
    assert report["cell"] == "gru"
    assert report["exact_until"] is None
    assert "accepted: yes" in run("run", str(model), "11").stdout
    found = json.loads(run("extract", str(model), "--out", str(back), "--json").stdout)
    assert found["status"] == "proved"
    assert equivalent(load(back), load(file))  # type: ignore[arg-type]


def test_machines_with_output_stacks_and_tapes(tmp_path: Path) -> None:
    save(counting_sort(3), tmp_path / "sort.txt")
    said = json.loads(run("run", str(tmp_path / "sort.txt"), "201___", "--network", "--json").stdout)
    assert said["outputs"][3:] == ["0", "1", "2"]
    save(marked_palindromes(), tmp_path / "mirror.txt")
    assert "accepted: yes" in run("run", str(tmp_path / "mirror.txt"), "ab#ba").stdout
    assert "accepted: no" in run("run", str(tmp_path / "mirror.txt"), "ab#bb", "--network").stdout
    save(busy_beaver(2), tmp_path / "beaver.json")
    assert "Z" in run("run", str(tmp_path / "beaver.json"), "--network").stdout


@pytest.mark.parametrize(
    "words",
    [
        ("run", "nowhere.txt", "0"),
        ("run", "tomita1", "012"),
        ("extract", "nowhere.safetensors"),
        ("compile", "tomita1", "--out", "x.safetensors", "--dtype", "int8"),
        ("compile", "tomita1", "--out", "x.safetensors", "--cell", "mlp"),
        ("extract", "nowhere.safetensors", "--method", "guess"),
    ],
)
def test_bad_input_is_refused(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        run(*words)
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


def test_the_circle_draws_every_stage(tmp_path: Path) -> None:
    said = json.loads(run("circle", "parity", "--out", str(tmp_path), "--json").stdout)
    assert said["closed"] is True
    assert {p.name for p in tmp_path.iterdir()} == {
        "1-truth.svg",
        "2-training.svg",
        "3-found.svg",
        "4-compiled.svg",
        "compiled.safetensors",
        "found.txt",
        "trained.safetensors",
    }
    assert equivalent(load(tmp_path / "found.txt"), tomita(1)) is False  # type: ignore[arg-type]
    trained = run("extract", str(tmp_path / "trained.safetensors"), "--method", "lstar", "--epsilon", "0.05")
    assert trained.stdout.startswith("# pac") or trained.stdout.startswith("# proved")
