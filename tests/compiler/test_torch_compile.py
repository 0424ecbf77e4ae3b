"""torch.compile(fullgraph=True): one call a layer, the same results; torch's own checks of the operators."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

import nextstate as ns
from agreement import assert_agree
from catalogue import BY_NAME
from nextstate import _engine
from nextstate.engines.kernel import Kernel
from nextstate.engines.layout import Layout
from nextstate.run import ENGINES

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
LENGTHS = torch.tensor([5, 0, 3, 1])


class Model(nn.Module):
    """Three kinds of layer, one of them in two directions, and a read-out of a last state."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = ns.GRU(6, 16), ns.Stacked(ns.LSTM(16, 9), ns.Elman(9, 10))
        self.both = ns.Bidirectional(ns.GRU(10, 8), ns.LayerNormGRU(10, 8))
        self.out = nn.Linear(16, 3)

    def forward(self, us: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, _ = ns.scan(self.first, us, lengths=lengths)
        x, s = ns.scan(self.second, x, lengths=lengths)
        x, _ = self.both(x, lengths=lengths)
        return self.out(x.relu()), s[0].c


LAYERS = 4


class Counter:
    """A backend that counts calls of the engine in dynamo's graph, then in those of AOT autograd."""

    def __init__(self) -> None:
        self.dynamo = self.forward = self.backward = 0

    def __call__(self, graph: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        self.dynamo += sum("flat_apply" in str(node.target) for node in graph.graph.nodes)

        def lowered(graph: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
            targets = [str(node.target) for node in graph.graph.nodes]
            self.forward += sum("nextstate.scan_forward" in target for target in targets)
            self.backward += sum("nextstate.scan_backward" in target for target in targets)
            return make_boxed_func(graph)

        return aot_autograd(fw_compiler=lowered)(graph, inputs)


@pytest.fixture(autouse=True)
def _reset() -> None:
    torch._dynamo.reset()


def results(model: nn.Module, run: Callable[..., Any], us: Tensor, *rest: Any) -> dict[str, Tensor]:
    us = us.detach().clone().requires_grad_()
    model.zero_grad()
    y, c = run(us, *rest)
    (y.sin().sum() + 2 * c.sum()).backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    return {"y": y.detach(), "c": c.detach(), "us": us.grad, **grads}


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_one_call_a_layer_and_the_same_results(lengths: Tensor | None) -> None:
    model, us, counter = Model(), torch.randn(5, 4, 6), Counter()
    expected = results(model, model, us, lengths)
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    assert_agree(results(model, compiled, us, lengths), expected)
    assert (counter.dynamo, counter.forward, counter.backward) == (LAYERS, LAYERS, LAYERS)
    with torch.no_grad():
        model.first.weight_hh.mul_(1.5)
    assert_agree(results(model, compiled, us, lengths), results(model, model, us, lengths))
    assert counter.dynamo == LAYERS, "a changed weight compiles nothing anew"
    assert not torch.allclose(results(model, compiled, us, lengths)["y"], expected["y"])


def test_sizes_may_vary() -> None:
    cell, counter = ns.GRU(6, 16), Counter()
    compiled = torch.compile(lambda us: ns.scan(cell, us)[0], fullgraph=True, backend=counter)
    for steps, batch in ((5, 4), (7, 3), (9, 5), (11, 6), (13, 2)):
        us = torch.randn(steps, batch, 6)
        assert torch.equal(compiled(us), ns.scan(cell, us)[0])
    assert counter.dynamo == 2, "after two sizes, sizes are symbols"


def test_lengths_are_read_at_every_call() -> None:
    model = Model()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    us = torch.randn(5, 4, 6)
    for lengths in (LENGTHS, LENGTHS.flip(0), torch.tensor([5, 5, 5, 5]), torch.tensor([0, 0, 0, 0])):
        assert_agree(results(model, compiled, us, lengths), results(model, model, us, lengths))


@pytest.mark.parametrize(
    "name", ["Dropped GRU", "Embedded GRU", "ResetWhen LSTM", "WithState LSTM", "LearnedStart GRU"]
)
@pytest.mark.parametrize("loop", ["scan", "fold"])
def test_combinations(name: str, loop: str) -> None:
    row = BY_NAME[name]
    cell, us = row.cell(dtype=torch.float32).eval(), row.us(6, 3, dtype=torch.float32)
    run = getattr(ns, loop)
    compiled = torch.compile(lambda us: run(cell, us), fullgraph=True, backend="aot_eager")
    expected, found = run(cell, us), compiled(us)
    assert torch.utils._pytree.tree_structure(found) == torch.utils._pytree.tree_structure(expected)
    flat = [torch.utils._pytree.tree_leaves(tree) for tree in (found, expected)]
    assert_agree(*({str(k): x for k, x in enumerate(leaves)} for leaves in flat))


def test_modes_are_guarded() -> None:
    """Zoneout draws in training and averages in evaluation; the compiled function follows."""
    cell, us = ns.Zoneout(ns.GRU(3, 5), 0.5), torch.randn(6, 3, 3)
    compiled = torch.compile(lambda us: ns.scan(cell, us)[0], fullgraph=True, backend="aot_eager")
    cell.train()
    assert not torch.equal(compiled(us), compiled(us))
    cell.eval()
    assert torch.equal(compiled(us), compiled(us))
    assert_agree({"v": compiled(us)}, {"v": ns.scan(cell, us)[0]})


def test_without_gradients() -> None:
    model, us = Model(), torch.randn(5, 4, 6)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for quiet in (torch.no_grad, torch.inference_mode):
        with quiet():
            for x, y in zip(compiled(us), model(us), strict=True):
                assert torch.equal(x, y)


def operator_inputs(lengths: Tensor | None, wanted: bool) -> tuple[tuple[Any, ...], Any]:
    """Arguments of nextstate::scan_forward as a GRU gives them, and the cell, which must live on."""
    cell, us = ns.GRU(3, 5), torch.randn(4, 3, 3)
    ns.scan(cell, us, engine="cpu")
    (found,) = ENGINES["cpu"].record(cell).compiled.values()
    layout = Layout.of(4, 3, lengths)
    named = dict(zip(found.kernel.step.trace.weights, found.kernel.step.trace.parameters, strict=True))
    tensors = []
    for kind, place in found.kernel.slots:
        if kind == "seq":
            value = layout.pack(us)
        elif kind == "state":
            value = torch.randn(3, 5)
        else:
            leaf = found.kernel.step.leaves.weights if kind == "weight" else found.kernel.step.leaves.vecs
            index = place if kind == "weight" else found.kernel.step.externals.vecs[place][1]
            value = cell.get_parameter(named[leaf[index]])
        tensors.append(value.detach().clone().requires_grad_(wanted))
    mask = 2 ** len(tensors) - 1 if wanted else 0
    return (tensors, found.handle, layout.steps, layout.batch, layout.lengths, mask), cell


KINDS = (
    "test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static",
    "test_aot_dispatch_dynamic",
)  # fmt: skip


@pytest.fixture
def _memory_of_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a training run keeps has pads and rows that nobody writes or reads: two runs differ there."""
    empty = _engine.empty
    monkeypatch.setattr(_engine, "empty", lambda rows, cols: empty(rows, cols).zero_())


@pytest.mark.usefixtures("_memory_of_zeros")
@pytest.mark.parametrize("wanted", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("lengths", [None, torch.tensor([4, 1, 2])], ids=["full", "ragged"])
def test_torchs_own_checks_of_the_operator(wanted: bool, lengths: Tensor | None) -> None:
    arguments, _cell = operator_inputs(lengths, wanted)
    torch.library.opcheck(torch.ops.nextstate.scan_forward.default, arguments, test_utils=KINDS)
    if wanted:
        tensors, handle, steps, batch, sorted_lengths, mask = arguments
        with torch.no_grad():
            made = torch.ops.nextstate.scan_forward(*arguments)
            results = ENGINES["cpu"].record(_cell).compiled
            (found,) = results.values()
            count = found.kernel.results
            gradients = [torch.randn_like(x) for x in made[:count]]
            plain = [t.detach() for t in tensors]
        given = (gradients, plain, list(made[count:]), handle, steps, batch, sorted_lengths, mask)
        torch.library.opcheck(torch.ops.nextstate.scan_backward.default, given, test_utils=KINDS)


@pytest.mark.usefixtures("_memory_of_zeros")
@pytest.mark.parametrize("kind", KINDS[3:])
def test_another_result_when_traced_is_rejected(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    arguments, _cell = operator_inputs(None, True)
    right, calls = Kernel.forward, itertools.count(1)
    monkeypatch.setattr(Kernel, "forward", lambda *a: [x * k for k in [next(calls)] for x in right(*a)])
    with pytest.raises(Exception, match="eager-mode PyTorch vs AOTDispatcher"):
        torch.library.opcheck(torch.ops.nextstate.scan_forward.default, arguments, test_utils=kind)


def test_a_wrong_shape_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, _cell = operator_inputs(None, False)
    right = Kernel.forward
    monkeypatch.setattr(Kernel, "forward", lambda *a: [x[..., 1:].contiguous() for x in right(*a)])
    with pytest.raises(Exception, match=r"(?i)shape|size|mismatch|match"):
        torch.library.opcheck(
            torch.ops.nextstate.scan_forward.default, arguments, test_utils="test_faketensor"
        )
