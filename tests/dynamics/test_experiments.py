"""The tasks of memory, the experiments on them, and the pages that state their figures."""

from __future__ import annotations

import doctest
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import nextstate as ns
from nextstate.cells import GRU, Elman
from nextstate.cli import app
from nextstate.init import chrono_
from nextstate.recipes import memory_tasks
from nextstate.recipes.memory_tasks import EXPERIMENTS, Variant
from nextstate.tasks.memory import Digits, adding, copy_baseline, copy_memory, delayed_xor

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("make", [copy_memory, adding, delayed_xor])
def test_batches_are_a_function_of_seed_and_number(make) -> None:
    one, again, other = make(30, rows=8, seed=1)(4), make(30, rows=8, seed=1)(4), make(30, rows=8, seed=2)(4)
    assert torch.equal(one.us, again.us)
    assert torch.equal(one.targets, again.targets)
    assert not torch.equal(one.us, other.us)
    assert not torch.equal(one.us, make(30, rows=8, seed=1)(5).us)


def test_copy_memory_and_its_baseline() -> None:
    us, targets = copy_memory(50, rows=4000)(0)
    ids = us.argmax(-1)
    assert us.shape == (70, 4000, 10)
    assert (ids[10:59] == 8).all()
    assert (ids[59] == 9).all(), "the signal, ten steps before the answer begins"
    assert torch.equal(targets[60:], ids[:10])
    blind = torch.full((70, 4000, 9), -1e9)
    blind[:60, :, 8] = 0
    blind[60:, :, :8] = 0
    loss = torch.nn.functional.cross_entropy(blind.flatten(0, 1), targets.flatten())
    assert float(loss) == pytest.approx(copy_baseline(50)) == pytest.approx(10 * math.log(8) / 70)


def test_adding_and_xor_and_their_baselines() -> None:
    us, sums = adding(40, rows=20_000)(0)
    assert (us[:20, :, 1].sum(0) == 1).all()
    assert (us[20:, :, 1].sum(0) == 1).all()
    assert float((sums - 1).square().mean()) == pytest.approx(1 / 6, rel=0.03)
    us, differ = delayed_xor(20, rows=20_000)(0)
    assert float(differ.double().mean()) == pytest.approx(0.5, abs=0.02)
    for place in (0, 1):
        first = us[place, :, 0] > 0
        assert float(differ[first].double().mean()) == pytest.approx(0.5, abs=0.03), "one bit says nothing"


def test_digits_hold_the_same_images_apart() -> None:
    plain, mixed = Digits(seed=3), Digits(permuted=True, seed=4)
    assert torch.equal(plain.held_out.targets, mixed.held_out.targets)
    assert torch.equal(plain.held_out.us.sort(0).values, mixed.held_out.us.sort(0).values)
    assert not torch.equal(plain.held_out.us, mixed.held_out.us)
    kept = {tuple(row) for row in plain.held_out.us[:, :, 0].T.tolist()}
    drawn = {tuple(row) for n in range(20) for row in plain.train(n).us[:, :, 0].T.tolist()}
    assert not kept & drawn


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delayed XOR over 12 steps: a second."""
    tiny = replace(
        EXPERIMENTS["xor"],
        train=lambda seed: delayed_xor(12, rows=32, seed=seed),
        test=lambda: delayed_xor(12, rows=200, seed=memory_tasks.TEST_SEED)(0),
        hidden=16,
        steps=150,
        variants={
            "Elman": Variant(lambda inputs: Elman(inputs, 16), 1e-3, False),
            "GRU, chrono start": Variant(lambda inputs: chrono_(GRU(inputs, 16), 12), 2e-2, True),
        },
    )
    monkeypatch.setitem(EXPERIMENTS, "xor", tiny)


def outcomes(happened) -> dict:
    return {v: h for v, h in happened if isinstance(h, memory_tasks.Outcome)}


@pytest.mark.usefixtures("small")
def test_an_experiment_shows_what_is_claimed_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    whole = outcomes(memory_tasks.run("xor", tmp_path / "whole"))
    assert [outcome.as_claimed for outcome in whole.values()] == [True, True]
    assert [outcome.solved for outcome in whole.values()] == [False, True]
    assert whole["Elman"].figure == pytest.approx(math.log(2), abs=0.05)
    assert whole["Elman"].reach_before < whole["GRU, chrono start"].reach_before == 14
    found = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert found["baseline"] == math.log(2)
    assert (tmp_path / "whole" / "results.png").read_bytes().startswith(b"\x89PNG")
    for count, _ in enumerate(memory_tasks.run("xor", tmp_path / "cut")):
        if count == 12:
            break
    cut = outcomes(memory_tasks.run("xor", tmp_path / "cut"))
    assert [o.curve for o in cut.values()] == [o.curve for o in whole.values()]


@pytest.mark.usefixtures("small")
def test_a_claim_that_does_not_hold_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {
        name: replace(variant, solves=not variant.solves)
        for name, variant in EXPERIMENTS["xor"].variants.items()
    }
    monkeypatch.setitem(EXPERIMENTS, "xor", replace(EXPERIMENTS["xor"], variants=wrong))
    assert not any(outcome.as_claimed for outcome in outcomes(memory_tasks.run("xor", tmp_path)).values())


def test_an_unknown_experiment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ns.InputError, match="no experiment is called 'sleep'; there are copy-100"):
        next(memory_tasks.run("sleep", tmp_path))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["experiment", "sleep"], "permuted-digits, gradient-descent"),
        (["experiment", "gradient-descent", "--steps", "5"], "no --seed and no --steps"),
        (["experiment", "gradient-descent", "--seed", "1"], "no --seed and no --steps"),
        (["experiment", "xor", "--out", __file__], "is a file; name a folder"),
        (["inspect", "absent.safetensors", "--out", __file__], "is a file; name a folder"),
    ],
)
def test_commands_that_cannot_be_meant_are_refused(arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, ns.InputError)
    assert told in str(result.exception)


@pytest.mark.parametrize(("page", "least"), [("dynamics.md", 15), ("gradient-descent.md", 15)])
def test_the_pages_run(page: str, least: int) -> None:
    result = doctest.testfile(str(DOCS / page), module_relative=False)
    assert result.attempted >= least
    assert result.failed == 0
