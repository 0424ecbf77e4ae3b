"""The report on a model, and gradients watched while a model is trained."""

from __future__ import annotations

import json
import math
import warnings

import pytest
import torch
from torch import nn

import nextstate as ns
from nextstate.training import GradientWarning, GradientWatch, Indexed, Loss, Steps, TrainState, fit


class Torch(nn.Module):
    def __init__(self, **options) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, 6, batch_first=True, **options)
        self.out = nn.Linear(12 if options.get("bidirectional") else 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.rnn(x)[0])


def test_a_report_says_what_was_measured_and_what_may_help() -> None:
    report = ns.inspect(ns.GRU(3, 16), torch.randn(120, 4, 3))
    [part] = report.parts
    assert part.vanishes
    said = str(report)
    assert f"gradients reach {part.reach.steps()} steps back; your sequences are 120 long" in said
    assert "gate z keeps the state" in said
    assert "init.chrono_(cell, 120)" in said
    healed = ns.inspect(ns.init.chrono_(ns.GRU(3, 16), 120), torch.randn(120, 4, 3))
    assert not healed.parts[0].vanishes
    assert "reach the start of your sequences, 120 steps back" in str(healed)
    assert "try" not in str(healed)
    wild = ns.Elman(3, 64).double()
    with torch.no_grad():
        wild.weight_hh.mul_(6)
    said = str(ns.inspect(wild, 0.1 * torch.randn(60, 2, 3).double()))
    assert "chaotic" in said
    assert "clip" in said


def test_one_step_of_one_row_says_so() -> None:
    """A single step has no standard error: none is shown, and nothing is called chaotic for it."""
    said = str(ns.inspect(ns.Elman(3, 1), torch.randn(1, 1, 3)))
    assert said.startswith("Elman: Elman, 1 number of state, 1 sequence\n")
    assert "nats in the one step there is" in said
    assert "inf" not in said


def test_every_recurrent_loop_of_a_model_is_a_part() -> None:
    network = ns.EncoderDecoder(7, 5, 8)
    x, y = torch.randint(7, (4, 9)), torch.randint(5, (4, 6))
    lengths = torch.tensor([9, 3, 0, 5])
    report = ns.inspect(network, (x, y, lengths), loss=lambda logits: logits.square().mean())
    assert [part.name for part in report.parts] == ["encoder", "decoder"]
    assert [part.reach.longest for part in report.parts] == [9, 6]
    assert [part.size for part in report.parts] == [8, 8], "the summary is a constant, not state"
    encoder = report.parts[0].loss
    assert (encoder[:, 2] == 0).all(), "an empty row"
    assert (encoder[:3, 1] > 0).all()
    assert (encoder[3:, 1] == 0).all()


def test_layers_of_torch_are_seen_and_left_as_they_were() -> None:
    model = Torch(num_layers=2, bidirectional=True)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    generator, mode = torch.get_rng_state(), model.training
    report = ns.inspect(
        model, torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(0)), loss=torch.sum
    )
    assert [part.name for part in report.parts] == ["rnn l0", "rnn l0_reverse", "rnn l1", "rnn l1_reverse"]
    assert type(model.rnn) is nn.LSTM
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(generator, torch.get_rng_state())
    assert model.training == mode


def test_the_gradient_of_the_loss_is_that_of_the_model() -> None:
    """Against autograd: the first state's gradient, through a whole model."""
    model, x = ns.SequenceClassifier(ns.GRU(3, 5), inputs=3, classes=2), torch.randn(4, 7, 3)
    report = ns.inspect(model, x, loss=lambda logits: logits.square().sum())
    h = torch.zeros(4, 5, requires_grad=True)
    vs, _ = ns.scan(model.layers[0], x.transpose(0, 1), h)
    model.readout(vs[-1]).square().sum().backward()
    assert torch.allclose(report.parts[0].loss[0].float(), h.grad.norm(dim=1), rtol=1e-4)


def test_json_and_pictures(tmp_path) -> None:
    machine_like = ns.Elman(3, 4, activation=lambda x: torch.tanh(1000 * x))
    report = ns.inspect(ns.Stacked(ns.LSTM(3, 4), machine_like.__class__(4, 4)), torch.randn(20, 2, 3))
    found = json.loads(json.dumps(report.json(), allow_nan=False))
    part = found["parts"][0]
    assert part["gradient_reach"] == report.parts[0].reach.steps()
    assert len(part["gradient_by_lag"]) == 21
    assert len(part["lyapunov"]["exponents"]) == 12
    assert "cells.0 f" in part["gates"]
    dead = ns.inspect(ns.Elman(3, 4, activation=torch.sign), torch.randn(20, 2, 3))
    assert dead.parts[0].spectrum.largest == -math.inf
    assert (
        json.loads(json.dumps(dead.json(), allow_nan=False))["parts"][0]["lyapunov"]["exponents"]
        == [None] * 4
    )
    for one in (report, dead):
        [path] = one.draw(tmp_path)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_gradient_that_overflows_is_reported_and_drawn(tmp_path) -> None:
    wild = ns.FunctionCell(lambda u, s: (1e3 * s,) * 2, lambda b, **kw: torch.zeros(b, 2, **kw))
    report = ns.inspect(wild, torch.zeros(40, 1, 1))
    assert "gradients grow up to inf times" in str(report)
    assert json.loads(json.dumps(report.json(), allow_nan=False))["parts"][0]["gradient_growth"] is None
    [path] = report.draw(tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")


COUNTER = ns.FunctionCell(lambda u, s: (u, s + 1), lambda b, **kw: torch.zeros(b, 1, dtype=torch.int64))


def test_under_inference_mode_it_is_refused() -> None:
    with torch.inference_mode(), pytest.raises(ns.InputError, match="inference_mode"):
        ns.inspect(ns.GRU(2, 3), torch.randn(4, 1, 2))


@pytest.mark.parametrize(
    ("attempt", "told"),
    [
        (lambda: ns.inspect(nn.Linear(3, 2), torch.randn(4, 3)), "no recurrent loop ran inside Linear"),
        (lambda: ns.inspect(3, torch.randn(4, 3)), "expected a torch.nn.Module, got a int"),
        (lambda: ns.inspect(Torch(), torch.randn(2, 9, 3), loss=lambda out: out), "expected one number"),
        (lambda: ns.inspect(ns.GRU(3, 2), torch.randn(0, 2, 3)), "GRU got 0 steps and 2 rows"),
        (lambda: ns.inspect(COUNTER, torch.zeros(4, 1, 1)), "FunctionCell has no floating state"),
        (lambda: ns.inspect(ns.GRU(3, 2), torch.randn(4, 3, 2)), "expected \\[B, 3\\]"),
    ],
)
def test_refusals(attempt, told: str) -> None:
    with pytest.raises(ns.InputError, match=told):
        attempt()


def trained(watched: bool, steps: int = 12) -> tuple[nn.Module, list, GradientWatch | None]:
    torch.manual_seed(3)
    model = ns.SequenceClassifier(ns.Dropped(ns.GRU(2, 6), state=0.2), inputs=2, classes=2)

    def loss(model, x, carry) -> Loss:
        return Loss(model(x).square().mean(), metrics={"one": 1.0})

    def batch(number: int) -> torch.Tensor:
        return torch.randn(4, 40, 2, generator=torch.Generator().manual_seed(number))

    watch = GradientWatch(loss, every=5) if watched else None
    state = TrainState(model, torch.optim.Adam(model.parameters(), lr=1e-2), Indexed(batch))
    return model, list(fit(state, watch or loss, Steps(steps), report_every=4)), watch


def test_watching_records_and_warns_once_and_disturbs_nothing() -> None:
    with pytest.warns(
        GradientWarning, match=r"reach \d+ steps back \(to 1 %\); the sequences are 40 long"
    ) as said:
        model, records, watch = trained(watched=True)
    assert len([w for w in said if issubclass(w.category, GradientWarning)]) == 1
    assert [measured.call for measured in watch.history] == [0, 5, 10]
    assert {measured.name for measured in watch.history} == {"layers.0"}
    assert 0 < records[-1].metrics["gradient_reach"] < 20
    assert records[-1].metrics["one"] == 1
    plain, _, _ = trained(watched=False)
    for (name, a), b in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_healthy_network_is_not_warned_about() -> None:
    model = ns.SequenceClassifier(ns.init.chrono_(ns.GRU(2, 6), 60), inputs=2, classes=2)
    watch = GradientWatch(lambda model, x, carry: Loss(model(x).sum()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch(model, torch.randn(4, 20, 2), None)
    assert watch.history[0].reach == 20
    with pytest.raises(ns.InputError, match="every is 0"):
        GradientWatch(watch.loss, every=0)
