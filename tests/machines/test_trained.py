"""Cells trained on the fifteen tasks: batches, score, a run that learns and resumes, the command."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from nextstate import InputError, StackRNN
from nextstate.cli.machine import machine
from nextstate.machines import DFA
from nextstate.machines.chomsky import TASKS
from nextstate.machines.chomsky.batches import SILENT, Spelling, TrainingWords, WordBatch, score
from nextstate.recipes.chomsky import FITTING, PUBLISHED, Recipe, prepare

SMALL = Recipe(hidden=16, batch=8, steps=12, every=4)


@pytest.mark.parametrize("name", TASKS)
def test_the_machine_of_a_task_scores_one_and_a_wrong_one_less(name: str) -> None:
    spelling, task = Spelling.of(name), TASKS[name].machine()
    assert not isinstance(task, DFA)

    def answer(batch: WordBatch) -> Tensor:
        found = torch.full_like(batch.answers, SILENT)
        for row, (ids, length) in enumerate(zip(batch.ids.T, batch.lengths, strict=True)):
            outputs = task.outputs_of([spelling.letters[i] for i in ids[:length]])
            for place, symbol in enumerate(outputs):
                if symbol is not None:
                    found[place, row] = spelling.symbols.index(symbol)
        return found

    assert score(answer, spelling, [5, 12], 3, "test") == {5: 1.0, 12: 1.0}
    wrong = score(lambda batch: (answer(batch) + 1) % len(spelling.symbols), spelling, [5, 12], 3, "test")
    assert wrong == {5: 0.0, 12: 0.0}


def test_batches_are_a_pure_function_of_their_number() -> None:
    words = TrainingWords(Spelling.of("bucket sort"), 40, 64, start=3, growth=0.5, seed=1)
    for a, b in zip(words(7), words(7), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(words(7).lengths, words(8).lengths)
    first, later = ((words(n).lengths // 2) for n in (0, 1000))  # a sorted word is as long as the word
    assert int(first[1::2].max()) <= 3
    assert int(first[::2].max()) > 20
    assert int(later.max()) <= 40


def test_fitting_tasks_are_those_solved_by_a_cell_of_these_kinds() -> None:
    assert list(PUBLISHED) == list(TASKS)
    assert len(FITTING) == 8
    assert all((max(PUBLISHED[name].values()) >= 90) == (name in FITTING) for name in TASKS)


def test_parity_is_learned_for_all_lengths() -> None:
    run = prepare("parity check", "gru", recipe=Recipe(hidden=32, steps=1500))
    last = list(run.records())[-1]
    assert last.step < 1500, "it ends once held-out words are answered without a fault"
    result = run.result([41, 123, 500], words=8)
    assert (result.trained, result.score) == (1.0, 1.0)


@pytest.mark.parametrize("cell", ["rnn", "stack"])
def test_an_interrupted_run_ends_with_the_same_bits(cell: str, tmp_path: Path) -> None:
    whole = prepare("reverse string", cell, seed=3, recipe=SMALL)
    list(whole.records())
    cut = prepare("reverse string", cell, seed=3, recipe=SMALL, checkpoints=tmp_path)
    list(islice(cut.records(), 2))
    resumed = prepare("reverse string", cell, seed=3, recipe=SMALL, checkpoints=tmp_path)
    assert [record.step for record in resumed.records()] == [12]
    for a, b in zip(whole.state.model.parameters(), resumed.state.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_stack_is_as_deep_as_the_longest_word_and_then_as_before() -> None:
    run = prepare("reverse string", "stack", recipe=SMALL)
    cell = run.state.model.cell
    assert isinstance(cell, StackRNN)
    before = cell.depth
    assert set(run.result([60], words=2).by_length) == {60}
    assert cell.depth == before


def test_names_that_there_are_none_of_are_refused() -> None:
    with pytest.raises(InputError, match="'sorting'"):
        prepare("sorting", "gru")
    with pytest.raises(InputError, match="'tape'"):
        prepare("parity check", "tape")


def call(*words: str) -> str:
    result = CliRunner().invoke(machine, ["tasks", *words])
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_trains_a_pair_once_and_draws_it(tmp_path: Path) -> None:
    words = ["--task", "even pairs", "--cell", "lstm", "--steps", "20", "--out", str(tmp_path), "--json"]
    said = json.loads(call(*words))
    assert (said["task"], said["cell"], said["steps"]) == ("even pairs", "lstm", 20)
    assert len(said["by_length"]) == 52
    assert {p.name for p in tmp_path.iterdir()} == {"results.json", "table.md", "lengths.png"}
    assert "| even pairs | 100.0 |" in (tmp_path / "table.md").read_text()
    assert json.loads(call(*words)) == said
    with pytest.raises(InputError, match="another recipe"):
        call("--steps", "21", "--out", str(tmp_path))
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(InputError, match="no results"):
        call(*words)
    with pytest.raises(InputError, match="'gpt'"):
        call("--cell", "gpt")
