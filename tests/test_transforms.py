"""Loops under PyTorch's own transforms: second derivatives, forward mode, vmap, autocast, other devices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import nextstate as ns
from agreement import assert_close
from catalogue import BY_NAME, random_state
from nextstate.states import leaves, tree_map

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
