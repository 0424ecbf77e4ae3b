"""A model accelerated in place: the same function, the same objects, undone without a trace."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import nextstate as ns
from dropins.models import MODELS, Enhancer, Tagger
from nextstate.checks import InputError

models = pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)


def trained(model: nn.Module, example: tuple[Any, ...], steps: int = 1) -> list[torch.Tensor]:
    """Outputs, and gradients of every parameter, of a few steps of training with dropout."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    for _ in range(steps):
        torch.manual_seed(11)
        optimiser.zero_grad()
        y = model(*example)
        y.sin().mean().backward()
        found += [y.detach(), *[p.grad.clone() for p in model.parameters()]]
        optimiser.step()
    return found


@models
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_same_outputs_and_gradients(kind: type, training: bool) -> None:
    model = kind().train(training)
    example = kind.example()
    twin = copy.deepcopy(model)
    done = ns.accelerate(twin)
    recurrent = [m for m in twin.modules() if isinstance(m, nn.RNNBase | nn.RNNCellBase)]
    assert len(done.changed) == len(recurrent) > 0
    assert not done.left
    assert all(type(m).__module__.startswith("nextstate.nn") for m in recurrent)
    for ours, theirs in zip(trained(twin, example, 3), trained(model, example, 3), strict=True):
        assert (ours - theirs).abs().max() <= 1e-6 * max(1.0, float(theirs.abs().max()))


def test_a_changed_model_would_be_seen() -> None:
    model, example = Enhancer(), Enhancer.example()
    twin = copy.deepcopy(model)
    ns.accelerate(twin)
    with torch.no_grad():
        twin.noise.bias_hh_l0 += 1e-3
    assert (twin(*example) - model(*example)).abs().max() > 1e-6


def test_objects_stay_what_they_were() -> None:
    model = Tagger()
    layer, names = model.context, list(model.state_dict())
    model.again = layer  # shared by name
    layer.weight_hh_l0_reverse = layer.weight_hh_l0  # shared inside
    seen = []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(module))
    optimiser = torch.optim.Adam(model.parameters())
    before = dict(model.named_parameters())
    model.eval()
    done = ns.accelerate(model)
    assert done.model is model
    assert model.context is layer is model.again
    assert isinstance(layer, ns.nn.LSTM)
    assert isinstance(layer, nn.LSTM)
    assert all(p is before[name] for name, p in model.named_parameters())
    assert set(names) <= set(model.state_dict())
    assert not layer.training
    model(*Tagger.example())
    assert seen == [layer]
    model(*Tagger.example()).sum().backward()
    optimiser.step()
    assert layer.weight_hh_l0_reverse is layer.weight_hh_l0


def test_undone() -> None:
    model, example = Enhancer(), Enhancer.example()
    kinds = [type(m) for m in model.modules()]
    keys = [sorted(vars(m)) for m in model.modules()]
    expected = trained(copy.deepcopy(model), example)
    done = ns.accelerate(model)
    model(*example)
    assert done.undo() is model
    assert [type(m) for m in model.modules()] == kinds
    assert [sorted(vars(m)) for m in model.modules()] == keys
    assert all(torch.equal(a, b) for a, b in zip(trained(model, example), expected, strict=True))
    assert ns.accelerate(model).changed == done.changed
    assert not ns.accelerate(model).changed, "a second call has nothing left to do"


def test_copies_and_checkpoints_of_an_accelerated_model() -> None:
    model, example = Enhancer(), Enhancer.example()
    plain = copy.deepcopy(model)
    ns.accelerate(model)
    twin = copy.deepcopy(model)
    assert isinstance(twin.clean, ns.nn.GRU)
    assert torch.equal(twin(*example), model(*example))
    plain.load_state_dict(model.state_dict())
    assert (plain(*example) - model(*example)).abs().max() < 1e-6


class Own(nn.LSTM):
    def forward(self, input: Any, hx: Any = None) -> Any:
        return super().forward(2 * input, hx)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_left_and_why() -> None:
    model = nn.ModuleDict(
        {
            "plain": nn.GRU(3, 4),
            "own": Own(3, 4),
            "normed": nn.utils.parametrizations.weight_norm(nn.GRU(3, 4), "weight_hh_l0"),
            "script": torch.jit.script(nn.LSTM(3, 4)),
            "ours": ns.nn.GRU(3, 4),
            "other": nn.Linear(3, 4),
        }
    )
    done = ns.accelerate(model)
    assert done.changed == {"plain": "GRU"}
    assert set(done.left) == {"own", "normed", "script"}
    assert "a class of its own" in done.left["own"]
    assert "parametrised" in done.left["normed"]
    assert "RecursiveScriptModule" in done.left["script"]
    assert str(done).splitlines()[0] == "plain: GRU"
    us = torch.randn(5, 2, 3)
    assert type(model["own"]) is Own
    model["own"](us)


def test_the_model_may_be_a_layer_itself() -> None:
    layer = nn.LSTM(3, 4)
    assert ns.accelerate(layer).changed == {"": "LSTM"}
    assert isinstance(layer, ns.nn.LSTM)
    assert str(ns.accelerate(nn.Linear(2, 2))) == "no recurrent layers"


def test_only_modules() -> None:
    with pytest.raises(InputError, match=r"torch\.nn\.Module, got a Tensor"):
        ns.accelerate(torch.zeros(3))
