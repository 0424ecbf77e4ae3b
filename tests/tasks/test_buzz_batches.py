"""Which texts a step reads, how many steps fit into the minutes, and what a benchmark says of its time."""

from argparse import Namespace
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from nextstate import InputError
from nextstate.recipes import buzz
from nextstate.tasks.buzz.examples import Batches
from tasks.test_buzz_network import LABELS, TINY, WORDS, sayings

LENGTHS = np.random.default_rng(0).integers(0, 90, 700)


def test_every_epoch_holds_every_text_once_within_the_bounds():
    batches = Batches(LENGTHS, 16, seed=1, pool=5, words=300)
    first = [batches(n) for n in range(len(batches))]
    assert sorted(np.concatenate(first).tolist()) == list(range(700))
    assert max(map(len, first)) == 16
    assert all(LENGTHS[batch].sum() <= 300 for batch in first)
    assert len(batches) > len(Batches(LENGTHS, 16, seed=1, pool=5))
    assert np.mean([np.ptp(LENGTHS[batch]) for batch in first]) < 30, "texts of about equal length"


def test_a_batch_is_a_function_of_its_number():
    forth, back = (Batches(LENGTHS, 16, seed=1, pool=5, words=300) for _ in range(2))
    numbers = range(3 * len(forth))
    found = {n: forth(n).tolist() for n in numbers}
    assert found == {n: back(n).tolist() for n in reversed(numbers)}
    assert found[0] != Batches(LENGTHS, 16, seed=2, pool=5, words=300)(0).tolist()
    epochs = [found[n] for n in numbers[: len(forth)]], [found[n] for n in numbers[len(forth) :]]
    assert not {tuple(batch) for batch in epochs[0]} & {tuple(batch) for batch in epochs[1] if len(batch) > 1}


def test_a_text_longer_than_the_bound_stands_alone():
    batches = Batches([50, 1, 2], 8, seed=0, words=10)
    assert sorted(sorted(batches(n).tolist()) for n in range(2)) == [[0], [1, 2]]
    with pytest.raises(InputError, match="in batches of 4 and 0 words"):
        Batches([1], 4, seed=0, words=0)


@pytest.fixture
def run():
    train, held = (buzz.as_ids(WORDS, *sayings(200, seed)) for seed in (0, 1))
    return buzz.prepare(TINY, WORDS, LABELS, train, held)


def test_a_plan_follows_from_the_pace(run, monkeypatch):
    words = [int(run.state.source.batch(n).pieces.lengths.sum()) for n in range(50)]

    def paced(state, loss, plan, **options):
        """As if 2,000 words a second were read, but for the first steps."""
        for step in range(1, plan.total + 1):
            pace = 200 if step <= plan.total // 2 else 2000
            yield type("Record", (), {"step": step, "rate": pace / words[step - 1]})

    monkeypatch.setattr(buzz, "fit", paced)
    expected = 60 * 3 * 2000 / (1.06 * np.mean(words))
    assert buzz.planned_steps(run, 3.0) == pytest.approx(expected, abs=1)


def test_planning_leaves_the_run_as_it_is(run):
    before = {name: value.clone() for name, value in run.state.model.state_dict().items()}
    drawn, random = run.state.source.state_dict(), torch.get_rng_state()
    assert buzz.planned_steps(run, 0.1) >= 1
    assert all(torch.equal(value, before[name]) for name, value in run.state.model.state_dict().items())
    assert (run.state.step, run.state.optimiser.state_dict()["state"]) == (0, {})
    assert run.state.source.state_dict() == drawn
    assert torch.equal(torch.get_rng_state(), random)


def test_a_benchmark_goes_on_and_says_so_or_trains_anew(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    bench, options = import_module("buzz"), Namespace(out=tmp_path, resumed=[])
    texts, steps, plain = buzz.as_ids(WORDS, *sayings(40, 0)), [], buzz.adversarial_loss
    arguments = "tiny", replace(TINY, epochs=1), WORDS, LABELS, texts, texts.chosen([]), options
    monkeypatch.setattr(buzz, "adversarial_loss", lambda *a, **k: (steps.append(1), plain(*a, **k))[1])
    with monkeypatch.context() as patch:
        patch.setattr(buzz.Run, "buzzometer", lambda run: 1 / 0)  # killed after the last step
        with pytest.raises(ZeroDivisionError):
            bench.train(*arguments)
    assert len(steps) == 2
    bench.train(*arguments)
    assert len(steps) == 2
    assert options.resumed == ["tiny seed 0"]
    assert not list(tmp_path.rglob("checkpoints*"))
    bench.train(*arguments)
    assert len(steps) == 4, "a run that has ended is not taken for this one"
    assert options.resumed == ["tiny seed 0"]
    row = {"tiny": {"accuracy": 90.0, "processor_seconds": 0.1}}
    assert bench.timed(row, []) == row
    assert bench.timed(row, options.resumed) == {
        "tiny": {"accuracy": 90.0, "processor_seconds_since_resumed": 0.1, "resumed": ["tiny seed 0"]}
    }
