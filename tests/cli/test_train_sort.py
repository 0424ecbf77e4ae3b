"""A training killed however often leaves every step once; one that has finished shows what it made."""

import json
from dataclasses import asdict, replace
from functools import partial

import pytest
from typer.testing import CliRunner

from nextstate.cli import app
from nextstate.cli.eval_sort import _lengths
from nextstate.cli.run_told import Curve
from nextstate.recipes import sort as recipes
from nextstate.tasks import sort as sorting
from nextstate.training import Checkpoints, Record

TWICE = [(20, 2.0), (40, 2.0), (60, 2.0), (60, 1.5), (80, 1.5)]
"""Steps and losses of a run killed at 60 that went on from 40, as its curve has them."""


@pytest.fixture
def train(tmp_path, monkeypatch):
    """`train sort` with a small recipe, a record every 5 steps and a checkpoint every 25, killed after one of
    its steps: exit code and stdout."""
    small = replace(recipes.RECIPES["short"], largest=4, shortest=3, longest=3, hidden=8, batch=8)
    monkeypatch.setitem(recipes.RECIPES, "short", small)
    monkeypatch.setattr(recipes, "Checkpoints", lambda folder, every: Checkpoints(folder, 25))
    right = {"elements_right": 0.5, "lists_right": 0.5}
    monkeypatch.setattr(recipes, "progress_check", lambda model, recipe: right)
    monkeypatch.setattr(sorting, "evaluate", partial(few_lists, sorting.evaluate))
    fit = recipes.fit

    def call(last=100):
        def killed(*arguments, **named):
            for record in fit(*arguments, **named):
                if record.step > last:
                    raise KeyboardInterrupt
                yield record

        monkeypatch.setattr(recipes, "fit", killed)
        done = CliRunner().invoke(app, ["train", "sort", "--out", str(tmp_path), "--steps", "100"])
        return done.exit_code, done.stdout

    return call


def few_lists(evaluate, *arguments, **named):
    return evaluate(*arguments, **{**named, "lists": 4})


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_run_killed_twice_has_every_step_once_and_when_finished_shows_lists(train, tmp_path):
    assert train(60)[0] == 130
    assert train(80)[0] == 130
    code, shown = train()
    assert code == 0
    assert steps(tmp_path / "curve.jsonl") == [*range(5, 101, 5)]
    assert shown.count("->") == 3
    assert train() == (0, shown)


def test_the_last_record_of_a_step_counts_and_a_line_cut_short_does_not(tmp_path):
    path, record = tmp_path / "curve.jsonl", Record(0, 0.1, 1.0, 1.0, 0.1, 2.0, 1.0, 0)
    lines = [json.dumps(asdict(replace(record, step=step, loss=loss))) for step, loss in TWICE]
    path.write_text("\n".join(lines) + '\n{"step": 9')
    curve = Curve(path)
    assert [(r.step, r.loss) for r in curve.records] == [(20, 2.0), (40, 2.0), (60, 1.5), (80, 1.5)]
    for _ in curve.follow(replace(record, step=step) for step in (80, 100)):
        assert steps(path)[:3] == [20, 40, 60]
    assert steps(path) == [20, 40, 60, 80, 100]


def test_a_length_asked_for_twice_is_one_length():
    assert _lengths("5,5,3-6") == [3, 4, 5, 6]
