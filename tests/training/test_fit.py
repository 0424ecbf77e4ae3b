"""The step, the loop, schedules, averages and truncated back-propagation."""

import math
import os
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

import nextstate as ns
from nextstate.training import (
    Average,
    Chunks,
    Evaluation,
    Indexed,
    Loss,
    NonFiniteGradient,
    Seconds,
    Steps,
    TrainState,
    carried,
    constant,
    fit,
    no_improvement,
    skip,
    train_step,
    warmup_cosine,
)
from nextstate.training.step import set_up


def quadratic(model, batch, carry):
    return Loss((model(batch) - 2).square().mean(), metrics={"double": 2.0})


def line(optimiser=torch.optim.SGD, **options):
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    options = options or {"lr": 0.1}
    return TrainState(model, optimiser(model.parameters(), **options), Indexed(lambda n: torch.ones(2, 1)))


def on_cpu(state):
    return set_up(state, Fabric(accelerator="cpu", devices=1))


def test_one_step_of_gradient_descent_by_hand():
    state = line()
    result = train_step(state, torch.ones(2, 1), quadratic, on_cpu(state), clip=None)
    assert result.loss == 1.0
    assert result.norm == 2.0
    assert state.model.weight.item() == pytest.approx(1.2)


def test_clipping_is_by_the_global_norm():
    model = nn.Linear(2, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    state = TrainState(model, torch.optim.SGD(model.parameters(), lr=1.0), Indexed(lambda n: n))
    batch = torch.tensor([[3.0, 4.0]])
    result = train_step(state, batch, lambda f, x, c: Loss(f(x).sum()), on_cpu(state), clip=0.5)
    assert result.norm == pytest.approx(math.sqrt(26))
    moved = torch.cat([model.weight.flatten(), model.bias])
    assert moved.norm().item() == pytest.approx(0.5, rel=1e-4)
    torch.testing.assert_close(moved, -0.5 * torch.tensor([3.0, 4.0, 1.0]) / math.sqrt(26))


def test_momentum_and_other_optimisers_reach_the_minimum():
    for optimiser, options in [
        (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9}),
        (torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.0}),
        (torch.optim.RMSprop, {"lr": 0.05}),
    ]:
        state = line(optimiser, **options)
        *_, last = fit(state, quadratic, Steps(150))
        assert last.loss < 1e-2
        assert state.model.weight.item() == pytest.approx(2, abs=1e-2)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite(value):
    def poisoned(model, batch, carry):
        return Loss((model(batch) * value).sum())

    state = line()
    with pytest.raises(NonFiniteGradient, match="step 0"):
        train_step(state, torch.ones(2, 1), poisoned, on_cpu(state))
    state = line(torch.optim.SGD, lr=0.1, momentum=0.9)
    state.average = Average(state.model)
    records = list(fit(state, poisoned, Steps(3), on_non_finite=skip))
    assert state.model.weight.item() == 1.0
    assert state.average.updates == 0
    assert not state.optimiser.state
    assert records[-1].skipped == state.skipped == 3


def test_records_say_what_happened():
    state = line()
    records = list(fit(state, quadratic, Steps(25), report_every=10))
    assert [record.step for record in records] == [10, 20, 25]
    assert records[0].metrics == {"double": 2.0}
    assert records[-1].progress == 1.0
    assert all(record.rate > 0 and record.evaluation is None for record in records)
    assert all(a.seconds < b.seconds for a, b in pairwise(records))


def test_a_metric_is_averaged_over_the_steps_that_gave_it():
    numbers = iter(range(6))

    def now_and_then(model, batch, carry):
        number = next(numbers)
        metrics = {} if number % 2 == 0 else {"odd": float(number)}
        return quadratic(model, batch, carry)._replace(metrics=metrics)

    [first, second] = fit(line(), now_and_then, Steps(6), report_every=3)
    assert (first.metrics, second.metrics) == ({"odd": 1.0}, {"odd": 4.0})


def test_the_learning_rate_follows_the_schedule():
    seen = []
    state = line(torch.optim.SGD, lr=0.5)

    def watch(model, batch, carry):
        return quadratic(model, batch, carry)

    for record in fit(state, watch, Steps(10), schedule=warmup_cosine(0.2), report_every=1):
        seen.append(record.learning_rate)
    expected = [0.5 * warmup_cosine(0.2)(k / 10) for k in range(10)]
    assert seen == pytest.approx(expected)


def test_a_budget_of_seconds_ends_the_run():
    state = line()
    records = list(
        fit(state, quadratic, Seconds(0.3), evaluation=Evaluation(lambda m: {"a": 1.0}, every=10**9))
    )
    assert records[-1].progress == 1.0
    assert records[-1].evaluation == {"a": 1.0}
    assert 0.3 <= records[-1].seconds < 3


def test_evaluation_sees_the_average_and_eval_mode_and_can_end_the_run():
    state = line()
    state.average = Average(state.model, 0.9)
    seen = []

    def measure(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        seen.append(model.weight.item())
        return {"accuracy": 0.5}

    evaluation = Evaluation(measure, every=5, enough=no_improvement("accuracy", 2))
    records = list(fit(state, quadratic, Steps(100), schedule=constant, evaluation=evaluation))
    assert [entry["step"] for entry in state.history] == [5, 10, 15]
    assert records[-1].step == 15
    assert seen[-1] == state.average.tensors["weight"].item()
    assert seen[-1] < state.model.weight.item()
    assert state.model.training


def test_average_by_hand():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average, expected = Average(model, 0.3), 0.0
    for k in range(5):
        nn.init.constant_(model.weight, float(k))
        average.update(model)
        decay = min(0.3, (1 + k) / (10 + k))
        expected = decay * expected + (1 - decay) * k
    assert average.tensors["weight"].item() == pytest.approx(expected)
    with average.applied(model):
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 4.0


def measured(enough):
    return Evaluation(lambda model: {"a": 1.0}, every=1, enough=enough)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Steps(0),
        lambda: Steps("x"),
        lambda: Seconds(0),
        lambda: Seconds("x"),
        lambda: Seconds(math.inf),
        lambda: warmup_cosine(1.0),
        lambda: warmup_cosine("x"),
        lambda: no_improvement("a", "x"),
        lambda: list(fit(line(), quadratic, Steps(2), evaluation=measured(no_improvement("b", 1)))),
        lambda: next(fit(line(), quadratic, 5)),
        lambda: next(fit(line(), 3, Steps(1))),
        lambda: Evaluation(lambda model: {}, every=0),
        lambda: next(fit(line(), quadratic, Steps(1), clip=-1.0)),
        lambda: next(fit(line(), quadratic, Steps(1), clip=math.nan)),
    ],
)
def test_bad_plans_are_refused(bad):
    with pytest.raises(ns.InputError):
        bad()


class Counter(ns.Cell):
    """s' = w s + u: a scalar recurrence whose truncated gradient can be written by hand."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.5))

    def initial_state(self, batch_size, *, device=None, dtype=None):
        return torch.zeros(batch_size, 1, device=device, dtype=dtype)

    def forward(self, u, s):
        s = self.w * s + u
        return s, s


def sum_of_outputs(cell, chunk, carry):
    s0 = carried(cell.initial_state(1), None if chunk.fresh else carry)
    vs, sT = ns.scan(cell, chunk.us, s0)
    return Loss((vs * chunk.targets).sum(), carry=sT)


def truncated_gradient(length):
    """The gradient summed over the chunks of one sequence of six steps; the loss is the last output."""
    us, targets = torch.arange(1.0, 7.0).reshape(6, 1, 1), torch.zeros(6, 1, 1)
    targets[-1] = 1
    cell = Counter()
    source = Chunks(lambda n: (us, targets), length)
    total, carry, fresh = 0.0, None, 0
    while True:
        chunk = source.draw()
        fresh += chunk.fresh
        if fresh == 2:
            return total
        cell.w.grad = None
        loss = sum_of_outputs(cell, chunk, carry)
        carry = tuple(leaf.detach() for leaf in [loss.carry])
        loss.value.backward()
        total += cell.w.grad.item()


def test_truncated_back_propagation_stops_at_the_chunk_and_carries_the_state():
    w, us = 0.5, [float(u) for u in range(1, 7)]
    states = [0.0]
    for u in us:
        states.append(w * states[-1] + u)

    def by_hand(length):  # d s_6 / d w, through the steps of the last chunk only
        first = 6 - (6 % length or length)
        return sum(w ** (5 - t) * states[t] for t in range(first, 6))

    for length in (1, 2, 4, 6, 100):
        assert truncated_gradient(length) == pytest.approx(by_hand(min(length, 6)))
    assert by_hand(2) != pytest.approx(by_hand(6)), "the example cannot tell truncation from none"


def test_fit_carries_the_state_across_chunks():
    cell = Counter()
    us, targets = torch.ones(5, 1, 1), torch.zeros(5, 1, 1)
    state = TrainState(cell, torch.optim.SGD(cell.parameters(), lr=0.1), Chunks(lambda n: (us, targets), 2))
    carries = [state.carry[0].item() for _ in fit(state, sum_of_outputs, Steps(4), report_every=1)]
    assert carries == [1.5, 1.875, 1.9375, 1.5]


def test_bfloat16_and_refused_precision():
    state = line()
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    *_, last = fit(state, quadratic, Steps(100), fabric=fabric)
    assert state.model.weight.dtype == torch.float32
    assert last.loss < 0.1
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-true")
    with pytest.raises(ns.InputError, match="report_every"):
        next(fit(line(), quadratic, Steps(1), fabric=fabric, report_every=0))


TWO_PROCESSES = """
import torch
from lightning_fabric import Fabric
from torch import nn
from nextstate.training import Checkpoints, Indexed, Loss, Steps, TrainState, fit
import sys

def main(fabric):
    torch.manual_seed(0)
    model = nn.Linear(1, 1, bias=False)
    source = Indexed(lambda n: torch.full((2, 1), n + 1.0))
    state = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1), source)
    loss = lambda f, x, carry: Loss(f(x).mean())
    for _ in fit(state, loss, Steps(3), schedule=lambda p: 1.0, clip=None, fabric=fabric,
                 checkpoints=Checkpoints(sys.argv[1], every=2)):
        pass
    fabric.print(repr(model.weight.item()))

if __name__ == "__main__":
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn")
    fabric.launch(main)
"""


def test_two_processes_draw_different_batches_and_agree(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, str(script), str(tmp_path / "ckpt")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    start = nn.Linear(1, 1, bias=False).weight.item()
    # mean of batches 1, 2 then 3, 4 then 5, 6: the gradient of the mean output is the mean input
    assert float(done.stdout.split()[-1]) == pytest.approx(start - 0.1 * (1.5 + 3.5 + 5.5), rel=1e-5)
    assert {path.name for path in (tmp_path / "ckpt").iterdir()} == {"step-000000002", "step-000000003"}
