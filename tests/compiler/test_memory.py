"""Memory of the engine: two forwards before one backward, several Python threads, forked processes."""

from __future__ import annotations

import multiprocessing
import threading

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import nextstate as ns
from agreement import assert_close
from catalogue import BY_NAME
from nextstate.states import leaves


def gradients(cell: ns.Cell, vs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(vs.sin().sum(), list(cell.parameters()))


@pytest.mark.parametrize("name", ["GRU", "LSTM", "LayerNormGRU"])
@pytest.mark.parametrize("lengths", [None, torch.tensor([9, 0, 4, 2])], ids=["full", "ragged"])
def test_forwards_before_backwards(name: str, lengths: Tensor | None) -> None:
    """Three forwards, backwards in another order, with what each gave when it ran alone."""
    cell = BY_NAME[name].cell(3, 20, torch.float32)
    inputs = [torch.randn(9, 4, 3) for _ in range(3)]
    alone = [gradients(cell, ns.scan(cell, us, lengths=lengths, engine="cpu")[0]) for us in inputs]
    together = [ns.scan(cell, us, lengths=lengths, engine="cpu")[0] for us in inputs]
    with torch.no_grad():
        ns.scan(cell, inputs[0], engine="cpu")
    for k in (1, 0, 2):
        for a, b in zip(gradients(cell, together[k]), alone[k], strict=True):
            assert torch.equal(a, b)


def test_results_outlive_later_calls() -> None:
    """Outputs and last states are the caller's: no later call writes to them."""
    cell = BY_NAME["LSTM"].cell(3, 20, torch.float32)
    with torch.no_grad():
        held = [ns.scan(cell, torch.randn(5, 4, 3), engine="cpu") for _ in range(3)]
        copies = [[x.clone() for x in leaves(found)] for found in held]
        for _ in range(5):
            ns.scan(cell, torch.randn(5, 4, 3), engine="cpu")
    for found, copy in zip(held, copies, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(leaves(found), copy, strict=True))


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_python_threads(training: bool) -> None:
    """One cell used by four threads at once, each with sizes of its own, from an untouched start."""
    cell = BY_NAME["GRU"].cell(3, 20, torch.float32)
    inputs = [torch.randn(5 + k, 2 + k, 3) for k in range(4)]
    expected = [ns.scan(cell, us, engine="reference")[0] for us in inputs]
    fresh = BY_NAME["GRU"].make(3, 20)
    fresh.load_state_dict(cell.state_dict())
    wrong: list[object] = []

    def work(k: int) -> None:
        try:
            for _ in range(15):
                with torch.set_grad_enabled(training):
                    vs, _ = ns.scan(fresh, inputs[k], engine="cpu")
                assert_close(vs, expected[k])
                if training:
                    torch.autograd.grad(vs.sum(), list(fresh.parameters()))
        except BaseException as error:  # a thread's failure is this test's
            wrong.append(error)

    team = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for member in team:
        member.start()
    for member in team:
        member.join()
    assert not wrong, wrong


class Encoded(Dataset):
    """A data set that runs a cell in the worker."""

    def __init__(self, cell: ns.Cell) -> None:
        self.cell = cell

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        us = torch.full((40, 8, 16), index / 10)
        vs, _ = ns.scan(self.cell, us, engine="cpu")
        vs.sum().backward()
        assert self.cell.weight_hh.grad is not None
        return vs.detach()[-1, 0]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_workers() -> None:
    """The parent has run the engine on two threads; a child of fork has none of them, and runs it again."""
    cell = ns.GRU(16, 64)
    torch.set_num_threads(2)
    try:
        expected = torch.stack([Encoded(cell)[k] for k in range(6)])
    finally:
        torch.set_num_threads(1)
    fork = multiprocessing.get_context("fork")
    loader = DataLoader(Encoded(cell), 6, num_workers=2, multiprocessing_context=fork, timeout=60)
    (found,) = loader
    assert_close(found, expected)
