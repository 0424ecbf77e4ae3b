"""Loops under PyTorch's own transforms: second derivatives, forward mode, vmap, autocast, other devices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import nextstate as ns
from agreement import Outcome, Runner, assert_close, on, outcome
from catalogue import BY_NAME, random_state
from nextstate.engines.registry import has_bf16
from nextstate.states import Tree, leaves, tree_map

names = pytest.mark.parametrize("name", ["GRU", "LSTM", "LayerNormGRU"])
LENGTHS = torch.tensor([3, 1])


@names
def test_second_derivatives(name: str) -> None:
    cell = BY_NAME[name].cell(2, 3)
    us = torch.randn(3, 2, 2).double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda us: ns.scan(cell, us, lengths=LENGTHS)[0], us, fast_mode=True)


@names
@pytest.mark.filterwarnings("ignore::nextstate.FallbackWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own first use of jvp
def test_forward_mode_is_the_finite_difference(name: str) -> None:
    cell = BY_NAME[name].cell(2, 3)
    us, du = torch.randn(3, 2, 2).double(), torch.randn(3, 2, 2).double()
    _, tangent = torch.func.jvp(lambda us: ns.scan(cell, us, lengths=LENGTHS)[0], (us,), (du,))
    ahead, behind = (ns.scan(cell, us + sign * 1e-6 * du, lengths=LENGTHS)[0] for sign in (1, -1))
    assert_close(tangent, (ahead - behind) / 2e-6, 1e-7)


@names
@pytest.mark.filterwarnings("ignore::nextstate.FallbackWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_vmap_over_an_ensemble_of_parameters(name: str, dtype: torch.dtype) -> None:
    cells = [BY_NAME[name].cell(2, 3, dtype) for _ in range(4)]
    us = torch.randn(3, 2, 2, dtype=dtype)
    stacked = {k: torch.stack([dict(c.named_parameters())[k] for c in cells]) for k in cells[0].state_dict()}
    loop = Loop(cells[0])

    def run(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(loop, {f"cell.{k}": p for k, p in parameters.items()}, (us,))

    together = torch.vmap(run)(stacked)
    assert_close(together, torch.stack([ns.scan(cell, us)[0] for cell in cells]))


class Loop(torch.nn.Module):
    def __init__(self, cell: ns.Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, us: Tensor) -> Tensor:
        return ns.scan(self.cell, us)[0]


@pytest.mark.filterwarnings("ignore::nextstate.FallbackWarning")
def test_autocast_stays_near_the_full_precision() -> None:
    cell, us = BY_NAME["GRU"].cell(dtype=torch.float32), torch.randn(5, 2, 3)
    full, _ = ns.scan(cell, us)
    with torch.autocast("cpu", torch.bfloat16):
        vs, _ = ns.scan(cell, us)
    assert (vs - full).abs().max() < 0.05


def public(cell: ns.Cell, us: Tree, s0: Tree, lengths: torch.Tensor | None) -> tuple[Tree, Tree]:
    return ns.scan(cell, us, s0, lengths=lengths)


def under_autocast(run: Runner, name: str, ragged: bool) -> tuple[Outcome, Outcome]:
    """Outputs, last state and every gradient: with autocast to bfloat16, and without."""
    cell, us = BY_NAME[name].cell(33, 48, torch.float32), torch.randn(7, 5, 33)
    s0 = random_state(cell, 5, torch.float32)
    lengths = torch.tensor([7, 0, 3, 7, 1]) if ragged else None
    full = outcome(public, cell, us, s0, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        return outcome(run, cell, us, s0, lengths), full


def check_bfloat16(half: Outcome, full: Outcome) -> None:
    """Everything is off by the rounding of products to bfloat16, nothing by more, and is float32 itself."""
    for name, exact in full.items():
        error = float((half[name] - exact).detach().norm() / exact.detach().norm())
        assert half[name].dtype is torch.float32
        assert 1e-4 < error < 0.05, f"{name} is off by {error:.1e}"


bfloat16_cells = pytest.mark.parametrize("name", ["GRU", "LSTM", "LayerNormGRU"])
raggedness = pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])


@pytest.mark.skipif(not has_bf16(), reason="this processor does not multiply in bfloat16")
@bfloat16_cells
@raggedness
def test_the_engine_multiplies_in_bfloat16_under_autocast(name: str, ragged: bool) -> None:
    check_bfloat16(*under_autocast(public, name, ragged))


@pytest.mark.skipif(has_bf16(), reason="this processor multiplies in bfloat16")
@bfloat16_cells
@raggedness
def test_autocast_changes_nothing_where_there_is_no_bfloat16(name: str, ragged: bool) -> None:
    half, full = under_autocast(public, name, ragged)
    assert all(torch.equal(half[key], full[key]) for key in full)


@bfloat16_cells
@raggedness
def test_bfloat16_of_torch_passes_that_check_and_float32_does_not(name: str, ragged: bool) -> None:
    half, full = under_autocast(on("reference"), name, ragged)
    check_bfloat16(half, full)
    with pytest.raises(AssertionError, match="is off by"):
        check_bfloat16(full, full)
    for key in full:  # one of them at full precision, or wrong
        for wrong in (full[key], full[key] * 1.1):
            with pytest.raises(AssertionError, match="is off by"):
                check_bfloat16({**half, key: wrong}, full)


@names
def test_a_cell_without_values_gives_shapes(name: str) -> None:
    """On the meta device, with lengths left on the CPU."""
    cell = BY_NAME[name].cell(dtype=torch.float32).to("meta")
    us = torch.empty(3, 2, 3, device="meta")
    vs, sT = ns.scan(cell, us, lengths=LENGTHS)
    assert vs.shape == (3, 2, 5)
    assert all(x.is_meta for x in (vs, *leaves(sT)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@pytest.mark.filterwarnings("ignore::nextstate.FallbackWarning")
@names
def test_a_gpu_computes_the_same(name: str) -> None:
    """With lengths on the CPU and on the GPU."""
    cell, us = BY_NAME[name].cell(), torch.randn(3, 2, 3).double()
    s0 = random_state(cell, 2)
    expected = ns.scan(cell, us, s0, lengths=LENGTHS)
    cell.to("cuda")
    for lengths in (LENGTHS, LENGTHS.cuda()):
        found = ns.scan(cell, us.cuda(), tree_map(Tensor.cuda, s0), lengths=lengths)
        assert_close(tree_map(Tensor.cpu, found), expected)


def test_gradients_flow_through_a_copied_and_a_moved_cell() -> None:
    """An engine that keeps something about a cell does not keep too much."""
    cell, us = BY_NAME["GRU"].cell(dtype=torch.float32), torch.randn(4, 2, 3)
    before, _ = ns.scan(cell, us)
    with torch.no_grad():
        cell.weight_hh.mul_(2)
    after, _ = ns.scan(cell, us)
    assert not torch.allclose(before, after)
    cell.weight_ih = torch.nn.Parameter(torch.zeros_like(cell.weight_ih))
    vs, _ = ns.scan(cell, us)
    assert_close(vs, ns.scan(cell, us, engine="reference")[0])
    vs.sum().backward()
    assert cell.weight_ih.grad.ne(0).all()
    assert_close(ns.scan(cell.double(), us.double())[0].float(), vs.detach())
