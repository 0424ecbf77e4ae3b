"""A model accelerated in place: the same function, the same objects, undone without a trace."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic
from torch.nn.utils import prune

import nextstate as ns
from agreement import assert_close
from dropins.models import MODELS, Enhancer, Tagger
from nextstate.accelerate import accelerated, plain
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
    report = ns.Acceleration(ns.accelerate(twin))
    recurrent = [m for m in twin.modules() if isinstance(m, nn.RNNBase | nn.RNNCellBase)]
    assert len(report.changed) == len(recurrent) > 0
    assert not report.left
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
    assert ns.accelerate(model) is model
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
    report = ns.Acceleration(ns.accelerate(model))
    model(*example)
    assert ns.Acceleration(ns.accelerate(model)).changed == report.changed, "a second call changes nothing"
    assert report.undo() is model
    assert [type(m) for m in model.modules()] == kinds
    assert [sorted(vars(m)) for m in model.modules()] == keys
    assert all(torch.equal(a, b) for a, b in zip(trained(model, example), expected, strict=True))
    assert not ns.Acceleration(model).changed
    assert ns.Acceleration(ns.accelerate(model)).changed == report.changed


def test_a_layer_of_ours_is_not_undone() -> None:
    model = nn.Sequential(ns.nn.GRU(3, 4), nn.GRU(4, 4))
    ns.Acceleration(ns.accelerate(model)).undo()
    assert (type(model[0]), type(model[1])) == (ns.nn.GRU, nn.GRU)


def test_for_the_time_of_a_block() -> None:
    model = nn.Sequential(nn.GRU(3, 4), ns.accelerate(nn.GRU(4, 4)))
    with accelerated(model):
        assert all(type(m) is ns.nn.GRU for m in model)
    assert (type(model[0]), type(model[1])) == (nn.GRU, ns.nn.GRU)


def test_copies_and_checkpoints_of_an_accelerated_model() -> None:
    model, example = Enhancer(), Enhancer.example()
    plain = copy.deepcopy(model)
    ns.accelerate(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert isinstance(twin.clean, ns.nn.GRU)
        assert torch.equal(twin(*example), model(*example))
        assert type(ns.Acceleration(twin).undo().clean) is nn.GRU
    assert isinstance(model.clean, ns.nn.GRU)
    plain.load_state_dict(model.state_dict())
    assert (plain(*example) - model(*example)).abs().max() < 1e-6


class Own(nn.LSTM):
    def forward(self, input: Any, hx: Any = None) -> Any:
        return super().forward(2 * input, hx)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor")
def test_what_is_left_and_why() -> None:
    model = nn.ModuleDict(
        {
            "plain": nn.GRU(3, 4),
            "own": Own(3, 4),
            "script": torch.jit.script(nn.LSTM(3, 4)),
            "ours": ns.nn.GRU(3, 4),
            "other": nn.Linear(3, 4),
            "small": quantize_dynamic(nn.Sequential(nn.LSTMCell(3, 4)), {nn.LSTMCell}),
        }
    )
    with pytest.warns(
        ns.FallbackWarning, match=r"accelerate left own \(.*; script \(.*; small\.0 \("
    ) as seen:
        ns.accelerate(model)
    assert (len(seen), seen[0].filename) == (1, __file__)
    report = ns.Acceleration(model)
    assert report.changed == {"plain": "GRU"}
    assert set(report.left) == {"own", "script", "small.0"}
    assert "a class of its own" in report.left["own"]
    assert "RecursiveScriptModule" in report.left["script"]
    assert "quantized" in report.left["small.0"]
    assert str(report).splitlines()[0] == "plain: GRU"
    assert type(model["own"]) is Own
    model["own"](torch.randn(5, 2, 3))


def unchanged(model: nn.Module, us: torch.Tensor, layer: nn.Module) -> None:
    """The same outputs and gradients before, after, and when undone."""
    kinds = [plain(m) for m in model.modules()]
    found = []
    for change in (lambda: None, lambda: ns.accelerate(model), lambda: ns.Acceleration(model).undo()):
        change()
        model.zero_grad()
        torch.manual_seed(2)
        y = model(us)
        y = y[0] if isinstance(y, tuple) else y
        y.sin().sum().backward()
        found.append([y.detach(), *[p.grad.clone() for p in model.parameters() if p.grad is not None]])
        if len(found) == 2:
            assert type(layer).__mro__.index(nn.GRU) == type(layer).__mro__.index(ns.nn.GRU) + 1
            assert ns.Acceleration(model).changed
    assert len(found[0]) > 3
    assert [plain(m) for m in model.modules()] == kinds
    for later in found[1:]:
        for ours, theirs in zip(later, found[0], strict=True):
            assert_close(ours, theirs, 1e-6)


class Dropping(nn.Module):
    """A layer whose recurrent weights are set anew at every call (AWD-LSTM, Merity et al. 2018)."""

    def __init__(self, layer: nn.GRU) -> None:
        super().__init__()
        self.layer = layer
        self.raw = nn.Parameter(layer.weight_hh_l0.detach().clone())
        del layer._parameters["weight_hh_l0"]

    def forward(self, us: torch.Tensor) -> torch.Tensor:
        self.layer.weight_hh_l0 = nn.functional.dropout(self.raw, 0.5)
        return self.layer(us)[0]


ODD = {
    "parametrised": lambda layer: nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0"),
    "parametrised twice": lambda layer: nn.utils.parametrizations.orthogonal(
        nn.utils.parametrizations.weight_norm(layer, "weight_ih_l0"), "weight_hh_l0"
    ),
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight_hh_l0", 0.5),
    "weights set at every call": Dropping,
    "in a list": lambda layer: nn.Sequential(nn.Sequential(*nn.ModuleList([nn.Linear(3, 3), layer]))),
    "traced by fx": lambda layer: torch.fx.symbolic_trace(nn.Sequential(nn.Tanh(), layer)),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_models(kind: str) -> None:
    layer = nn.GRU(3, 4)
    unchanged(ODD[kind](layer), torch.randn(5, 2, 3), layer)


def test_parametrised_in_between() -> None:
    """Whichever comes first, accelerating, parametrising, undoing or taking the parametrisation off."""
    layer, us = nn.GRU(3, 4), torch.randn(5, 2, 3)
    ns.accelerate(layer)
    nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
    expected = layer(us)[0].detach()
    assert type(layer).__mro__[1] is ns.nn.GRU
    assert plain(ns.Acceleration(layer).undo()) is nn.GRU
    ns.accelerate(layer)
    nn.utils.parametrize.remove_parametrizations(layer, "weight_hh_l0")
    assert type(layer) is ns.nn.GRU
    assert_close(layer(us)[0], expected, 1e-6)
    assert type(ns.Acceleration(layer).undo()) is nn.GRU
    assert_close(layer(us)[0], expected, 1e-6)


def test_where_torchs_own_code_still_runs() -> None:
    if not ns.nn.layers.COMPILED:
        pytest.skip("the compiled extension is not installed")
    with torch.device("meta"):
        model = nn.Sequential(nn.GRU(3, 4))
    report = ns.Acceleration(ns.accelerate(model))
    assert "on meta" in report.idle["0"]
    assert "on meta" in str(report)
    model.to_empty(device="cpu")[0].reset_parameters()
    assert not ns.Acceleration(model).idle
    model.half()
    assert "float16" in ns.Acceleration(model).idle["0"]
    assert model(torch.randn(5, 2, 3).half())[0].dtype is torch.float16


@pytest.mark.filterwarnings("ignore:.torch.jit", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("kind", ["LSTM", "GRUCell"])
def test_torchscript_still_compiles_and_traces(kind: str) -> None:
    layer = getattr(nn, kind)(3, 4)
    model, us = ns.accelerate(nn.Sequential(layer)), torch.randn(2, 3)
    with torch.no_grad():
        expected = model(us)[0]
        assert_close(torch.jit.trace(model, us, strict=False)(us)[0], expected, 1e-6)
        assert model[0] is layer
        with pytest.warns(ns.FallbackWarning, match=f"a {kind} back into torch.nn.{kind}"):
            program = torch.jit.script(model)
        assert_close(program(us)[0], expected, 1e-6)
    assert type(layer) is getattr(ns.nn, kind)
    assert type(model[0]) is getattr(nn, kind), "as the warning says"
    assert not ns.Acceleration(model).changed
    assert all(a is b for a, b in zip(model.parameters(), layer.parameters(), strict=True))


def test_the_report_says_what_single_steps_do() -> None:
    if not ns.nn.layers.COMPILED:
        pytest.skip("the compiled extension is not installed")
    model = ns.accelerate(nn.Sequential(nn.GRUCell(3, 4), nn.GRU(4, 4)))
    said = "0: GRUCell, but with gradients torch's own code runs: one step\n1: GRU"
    assert str(ns.Acceleration(model)) == said
    assert not ns.Acceleration(model).idle
    assert "one step" not in str(ns.Acceleration(model.double()))


def test_the_model_may_be_a_layer_itself() -> None:
    layer = nn.LSTM(3, 4)
    report = ns.Acceleration(ns.accelerate(layer))
    assert report.changed == {"": "LSTM"}
    assert str(report) == "(the model): LSTM"
    assert isinstance(layer, ns.nn.LSTM)
    assert str(ns.Acceleration(nn.Linear(2, 2))) == "no recurrent layers of torch.nn"


def test_only_modules() -> None:
    for call in (ns.accelerate, ns.Acceleration):
        with pytest.raises(InputError, match=r"torch\.nn\.Module, got a Tensor"):
            call(torch.zeros(3))


def test_a_layer_that_has_no_parameters_of_its_own() -> None:
    """As a network that makes the weights of another leaves it."""
    model = nn.Sequential(nn.GRU(3, 4))
    for name, parameter in list(model[0].named_parameters()):
        delattr(model[0], name)
        setattr(model[0], name, parameter.detach().clone())
    us = torch.randn(5, 2, 3)
    expected = model(us)[0]
    report = ns.Acceleration(ns.accelerate(model))
    assert report.changed == {"0": "GRU"}
    assert_close(model(us)[0], expected, 1e-6)
