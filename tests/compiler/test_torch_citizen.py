"""The CPU engine inside torch: gradients, layouts, changes in place, second derivatives, ids, copies."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from steps import HIDDEN, INPUT, STEPS, Step
from torch import Tensor, nn

import nextstate as ns
from agreement import assert_close
from catalogue import BY_NAME, random_state, randomise_
from nextstate.engines import replay
from nextstate.states import leaves, tree_map

CELLS = ["GRU", "LSTM", "LayerNormGRU", "ProjectedLSTM", "Stacked GRU LSTM", "LowRank"]
cells = pytest.mark.parametrize("name", CELLS)
LENGTHS = torch.tensor([4, 0, 2])


def made(name: str, inputs: int = 3, hidden: int = 5) -> ns.Cell:
    return BY_NAME[name].cell(inputs, hidden, torch.float32)


def kept_floats(output: Tensor) -> int:
    """Floats that the graph of a loop keeps for its backward run."""
    pending, found = [output.grad_fn], 0
    while pending:
        node = pending.pop()
        if node is None:
            continue
        if "Scan" in type(node).__name__:
            found += sum(x.numel() for x in node.saved_tensors)
        pending.extend(before for before, _ in node.next_functions)
    return found


@cells
def test_only_the_gradients_asked_for_are_computed(name: str) -> None:
    cell, us = made(name), torch.randn(4, 3, 3)
    parameters = list(cell.parameters())
    everything = {}
    for p in parameters:
        p.requires_grad_(True)
    vs, _ = ns.scan(cell, us.requires_grad_(), engine="cpu")
    total = sum(v.sin().sum() for v in leaves(vs))
    grads = torch.autograd.grad(total, [us, *parameters])
    everything = dict(zip([id(us), *map(id, parameters)], grads, strict=True))
    for alone in (us, *parameters):
        for x in (us, *parameters):
            x.requires_grad_(x is alone)
            x.grad = None
        vs, _ = ns.scan(cell, us, engine="cpu")
        sum(v.sin().sum() for v in leaves(vs)).backward()
        assert_close(alone.grad, everything[id(alone)])
        assert all(x.grad is None for x in (us, *parameters) if x is not alone)


def test_gradients_not_asked_for_cost_nothing() -> None:
    """Without gradients of the weights the backward run has no sums over time to make."""
    from nextstate.run import ENGINES

    cell, us = made("GRU", 16, 32), torch.randn(4, 3, 16, requires_grad=True)
    ns.scan(cell, us, engine="cpu")
    cell.requires_grad_(False)
    ns.scan(cell, us, engine="cpu")
    (kernel,) = (found.kernel for found in ENGINES["cpu"].record(cell).compiled.values())
    sums = {mask: len(v.backward.program.tn) for mask, v in kernel.variants.items() if v.backward}
    input_alone = 1 << kernel.slots.index(("seq", 0))
    assert sums.pop(input_alone) == 0
    assert sums
    assert all(sums.values()), sums
    cell.requires_grad_(True)
    assert not ns.scan(cell.requires_grad_(False), us.detach(), engine="cpu")[0].requires_grad


@cells
def test_inference_and_training_give_the_same_bits(name: str) -> None:
    cell, us = made(name), torch.randn(6, 3, 3)
    trained = ns.scan(cell, us, engine="cpu")
    for quiet in (torch.no_grad, torch.inference_mode):
        for _ in range(2):  # the second call may take a short cut
            with quiet():
                found = ns.scan(cell, us, engine="cpu")
            assert all(torch.equal(a, b) for a, b in zip(leaves(trained), leaves(found), strict=True))
    assert leaves(found)[0].is_inference()


@cells
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_any_memory_layout(name: str, lengths: Tensor | None) -> None:
    cell, us = made(name), torch.randn(4, 3, 3)
    s0 = random_state(cell, 3, torch.float32)
    expected = ns.scan(cell, us, s0, lengths=lengths, engine="cpu")
    batch_first = us.transpose(0, 1).contiguous().transpose(0, 1)
    strided = torch.stack([us, us], -1).flatten(-2)[..., ::2]
    turned = tree_map(lambda s: s.T.contiguous().T, s0)
    broken_up = torch.cat([torch.zeros(1), us.flatten()])[1:].view(us.shape)  # not aligned to 64 bytes
    for other in (batch_first, strided, broken_up):
        found = ns.scan(cell, other, turned, lengths=lengths, engine="cpu")
        assert all(torch.equal(a, b) for a, b in zip(leaves(found), leaves(expected), strict=True))


def test_weights_turned_after_the_short_cut_was_made() -> None:
    """What is kept for calls without gradients points to weights as they lay."""
    us = torch.randn(4, 3, 16)
    for turned in (
        lambda p: torch._neg_view(p.clone()),
        lambda p: p.mT.contiguous().mT if p.dim() > 1 else p,
    ):
        cell = ns.GRU(16, 16)
        with torch.no_grad():
            for _ in range(3):
                ns.scan(cell, us)
            for p in cell.parameters():
                p.data = turned(p.data)
            for _ in range(3):
                assert_close(ns.scan(cell, us)[0], ns.scan(cell, us, engine="reference")[0])


def test_ids_that_stand_for_the_negative_of_their_memory() -> None:
    cell, ids = ns.Embedded(ns.GRU(16, 16), vocabulary=5, features=16), torch.randint(5, (40, 8))
    with torch.no_grad():
        found = ns.scan(cell, torch._neg_view(-ids), engine="cpu")[0]
        assert_close(found, ns.scan(cell, ids, engine="reference")[0])


@pytest.mark.parametrize("what", ["input", "start", "weights", "gradient", "step"])
@pytest.mark.parametrize("hidden", [5, 16])
def test_views_that_stand_for_the_negative_of_their_memory(what: str, hidden: int) -> None:
    """As `.imag` of a conjugate does. Widths of whole vectors are read where they lie."""
    model, us, start = ns.GRU(16, hidden), torch.randn(4, 3, 16), torch.randn(3, hidden)
    above = torch.randn(4, 3, hidden)

    def everything(turned: Callable[[Tensor], Tensor]) -> list[Tensor]:
        def of(name: str, x: Tensor) -> Tensor:
            return turned(x) if name == what else x

        cell, u, s = copy.deepcopy(model), of("input", us).requires_grad_(), of("start", start)
        with torch.no_grad():
            for p in cell.parameters():
                p.data = of("weights", p.data)
            quick = [ns.scan(cell, u, s)[0] for _ in range(3)]
            session = ns.Session(cell, batch_size=3)
            stepped = [session.step(of("step", us[0])) for _ in range(2)]
        v, last = ns.scan(cell, u, s)
        found = torch.autograd.grad(v, [u, *cell.parameters()], of("gradient", above))
        return [*quick, *stepped, v, last, *found]

    wanted = everything(lambda x: -x)
    found = everything(lambda x: torch._neg_view(x.clone()))
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other)


def test_weights_in_any_layout() -> None:
    cell, us = made("GRU"), torch.randn(4, 3, 3)
    expected = ns.scan(cell, us, engine="cpu")[0]
    cell.weight_hh.data = cell.weight_hh.data.T.contiguous().T
    assert_close(ns.scan(cell, us, engine="cpu")[0], expected)


@pytest.mark.parametrize("what", ["output", "input", "weight", "start"])
def test_changing_in_place_what_the_gradient_needs_raises(what: str) -> None:
    cell, us = made("GRU"), torch.randn(4, 3, 3)
    s0 = torch.randn(3, 5)
    vs, _ = ns.scan(cell, us, s0, engine="cpu")
    vs = vs * 1.0 if what != "output" else vs
    target = {"output": vs, "input": us, "weight": cell.weight_hh, "start": s0}[what]
    if what == "output":
        vs.exp_()  # its own gradient needs its result, ours reads the states, not the outputs
        vs.sum().backward()
        assert torch.isfinite(cell.weight_hh.grad).all()
        return
    with torch.no_grad():
        target.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        vs.sum().backward()


def test_an_output_changed_in_place_leaves_the_gradient_right() -> None:
    cell, us = made("GRU"), torch.randn(4, 3, 3)
    grads = []
    for engine in ("cpu", "reference"):
        vs, _ = ns.scan(cell, us, engine=engine)
        vs = vs.clone() if engine == "reference" else vs
        vs.mul_(2.0)
        grads.append(torch.autograd.grad(vs.square().sum(), list(cell.parameters())))
    assert_close(tuple(grads[0]), tuple(grads[1]))


def test_the_graph_can_be_kept_and_used_twice() -> None:
    cell, us = made("LSTM"), torch.randn(4, 3, 3)
    vs, _ = ns.scan(cell, us, engine="cpu")
    first = torch.autograd.grad(vs.sum(), list(cell.parameters()), retain_graph=True)
    second = torch.autograd.grad(vs.sum(), list(cell.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        vs.sum().backward()


def second(cell: ns.Cell, us: Tensor, engine: str, lengths: Tensor | None) -> tuple[Tensor, ...]:
    """Gradients of the norm of the gradients."""
    us = us.detach().requires_grad_()
    with ns.engine(engine):
        vs, sT = ns.scan(cell, us, lengths=lengths)
    total = sum((x.sin() * (1 + k)).sum() for k, x in enumerate((*leaves(vs), *leaves(sT))))
    wanted = [us, *cell.parameters()]
    first = torch.autograd.grad(total, wanted, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in first), wanted, allow_unused=True)


@cells
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_second_derivatives(name: str, lengths: Tensor | None) -> None:
    cell, us = made(name), torch.randn(4, 3, 3)
    found = second(cell, us, "cpu", lengths)
    expected = second(copy.deepcopy(cell).double(), us.double(), "reference", lengths)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b.float(), 2e-4)


@pytest.mark.parametrize(
    "name", ["chunked gates", "softmax", "layer norm", "where", "powers", "einsum heads"]
)
def test_second_derivatives_of_a_users_step(name: str) -> None:
    cell, us = Step(STEPS[name]), torch.randn(4, 3, INPUT)
    cell.requires_grad_(False)
    cell.r.requires_grad_(True)
    us = us.requires_grad_()

    def norm(cell: ns.Cell, us: Tensor, engine: str) -> Tensor:
        start = torch.full((3, HIDDEN), 0.3, dtype=us.dtype)
        vs, _ = ns.scan(cell, us, start, engine=engine)
        (first,) = torch.autograd.grad(vs.sin().sum(), us, create_graph=True)
        return torch.autograd.grad(first.square().sum(), us)[0]

    expected = norm(copy.deepcopy(cell).double(), us.detach().double().requires_grad_(), "reference")
    assert_close(norm(cell, us, "cpu"), expected.float(), 5e-4)


def test_a_wrong_second_derivative_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    cell, us = made("GRU"), torch.randn(4, 3, 3)
    expected = second(copy.deepcopy(cell).double(), us.double(), "reference", None)
    right = replay.expressions
    monkeypatch.setattr(replay, "expressions", lambda *a: [v * 1.01 for v in right(*a)])
    found = second(cell, us, "cpu", None)
    with pytest.raises(AssertionError, match="differs by"):
        assert_close(tuple(found), tuple(b.float() for b in expected), 2e-4)


@pytest.mark.parametrize("steps", [2, 40], ids=["multiplied", "looked up"])
@pytest.mark.parametrize("wrong", [-1, 7, 10**6])
def test_ids_outside_the_table_are_refused(steps: int, wrong: int) -> None:
    cell, ids = made("Embedded GRU"), torch.randint(0, 7, (steps, 3))
    ids[1, 2] = wrong
    with pytest.raises((ns.InputError, IndexError)):
        ns.scan(cell, ids)


@pytest.mark.parametrize("lengths", [None, torch.tensor([40, 0, 13])], ids=["full", "ragged"])
def test_ids_looked_up_or_multiplied_are_the_same(lengths: Tensor | None) -> None:
    """Forty steps of three rows are enough to look up; a vocabulary of a thousand is not worth it."""
    small = made("Embedded GRU")
    large = copy.deepcopy(small)
    large.table = nn.Parameter(torch.cat([small.table.data, torch.randn(993, 3)]))
    ids = torch.randint(0, 7, (40, 3))
    found = []
    for cell in (small, large):
        vs, s = ns.scan(cell, ids, lengths=lengths, engine="cpu")
        grads = torch.autograd.grad(vs.sin().sum() + s.sum(), list(cell.parameters()))
        found.append((vs, s, *(g[:7] if len(g) == 1000 else g for g in grads)))
    assert_close(found[0], found[1])


@pytest.mark.parametrize("name", ["GRU", "LSTM", "Stacked GRU LSTM", "Dropped GRU", "Embedded GRU"])
def test_copies_and_pickles_of_a_cell_that_has_run(name: str) -> None:
    cell = BY_NAME[name].cell(dtype=torch.float32)
    us = BY_NAME[name].us(5, 3, dtype=torch.float32)
    s0 = random_state(cell, 3, torch.float32)
    vs, _ = ns.scan(cell, us, s0, engine="cpu")
    twins = [copy.deepcopy(cell), pickle.loads(pickle.dumps(cell)), copy.copy(cell)]
    for twin in twins:
        assert torch.equal(ns.scan(twin, us, s0, engine="cpu")[0], vs)
    with torch.no_grad():
        randomise_(twins[0])
    assert not torch.allclose(ns.scan(twins[0], us, s0, engine="cpu")[0], vs)
    assert torch.equal(ns.scan(cell, us, s0, engine="cpu")[0], vs)


def test_one_cell_fed_with_inputs_of_two_sizes() -> None:
    """A step compiled for one size of input must not run for another, by the short cut either."""

    def step(u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(h + u.sum(-1, keepdim=True))
        return h, h

    cell = ns.FunctionCell(step, lambda b, **kw: torch.zeros(b, 4, **kw))
    for _ in range(2):
        for size in (3, 5, 32):
            us = torch.randn(4, 2, size)
            with torch.no_grad():
                assert_close(ns.scan(cell, us, engine="cpu"), ns.scan(cell, us, engine="reference"))


@cells
def test_weights_changed_between_calls_without_gradients_are_seen(name: str) -> None:
    """Packed weights are kept between such calls; weights made of parameters are new at every call."""
    cell, us = made(name), torch.randn(4, 3, 3)
    twin = copy.deepcopy(cell)
    with torch.no_grad():
        found = [halved_after(cell, us, "cpu") for _ in range(4)]
        expected = [halved_after(twin, us, "reference") for _ in range(4)]
    assert_close(tuple(found), tuple(expected))


def halved_after(cell: ns.Cell, us: Tensor, engine: str) -> Tensor:
    vs, _ = ns.scan(cell, us, engine=engine)
    for parameter in cell.parameters():
        parameter.mul_(0.5)
    return leaves(vs)[0]


def test_a_parameter_exchanged_at_the_same_address_is_seen() -> None:
    cell, us = made("GRU"), torch.randn(4, 3, 3)
    with torch.no_grad():
        for scale in (1.0, 2.0, 3.0):
            value = (scale * torch.ones(15, 5)).tolist()
            del cell.weight_hh
            cell.weight_hh = nn.Parameter(torch.tensor(value))
            assert_close(ns.scan(cell, us, engine="cpu"), ns.scan(cell, us, engine="reference"))


def test_a_cell_made_in_inference_mode() -> None:
    with torch.inference_mode():
        cell, us = made("GRU"), torch.randn(4, 3, 3)
        for _ in range(3):
            assert_close(ns.scan(cell, us, engine="cpu"), ns.scan(cell, us, engine="reference"))


def test_another_batch_size_compiles_nothing_anew() -> None:
    from nextstate.run import ENGINES

    cell = made("GRU")
    for batch in (1, 2, 5):
        ns.scan(cell, torch.randn(4 + batch, batch, 3), engine="cpu")
    assert len(ENGINES["cpu"].record(cell).compiled) == 1
