"""How far gradients reach: twice, forward, per sample, over ensembles, in segments, compiled."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nextstate as ns
from agreement import assert_close
from catalogue import BY_NAME, random_state
from dropins.pairs import BATCH, HIDDEN, INPUT, LAYERS, STEPS, dense, pair, tensors
from nextstate.checks import InputError
from nextstate.states import leaves

layers = pytest.mark.parametrize("name", LAYERS)
LENGTHS = torch.tensor([STEPS, 0, 3])
pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),  # torch's own first use of jvp
]


@layers
def test_gradients_of_gradients(name: str) -> None:
    kind, options = LAYERS[name]
    layer = pair(kind, options | {"dropout": 0.0}, torch.float64)[1]
    us = torch.randn(3, 2, INPUT, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda us: layer(us)[0], us, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda us: layer(us)[0], us, fast_mode=True)


def second(layer: nn.Module, us: Tensor) -> list[Tensor]:
    """The gradient of a gradient penalty."""
    us = us.clone().requires_grad_()
    (first,) = torch.autograd.grad(layer(us)[0].sin().sum(), us, create_graph=True)
    return list(torch.autograd.grad(first.square().sum(), [us, *layer.parameters()], allow_unused=True))


@layers
def test_a_gradient_penalty_is_that_of_torch(name: str) -> None:
    """In float32, where the engine runs the first pass."""
    kind, options = LAYERS[name]
    theirs, mine = pair(kind, options | {"dropout": 0.0})
    us = dense(theirs)
    for ours, other in zip(second(mine, us), second(theirs, us), strict=True):
        assert (ours is None) == (other is None)
        if ours is not None:
            assert_close(ours, other, 1e-4)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_per_sample_gradients(kind: str) -> None:
    layer = pair(kind, {"num_layers": 2})[1]
    parameters = dict(layer.named_parameters())
    us, targets = torch.randn(BATCH, STEPS, INPUT), torch.randn(BATCH, STEPS, HIDDEN)

    def loss(parameters: dict[str, Tensor], us: Tensor, target: Tensor) -> Tensor:
        output, _ = torch.func.functional_call(layer, parameters, (us,))
        return (output - target).square().sum()

    found = torch.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, us, targets)
    for row in range(BATCH):
        expected = torch.autograd.grad(loss(parameters, us[row], targets[row]), list(parameters.values()))
        for name, gradient in zip(parameters, expected, strict=True):
            assert_close(found[name][row], gradient, 1e-4)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_an_ensemble_of_parameters(kind: str) -> None:
    several = [pair(kind, {})[1] for _ in range(2)]
    parameters, _ = torch.func.stack_module_state(several)
    us = torch.randn(STEPS, BATCH, INPUT)
    together = torch.vmap(lambda p: torch.func.functional_call(several[0], p, (us,))[0])(parameters)
    assert_close(together, torch.stack([layer(us)[0] for layer in several]), 1e-5)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_forward_mode(kind: str) -> None:
    layer = pair(kind, {}, torch.float64)[1]
    us, du = torch.randn(2, STEPS, BATCH, INPUT, dtype=torch.float64)
    _, tangent = torch.func.jvp(lambda us: layer(us)[0], (us,), (du,))
    ahead, behind = (layer(us + sign * 1e-6 * du)[0] for sign in (1, -1))
    assert_close(tangent, (ahead - behind) / 2e-6, 1e-6)


@layers
def test_backward_in_eval_mode(name: str) -> None:
    kind, options = LAYERS[name]
    theirs, mine = pair(kind, options)
    us = dense(theirs)
    found = []
    for layer in (theirs.eval(), mine.eval()):
        x = us.clone().requires_grad_()
        layer(x)[0].sin().sum().backward()
        found.append((x.grad, *[p.grad for p in layer.parameters()]))
    assert_close(found[1], found[0], 3e-5)


def results(
    scan: Any, cell: ns.Cell, us: Tensor, s0: Any, lengths: Tensor | None
) -> tuple[list[Tensor], ...]:
    torch.manual_seed(9)
    us = us.clone().requires_grad_()
    vs, last = scan(cell, us, s0, lengths=lengths)
    values = [*leaves(vs), *leaves(last)]
    total = sum((x * (1 + 0.1 * k)).sin().sum() for k, x in enumerate(values))
    us_gradient, *rest = torch.autograd.grad(total, [us, *cell.parameters()])
    return [*values, us_gradient], rest


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("every", [1, 3, STEPS, 50])
@pytest.mark.parametrize("name", ["GRU", "LSTM", "ProjectedLSTM", "LayerNormGRU", "Dropped GRU"])
def test_checkpointed_over_time(name: str, every: int, lengths: Tensor | None) -> None:
    """Outputs, states and gradients of the input bit for bit; those of parameters to rounding."""
    cell = BY_NAME[name].cell(dtype=torch.float32)
    us = torch.randn(STEPS, 3, INPUT)
    s0 = cell.initial_state(3) if name.startswith("Dropped") else random_state(cell, 3, torch.float32)
    bits, rounded = results(ns.scan, cell, us, s0, lengths)
    bits_again, rounded_again = results(ns.checkpointed(ns.scan, every=every), cell, us, s0, lengths)
    assert all(torch.equal(a, b) for a, b in zip(bits, bits_again, strict=True))
    assert_close(tuple(rounded_again), tuple(rounded), 2e-5)


def test_noise_is_drawn_alike_in_both_passes() -> None:
    """With noise drawn anew the gradient would belong to another forward pass."""
    cell = ns.Zoneout(BY_NAME["GRU"].cell(dtype=torch.float32), 0.5)
    us = torch.randn(STEPS, 3, INPUT)
    one, other = (
        results(scan, cell, us, None, None) for scan in (ns.scan, ns.checkpointed(ns.scan, every=STEPS))
    )
    assert_close(tuple(one[0] + one[1]), tuple(other[0] + other[1]), 2e-5)


MEMORY = """
import resource, torch, nextstate as ns
torch.set_num_threads(1)
cell, us = ns.GRU(16, 128), torch.randn(512, 32, 16)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ns.scan(cell, us[:1])[0].sum().backward()
before = peak()
for scan in (ns.checkpointed(ns.scan, every=16), ns.scan):
    scan(cell, us)[0].sum().backward()
    print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read in Linux' units")
def test_checkpointed_memory_falls() -> None:
    """Everything kept: states, gates and their gradients of 512 steps. In segments of 16: those of 16."""
    if not ns.nn.layers.COMPILED:
        pytest.skip("the compiled extension is not installed")
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    segments, whole = map(int, done.stdout.split())
    outputs = 2 * 512 * 32 * 128 * 4 / 1024  # KiB: vs and its gradient stay in both
    assert segments - outputs < 0.4 * (whole - outputs), done.stdout


@pytest.mark.parametrize("every", [1, 3, STEPS])
@pytest.mark.parametrize("name", ["GRU", "LSTM"])
def test_truncated_is_a_detached_state(name: str, every: int) -> None:
    cell, us = BY_NAME[name].cell(dtype=torch.float32), torch.randn(STEPS, 3, INPUT)
    s0 = random_state(cell, 3, torch.float32)

    def by_hand(cell: ns.Cell, us: Tensor, s: Any, *, lengths: None) -> tuple[Tensor, Any]:
        vs = []
        for t, u in enumerate(us):
            if t and t % every == 0:
                s = tuple(x.detach() for x in s) if isinstance(s, tuple) else s.detach()
                s = ns.LSTMState(*s) if isinstance(s, tuple) else s
            v, s = cell(u, s)
            vs.append(v)
        return torch.stack(vs), s

    expected = results(by_hand, cell, us, s0, None)
    found = results(ns.truncated(ns.scan, every=every), cell, us, s0, None)
    assert_close(tuple(found[0] + found[1]), tuple(expected[0] + expected[1]), 2e-5)
    if every < STEPS:
        whole = results(ns.scan, cell, us, s0, None)
        assert not torch.allclose(found[0][-1], whole[0][-1])


def test_truncated_passes_the_gradient_of_a_learned_start() -> None:
    cell = ns.LearnedStart(BY_NAME["GRU"].cell(dtype=torch.float32))
    vs, _ = ns.truncated(ns.scan, every=2)(cell, torch.randn(STEPS, 3, INPUT))
    vs[:2].sum().backward()
    assert cell.start[0].grad.ne(0).all()


def test_segments_of_nothing_and_wrong_segments() -> None:
    cell = BY_NAME["GRU"].cell(dtype=torch.float32)
    for make in (ns.checkpointed, ns.truncated):
        vs, last = make(ns.scan, every=4)(cell, torch.randn(0, 3, INPUT))
        assert vs.shape == (0, 3, 5)
        assert not last.any()
        for every in (0, -1, 2.5, True):
            with pytest.raises(InputError, match="every is"):
                make(ns.scan, every=every)
        with pytest.raises(InputError, match="lengths run from"):
            make(ns.scan, every=4)(cell, torch.randn(6, 2, INPUT), lengths=torch.tensor([7, 1]))


class Model(nn.Module):
    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.before = nn.Linear(INPUT, INPUT)
        self.layer = getattr(ns.nn, kind)(INPUT, HIDDEN, **options)
        self.after = nn.Linear(HIDDEN * (1 + self.layer.bidirectional), 2)

    def forward(self, us: Tensor, hx: Any = None) -> Tensor:
        return self.after(self.layer(self.before(us), hx)[0])


def trained(call: Any, model: nn.Module, *arguments: Any) -> list[Tensor]:
    model.zero_grad()
    y = call(*arguments)
    y.sin().sum().backward()
    return [y, *[p.grad.clone() for p in model.parameters()]]


@pytest.mark.parametrize("given", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}], ids=str)
@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_one_graph_and_one_call_a_layer(kind: str, options: dict[str, Any], given: bool) -> None:
    """torch.compile(fullgraph=True), with the switch that torch 2.13 wants before it looks at an nn.LSTM."""
    torch._dynamo.reset()
    model, us = Model(kind, **options), torch.randn(STEPS, BATCH, INPUT)
    h = torch.randn((1 + model.layer.bidirectional) * model.layer.num_layers, BATCH, HIDDEN)
    arguments = (us, ((h, h.sin()) if kind == "LSTM" else h) if given else None)
    graphs = []

    def backend(graph: Any, examples: Any) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, examples)

    with torch._dynamo.config.patch(allow_rnn=True):
        compiled = torch.compile(model, backend=backend, fullgraph=True)
        found = trained(compiled, model, *arguments)
    assert_close(tuple(found), tuple(trained(model, model, *arguments)), 1e-5)
    calls = [node for node in graphs[0].graph.nodes if "flat_apply" in str(node.target)]
    assert (len(graphs), len(calls)) == (1, 1)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # hidden by torch but from pytest
def test_compiled_with_a_graph_break() -> None:
    """Without the switch torch leaves the layer out of its graphs; it runs as it does elsewhere."""
    torch._dynamo.reset()
    model, us = Model("GRU"), torch.randn(STEPS, BATCH, INPUT)
    found = trained(torch.compile(model, backend="aot_eager"), model, us)
    assert_close(tuple(found), tuple(trained(model, model, us)), 1e-5)


@pytest.mark.filterwarnings("ignore:The tensor attributes self.layer._flat_weights")  # torch.nn's own
def test_exported_and_traced_programs_hold_torchs_own_operators() -> None:
    model, us = Model("GRU").eval(), torch.randn(STEPS, BATCH, INPUT)
    program = torch.export.export(model, (us,), strict=False)
    assert any("gru" in str(node.target) for node in program.graph.nodes)
    assert_close(program.module()(us), model(us), 1e-5)


def test_nothing_is_left_of_a_functional_call() -> None:
    layer, us = pair("GRU", {})[1], torch.randn(STEPS, BATCH, INPUT)
    before = tensors(layer(us))
    zeros = {name: torch.zeros_like(p) for name, p in layer.named_parameters()}
    assert not torch.func.functional_call(layer, zeros, (us,))[0].any()
    assert all(torch.equal(a, b) for a, b in zip(tensors(layer(us)), before, strict=True))


def test_cells_in_hand_are_not_touched_by_a_functional_call() -> None:
    """Neither by other numbers of the same kind nor by what is left of a transform."""
    layer, us = pair("GRU", {})[1], torch.randn(STEPS, BATCH, INPUT)
    (cell,), step = layer.cells(), ns.nn.GRUCell(INPUT, HIDDEN)
    parameters = dict(layer.named_parameters())

    def loss(parameters: dict[str, Tensor], us: Tensor) -> Tensor:
        return torch.func.functional_call(layer, parameters, (us,))[0].square().sum()

    loss({name: torch.zeros_like(p) for name, p in parameters.items()}, us)
    torch.vmap(torch.func.grad(loss), (None, 1))(parameters, us)
    held = step.cell()
    with torch.no_grad():
        torch.func.functional_call(step, {"weight_ih": torch.zeros(3 * HIDDEN, INPUT)}, (us[0],))
    assert cell.weight_ih is layer.weight_ih_l0
    assert held.weight_ih is step.weight_ih


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNNCell"])
def test_fx_sees_one_module(kind: str) -> None:
    """A trace of a model stops at a layer of ours as it does at torch's."""
    model = nn.Sequential(nn.Linear(INPUT, INPUT), getattr(ns.nn, kind)(INPUT, HIDDEN))
    traced, us = torch.fx.symbolic_trace(model), torch.randn(BATCH, INPUT)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["0", "1"]
    assert all(torch.equal(a, b) for a, b in zip(tensors(traced(us)), tensors(model(us)), strict=True))


def test_a_loop_that_is_no_scan_is_refused() -> None:
    """A fold's last outputs, one below the other, would look like a sequence."""
    cell, us = BY_NAME["GRU"].cell(dtype=torch.float32), torch.randn(STEPS, 2, INPUT)
    for make in (ns.checkpointed, ns.truncated):
        with pytest.raises(
            InputError, match=r"the loop gave \(2, 5\) float32 for a segment; expected \[3, 2"
        ):
            make(ns.fold, every=3)(cell, us)
        for wrong in (cell, 3):
            with pytest.raises(
                InputError, match=r"the first argument is a .*; expected a loop: nextstate\.scan"
            ):
                make(wrong, every=3)
