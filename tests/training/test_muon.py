"""Muon: steps of one size in all directions, a gate at a time; Adam for the rest; same bits when resumed."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nextstate as ns
from nextstate.training import Checkpoints, Indexed, Loss, Muon, Steps, TrainState, fit


def moved(gradient: Tensor) -> Tensor:
    """What one step with this gradient adds to the recurrent matrix of a GRU, over the learning rate."""
    cell = ns.GRU(4, 8)
    before = cell.weight_hh.detach().clone()
    cell.weight_hh.grad = gradient.clone()
    Muon(cell, lr=0.5).step()
    return (before - cell.weight_hh.detach()) / 0.5


def test_every_gate_moves_by_singular_values_near_one():
    torch.manual_seed(0)
    scales = torch.tensor([1e-3, 1.0, 1e3]).repeat_interleave(8)[:, None]
    values = torch.linalg.svdvals(moved(scales * torch.randn(24, 8)).unflatten(0, (3, 8)))
    assert ((values > 0.3) & (values < 1.3)).all(), values


def test_a_gate_does_not_hear_of_the_others():
    torch.manual_seed(0)
    gradient = torch.randn(24, 8)
    other = gradient.clone()
    other[8:] = torch.randn(16, 8)
    torch.testing.assert_close(moved(gradient)[:8], moved(other)[:8])
    assert not torch.allclose(moved(gradient)[8:], moved(other)[8:])


def test_wide_matrices_and_zeros():
    wide = ns.GRU(20, 4)
    before = wide.weight_ih.detach().clone()
    wide.weight_ih.grad, wide.weight_hh.grad = torch.randn(12, 20), torch.zeros(12, 4)
    kept = wide.weight_hh.detach().clone()
    Muon(wide, lr=1.0).step()
    values = torch.linalg.svdvals((before - wide.weight_ih.detach()).unflatten(0, (3, 4)))
    assert ((values > 0.3) & (values < 1.3)).all(), values
    assert torch.equal(wide.weight_hh, kept), "no gradient, no step"


def test_all_else_moves_as_by_adam():
    torch.manual_seed(0)
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.load_state_dict(one.state_dict())
    ours, theirs = Muon(one, adam_lr=0.1), torch.optim.Adam(other.parameters(), lr=0.1, betas=(0.9, 0.98))
    for _ in range(5):
        for parameter, same in zip(one.parameters(), other.parameters(), strict=True):
            parameter.grad = torch.randn_like(parameter)
            same.grad = parameter.grad.clone()
        ours.step(), theirs.step()
    for parameter, same in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter, same, rtol=1e-5, atol=1e-7)


def test_only_matrices_of_cells_that_name_their_gates():
    network = nn.ModuleList(
        [ns.ProjectedLSTM(3, 8, 4), nn.Linear(3, 3), ns.FunctionCell(lambda u, s: (u, s), lambda b: 0)]
    )
    found = {group["blocks"]: len(group["params"]) for group in Muon(network).param_groups}
    assert found == {4: 2, 0: 5}, "weight_ih and weight_hh; both biases, weight_hr, and what Linear has"


def run(folder: Path | None, steps: int) -> list[Tensor]:
    torch.manual_seed(0)
    network = nn.ModuleDict({"cell": ns.GRU(3, 8), "readout": nn.Linear(8, 2)})
    generator = [torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(k)) for k in range(12)]

    def loss(model: nn.Module, us: Tensor, carry: object) -> Loss:
        return Loss(
            nn.functional.cross_entropy(
                model.readout(ns.scan(model.cell, us)[0][-1]), (us[0, :, 0] > 0).long()
            )
        )

    state = TrainState(network, Muon(network), Indexed(lambda k: generator[k]))
    checkpoints = None if folder is None else Checkpoints(folder, every=3)
    for record in fit(state, loss, Steps(12), report_every=1, checkpoints=checkpoints):
        if record.step == steps:
            break
    return [p.detach().clone() for p in network.parameters()]


def test_a_run_taken_up_again_ends_with_the_same_bits(tmp_path: Path):
    whole = run(None, 12)
    cut = run(tmp_path, 7)
    assert not all(map(torch.equal, whole, cut))
    assert all(map(torch.equal, whole, run(tmp_path, 12)))


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"adam_lr": float("nan")}, {"lr": -1.0}])
def test_learning_rates_are_above_zero(wrong: dict[str, float]):
    with pytest.raises(ns.InputError, match="Muon"):
        Muon(ns.GRU(2, 3), **wrong)


def test_a_module_without_parameters():
    with pytest.raises(ns.InputError, match="no parameters"):
        Muon(nn.ReLU())
