"""What PyTorch's own tests ask of its recurrent layers, asked of ours where no other file here asks it."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

import nextstate as ns
from agreement import assert_agree
from dropins.pairs import BATCH, CELLS, HIDDEN, INPUT, LAYERS, STEPS, dense, outcome, packed, pair, tensors

TOLERANCE = 3e-5
LAYER_KINDS = ("RNN", "GRU", "LSTM")
KINDS = (*LAYER_KINDS, "RNNCell", "GRUCell", "LSTMCell")
kinds = pytest.mark.parametrize("kind", KINDS)
layer_kinds = pytest.mark.parametrize("kind", LAYER_KINDS)
pytestmark = pytest.mark.filterwarnings(
    "ignore:LSTM with projections is not supported with oneDNN",
    "ignore:.torch.nn.utils.weight_norm. is deprecated",
    "ignore:.torch.jit.script. is deprecated",
)


def example(kind: str) -> Tensor:
    return torch.randn(BATCH, INPUT) if kind.endswith("Cell") else torch.randn(STEPS, BATCH, INPUT)


class Tagged(torch.Tensor):
    """A tensor of a class of its own, which torch's functions keep."""


@kinds
@pytest.mark.parametrize("grad", [True, False])
def test_the_class_of_a_tensor_is_kept(kind: str, grad: bool) -> None:
    theirs, mine = pair(kind, {})
    us = example(kind).as_subclass(Tagged)
    with torch.set_grad_enabled(grad):
        for ours, other in zip(tensors(mine(us)), tensors(theirs(us)), strict=True):
            assert type(ours) is type(other) is Tagged
            assert (ours - other).abs().max() < TOLERANCE


@layer_kinds
@pytest.mark.parametrize("form", ["dense", "packed", "two layers"])
def test_gradients_of_each_sample_by_weights_that_record(kind: str, form: str) -> None:
    theirs, mine = pair(kind, {"num_layers": 2} if form == "two layers" else {})
    us = dense(theirs).requires_grad_()  # else torch's LSTM goes to oneDNN, which cannot
    shape = packed(theirs) if form == "packed" else lambda u: u
    for layer in (theirs, mine):
        wrapped = _First(layer)
        found = call_for_per_sample_grads(wrapped, batch_size=BATCH, loss_reduction="sum", batch_first=False)(
            shape(us)
        )
        torch.sin(found).sum().backward()
    for (name, ours), other in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        assert ours.grad_sample.shape == (BATCH, *ours.shape), name
        assert (ours.grad_sample - other.grad_sample).abs().max() < TOLERANCE, name


class _First(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, given: Any) -> Tensor:
        return tensors(self.layer(given)[0])[0]


@kinds
def test_names_of_torch_may_point_here(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.nn.GRU = nextstate.nn.GRU`: what is torch's to run still finds its way there."""
    theirs, mine = pair(kind, {})
    us = example(kind)
    expected = tensors(theirs(us)), tensors(theirs.double()(us.double()))
    for place in (nn, nn.modules, nn.modules.rnn):
        for name in KINDS:
            monkeypatch.setattr(place, name, getattr(ns.nn, name))
    for module, given, wanted in (
        (mine, us, expected[0]),
        (copy.deepcopy(mine).double(), us.double(), expected[1]),
    ):
        for ours, other in zip(tensors(module(given)), wanted, strict=True):
            assert (ours - other).abs().max() < TOLERANCE
    with pytest.warns(ns.FallbackWarning, match="turned a"):
        scripted = torch.jit.script(nn.Sequential(mine))
    for ours, other in zip(tensors(scripted(us)), expected[0], strict=True):
        assert (ours - other).abs().max() < TOLERANCE


TAKEN_OVER = {
    "weight_norm": (nn.utils.weight_norm, nn.utils.remove_weight_norm),
    "pruning": (lambda layer, name: prune.l1_unstructured(layer, name, 0.5), prune.remove),
}


@pytest.mark.parametrize("how", TAKEN_OVER)
@pytest.mark.parametrize("options", [{}, {"proj_size": 2}], ids=["LSTM", "projected"])
def test_a_weight_taken_over_by_a_hook_and_given_back(how: str, options: dict[str, Any]) -> None:
    theirs, mine = pair("LSTM", options)
    name, us = "weight_hr_l0" if options else "weight_ih_l0", dense(theirs)
    take, give = TAKEN_OVER[how]
    whole = {name for name, _ in mine.named_parameters()}
    for layer in (theirs, mine):
        take(layer, name)
    assert sum(isinstance(w, nn.Parameter) for w in mine._flat_weights) == len(whole) - 1
    assert_agree(outcome(mine, us), outcome(theirs, us), TOLERANCE)
    for layer in (theirs, mine):
        give(layer, name)
    assert all(isinstance(w, nn.Parameter) for w in mine._flat_weights)
    assert {name for name, _ in mine.named_parameters()} == whole
    assert_agree(outcome(mine, us), outcome(theirs, us), TOLERANCE)


def test_an_lstm_saved_before_there_were_projections() -> None:
    _, mine = pair("LSTM", {})
    us = dense(mine)
    old = {name: value for name, value in vars(mine).items() if name != "proj_size"}
    loaded = ns.nn.LSTM(INPUT, HIDDEN)
    loaded.__setstate__(old)
    assert loaded.proj_size == 0
    assert torch.equal(loaded(us)[0], mine(us)[0])


@layer_kinds
def test_backward_runs_as_often_as_the_graph_is_kept(kind: str) -> None:
    _, mine = pair(kind, {"num_layers": 2})
    us = dense(mine).requires_grad_()
    output, _ = mine(us)
    wanted = [us, *mine.parameters()]
    first, *others = (torch.autograd.grad(output.sin().sum(), wanted, retain_graph=True) for _ in range(3))
    assert all(x.abs().max() > 0 for x in first)
    for again in others:
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("kind", ["LSTM", "LSTMCell"])
@pytest.mark.parametrize("one", [0, -2, -1], ids=["output", "h", "c"])
def test_a_gradient_of_one_output_alone(kind: str, one: int) -> None:
    theirs, mine = pair(kind, {})
    us, found = example(kind), []
    for module in (mine, theirs):
        given = us.clone().requires_grad_()
        chosen = tensors(module(given))[one].sin().sum()
        grads = torch.autograd.grad(chosen, [given, *module.parameters()], allow_unused=True)
        found.append({k: torch.zeros(()) if g is None else g for k, g in enumerate(grads)})
    assert found[1][0].abs().max() > 0
    assert_agree(*found, TOLERANCE)


@layer_kinds
@pytest.mark.parametrize("p", [0.5, 1.0])
def test_dropout_is_drawn_anew_and_stands_between_the_layers(kind: str, p: float) -> None:
    _, mine = pair(kind, {"num_layers": 2, "dropout": p})
    us = dense(mine)
    one, two = (mine(us)[0] for _ in range(2))
    assert torch.equal(one, two) == (p == 1)
    with torch.no_grad():
        mine.weight_ih_l0.mul_(2)
    assert torch.equal(mine(us)[0], one) == (p == 1)  # nothing of the first layer comes through
    mine.eval()
    assert torch.equal(mine(us)[0], mine(us)[0])


def test_a_layer_loaded_whole_draws_dropout_too() -> None:
    _, mine = pair("RNN", {"num_layers": 2, "dropout": 0.5})
    file = io.BytesIO()
    torch.save(mine, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    loaded.flatten_parameters()
    us = dense(mine)
    assert not torch.equal(loaded(us)[0], loaded(us)[0])
    assert torch.equal(loaded.eval()(us)[0], mine.eval()(us)[0])


def spread(x: Tensor) -> Tensor:
    """The same numbers with a hole after each."""
    return x.repeat_interleave(2, -1)[..., ::2]


@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_numbers_that_do_not_lie_side_by_side(name: str) -> None:
    kind, options = (LAYERS | CELLS)[name]
    _, mine = pair(kind, options)
    mine.eval()
    us = example(kind)
    hx = tuple(torch.randn_like(x) for x in tensors(mine(us)[1:] if kind in LAYER_KINDS else mine(us)))
    start = hx if kind.startswith("LSTM") else hx[0]
    loose = tuple(map(spread, hx)) if kind.startswith("LSTM") else spread(start)
    found = []
    for given, s in ((us, start), (spread(us), loose)):
        given = given.detach().requires_grad_()
        out = tensors(mine(given, s))
        cotangents = [torch.linspace(-1, 1, x.numel()).view_as(x) for x in out]
        if given.is_contiguous():
            wanted = [given, *mine.parameters()]
            found.append([*out, *torch.autograd.grad(out, wanted, cotangents)])
            continue
        cotangents = [spread(x) for x in cotangents]
        found.append([*out, *torch.autograd.grad(out, [given, *mine.parameters()], cotangents)])
    assert not loose[0].is_contiguous()
    for dense_one, loose_one in zip(*found, strict=True):
        torch.testing.assert_close(loose_one, dense_one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_outputs_and_gradients_lie_as_torchs_do(name: str) -> None:
    kind, options = (LAYERS | CELLS)[name]
    modules = pair(kind, options)
    us, laid = example(kind), []
    for module in modules:
        given = us.clone().requires_grad_()
        out = tensors(module(given))
        grads = torch.autograd.grad(sum(x.sum() for x in out), [given, *module.parameters()])
        laid.append([x.is_contiguous() for x in (*out, *grads)])
    assert laid[0] == laid[1]


@kinds
def test_made_on_meta_and_filled_later(kind: str) -> None:
    with torch.device("meta"):
        mine = getattr(ns.nn, kind)(INPUT, HIDDEN)
    assert all(p.is_meta for p in mine.parameters())
    theirs, _ = pair(kind, {})
    mine.to_empty(device="cpu")
    mine.load_state_dict(theirs.state_dict())
    us = example(kind)
    assert_agree(outcome(mine, us), outcome(theirs, us), TOLERANCE)


@kinds
@pytest.mark.parametrize("swap", [True, False])
def test_converted_there_and_back_between_calls(kind: str, swap: bool) -> None:
    """`.to` may put other tensors behind the parameters: the next call runs on those."""
    theirs, mine = pair(kind, {})
    us, before = example(kind), torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        for module in (theirs, mine):
            sum(x.sum() for x in tensors(module(us))).backward()
            module.half().float()
        with torch.no_grad():
            for ours, other in zip(tensors(mine(us)), tensors(theirs(us)), strict=True):
                assert (ours - other).abs().max() < TOLERANCE
        assert_agree(outcome(mine, us), outcome(theirs, us), TOLERANCE)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


@pytest.mark.parametrize("name", ["RNNCell", "RNNCell relu", "GRUCell", "LSTMCell"])
@pytest.mark.parametrize("grad", [True, False])
def test_a_cell_of_no_units(name: str, grad: bool) -> None:
    kind, options = CELLS[name]
    mine = getattr(ns.nn, kind)(INPUT, 0, **options)
    h = torch.zeros(BATCH, 0)
    with torch.set_grad_enabled(grad):
        for x in tensors(mine(torch.randn(BATCH, INPUT), (h, h) if kind == "LSTMCell" else h)):
            assert x.shape == (BATCH, 0)
