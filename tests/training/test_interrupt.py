"""A training that is asked to stop does so between two steps, behind a checkpoint that repeats the bits."""

import os
import signal

import pytest
import torch
from torch import nn

from nextstate.training import (
    Checkpoints,
    Evaluation,
    Indexed,
    Interrupted,
    Loss,
    Steps,
    TrainState,
    fit,
    stoppable,
)


@pytest.fixture(autouse=True)
def _ctrl_c_is_not_ignored():
    """As it is where the tests themselves run in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Asking:
    """A loss that sends its own process signals in the course of step `at`, and notes the steps it ended."""

    def __init__(self, at=None, numbers=()):
        self.at, self.numbers, self.step, self.ended = at, numbers, 0, []

    def __call__(self, model, batch, carry):
        self.step += 1
        if self.step == self.at:
            for number in self.numbers:
                os.kill(os.getpid(), number)
        self.ended.append(self.step)
        return Loss((model(batch + torch.rand(4, 2)) - 1).square().mean())


def train(loss, folder, steps=20):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    state = TrainState(model, optimiser, Indexed(lambda n: torch.full((4, 2), float(n % 7))))
    checkpoints = None if folder is None else Checkpoints(folder, every=15)
    evaluation = Evaluation(lambda model: {"draw": float(torch.rand(()))}, every=6)
    records = fit(state, loss, Steps(steps), report_every=5, evaluation=evaluation, checkpoints=checkpoints)
    told = [record.step for record in records]
    return torch.cat([p.detach().flatten() for p in model.parameters()]), state.history, told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [1, 7, 12, 15, 20], ids="step {}".format)
def test_it_stops_after_the_step_and_goes_on_to_the_same_bits(tmp_path, number, at):
    whole, history, _ = train(Asking(), tmp_path / "whole")
    asking = Asking(at, [number])
    with pytest.raises(Interrupted) as stop, stoppable():
        train(asking, tmp_path / "cut")
    assert stop.value.step == at == asking.ended[-1]
    assert max(tmp_path.glob("cut/step-*")).name == f"step-{at:09d}"
    assert not list(tmp_path.glob("cut/.*")), "something is left half-written"
    with stoppable():
        cut, history_cut, _ = train(Asking(), tmp_path / "cut")
    assert torch.equal(whole, cut)
    assert history == history_cut


def test_a_signal_while_the_reader_has_the_record_is_heard_too(tmp_path):
    model = nn.Linear(1, 1)
    state = TrainState(
        model, torch.optim.SGD(model.parameters(), lr=0.1), Indexed(lambda n: torch.ones(2, 1))
    )
    checkpoints = Checkpoints(tmp_path, every=100)
    loss = lambda f, x, carry: Loss(f(x).mean())  # noqa: E731

    def read():
        for record in fit(state, loss, Steps(50), report_every=10, checkpoints=checkpoints):
            if record.step == 20:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="after 21 steps"), stoppable():
        read()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000021"]


def test_a_second_signal_ends_it_at_once(tmp_path):
    asking = Asking(7, [signal.SIGINT, signal.SIGINT])
    with pytest.raises(KeyboardInterrupt) as stop, stoppable():
        train(asking, tmp_path)
    assert not isinstance(stop.value, Interrupted)
    assert asking.ended[-1] == 6
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept", [True, False], ids=["not asked for", "no checkpoints"])
def test_where_nothing_can_be_kept_or_nobody_asked_for_it_the_first_one_does(tmp_path, kept):
    asking = Asking(7, [signal.SIGINT])

    def scope():
        if kept:
            train(asking, tmp_path)
        else:
            with stoppable():
                train(asking, None)

    with pytest.raises(KeyboardInterrupt) as stop:
        scope()
    assert not isinstance(stop.value, Interrupted)
    assert asking.ended[-1] == 6


def test_a_signal_that_was_ignored_stays_so(tmp_path):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asking = Asking(3, [signal.SIGINT])
    with stoppable():
        train(asking, tmp_path)
    assert asking.ended[-1] == 20


def test_the_handlers_of_before_are_back(monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stoppable():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    monkeypatch.setenv("WORLD_SIZE", "2")
    with stoppable():
        assert signal.getsignal(signal.SIGINT) != before[0]
        assert signal.getsignal(signal.SIGTERM) == before[1], (
            "torchrun ends those whose partner is gone by it"
        )
