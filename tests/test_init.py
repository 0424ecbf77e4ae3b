"""What each start promises."""

from __future__ import annotations

import pytest
import torch

import nextstate as ns
from catalogue import CELLS, Row, random_state
from nextstate.init import chrono_, forget_bias_, identity_, integrator_, orthogonal_recurrent_
from nextstate.states import leaves

KEEPING = [row for row in CELLS if hasattr(row.make(3, 5), "keeps")]
RECURRENT = [row for row in CELLS if hasattr(row.make(3, 5), "weight_hh")]


@pytest.mark.parametrize("row", RECURRENT, ids=lambda row: row.name)
def test_orthogonal_blocks(row: Row) -> None:
    cell = row.cell()
    before = {name: x.clone() for name, x in cell.state_dict().items()}
    assert orthogonal_recurrent_(cell) is cell
    for block in cell.weight_hh.chunk(len(cell.gates)):
        assert torch.allclose(block.T @ block, torch.eye(block.shape[1]).double())
    assert [name for name, x in cell.state_dict().items() if not torch.equal(x, before[name])] == [
        "weight_hh"
    ]


@pytest.mark.parametrize("row", KEEPING, ids=lambda row: row.name)
def test_a_large_forget_bias_keeps_the_memory(row: Row) -> None:
    """The memory (the last tensor of the state) is carried on whole, beside what is written to it."""
    cell, u, s = row.cell(), torch.randn(2, 3).double(), random_state(row.cell(), 2)
    kept = leaves(forget_bias_(cell, 40.0)(u, s)[1])[-1]
    written = torch.zeros_like(kept)
    if cell.keeps[0] == "f":
        written = leaves(forget_bias_(cell, -40.0)(u, s)[1])[-1]
    assert torch.allclose(kept - written, leaves(s)[-1])


@pytest.mark.parametrize("row", KEEPING, ids=lambda row: row.name)
def test_forget_bias_goes_into_one_bias_and_nowhere_else(row: Row) -> None:
    cell = row.cell()
    gate, sign = cell.keeps
    before = {name: x.clone() for name, x in cell.state_dict().items()}
    forget_bias_(cell, 1.5)
    rows = slice(cell.gates.index(gate) * cell.hidden_size, (cell.gates.index(gate) + 1) * cell.hidden_size)
    for name, value in (("bias_ih", sign * 1.5), ("bias_hh", 0.0)):
        if name in before:
            assert cell.state_dict()[name][rows].tolist() == [value] * cell.hidden_size
            before[name][rows] = value
    for name, x in cell.state_dict().items():
        assert torch.equal(x, before[name]), name


@pytest.mark.parametrize("row", KEEPING, ids=lambda row: row.name)
def test_chrono_spreads_time_constants(row: Row) -> None:
    cell = chrono_(row.cell(3, 400), longest=100, generator=torch.Generator().manual_seed(1))
    gate, sign = cell.keeps
    blocks = dict(zip(cell.gates, cell.bias_ih.chunk(len(cell.gates)), strict=True))
    spans = (sign * blocks[gate]).exp()
    assert spans.min() >= 1
    assert spans.max() <= 99
    assert abs(spans.mean() - 50) < 5
    if gate == "f":
        assert torch.equal(blocks["i"], -blocks["f"])


def test_chrono_units_forget_over_their_time() -> None:
    """An LSTM with no input and no other weight forgets to 1/e over about exp(b) + 1 steps."""
    cell = ns.LSTM(1, 50).double()
    for parameter in cell.parameters():
        torch.nn.init.zeros_(parameter)
    chrono_(cell, longest=60)
    c = torch.ones(1, 50).double()
    us = torch.zeros(40, 1, 1).double()
    _, end = ns.scan(cell, us, ns.LSTMState(torch.zeros_like(c), c), engine="reference")
    spans = cell.bias_ih.chunk(4)[1].exp() + 1
    assert torch.allclose(end.c[0], (1 - 1 / spans) ** 40)


def test_identity_holds_a_state_for_ever() -> None:
    cell = identity_(ns.Elman(3, 5, activation=torch.relu))
    h = torch.rand(2, 5)
    _, end = ns.scan(cell, torch.zeros(100, 2, 3), h, engine="reference")
    assert torch.equal(end, h)
    assert torch.equal(identity_(cell, 0.5).weight_hh, 0.5 * torch.eye(5))


def test_integrator_sums() -> None:
    """The state is nearly the leaky sum that the docstring states."""
    torch.manual_seed(1)
    cell = integrator_(ns.GRU(3, 64)).double()
    r, z, n = cell.weight_hh.chunk(3)
    for gate in (r, z):
        assert torch.allclose(gate @ gate.T, 0.01 * torch.eye(64).double(), atol=1e-7)
    assert torch.equal(n, torch.eye(64).double())
    assert cell.bias_ih.tolist() == [2.0] * 64 + [0.0] * 128
    assert not cell.bias_hh.any()
    assert abs(cell.weight_ih.std() - 0.05) < 0.01
    assert off_the_sum(cell) < 0.1
    assert off_the_sum(ns.GRU(3, 64).double()) > 0.5, "an untouched GRU must not pass"


@torch.no_grad()
def off_the_sum(cell: ns.GRU) -> float:
    """How far the state after 12 inputs is from the leaky sum of what each would write alone, relatively."""
    us, sizes = 0.1 * torch.randn(12, 1, 3).double(), cell.hidden_size
    _, end = ns.scan(cell, us, engine="reference")
    keep = 1 - 0.5 * (1 - torch.sigmoid(torch.tensor(2.0).double()))
    total = sum(keep ** (11 - t) * 0.5 * us[t] @ cell.weight_ih[2 * sizes :].T for t in range(12))
    return float((end - total).norm() / end.norm())


def test_draws_repeat_with_a_generator() -> None:
    def drawn(start, **options) -> list[torch.Tensor]:
        cell = ns.GRU(3, 5)
        start(cell, generator=torch.Generator().manual_seed(4), **options)
        return [cell.weight_hh, cell.bias_ih[5:10]] if start is integrator_ else [cell.weight_hh]

    for start in (orthogonal_recurrent_, integrator_):
        assert all(torch.equal(a, b) for a, b in zip(drawn(start), drawn(start), strict=True))
    one, other = (chrono_(ns.LSTM(3, 5), 9, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(one.bias_ih[:10], other.bias_ih[:10])


@pytest.mark.parametrize(
    ("attempt", "told"),
    [
        (lambda: orthogonal_recurrent_(ns.MinGRU(3, 5)), "MinGRU has no weight_hh"),
        (lambda: forget_bias_(ns.Elman(3, 5)), "Elman has no gate that keeps"),
        (lambda: chrono_(ns.GRU(3, 5), 2), "longest is 2; expected an integer >= 3"),
        (lambda: chrono_(ns.Residual(ns.GRU(5, 5)), 9), "Residual has no gate that keeps"),
        (lambda: identity_(ns.GRU(3, 5)), "expected an Elman cell, got GRU"),
        (lambda: integrator_(ns.LSTM(3, 5)), "expected a GRU, got LSTM"),
    ],
)
def test_refusals(attempt, told: str) -> None:
    with pytest.raises(ns.InputError, match=told):
        attempt()
