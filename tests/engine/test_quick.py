"""The short cut without gradients, when other calls come in between."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import nextstate as ns
from nextstate.run import ENGINES


def scan(cell: ns.Cell, us: Tensor, engine: str = "cpu") -> Tensor:
    with torch.no_grad():
        return ns.scan(cell, us, engine=engine)[0]


def test_many_threads():
    cell, us = ns.GRU(16, 16), torch.randn(3, 2, 16)
    want = scan(cell, us).numpy().tobytes()
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda _: scan(cell, us).numpy().tobytes(), range(60))
        assert set(found) == {want}


def test_weights_that_move_during_a_call():
    """The workspace of a call that began before points at the old weights: no later call may have it."""
    cell, us = ns.GRU(16, 16), torch.randn(1, 1, 16)
    scan(cell, us), scan(cell, us)  # compiled, then short
    (quick,) = ENGINES["cpu"].known[cell].quick.values()
    native, bound = quick.bound.native, quick.bound
    old = [p.data for p in cell.parameters()]

    def run(*arguments: Any) -> None:
        quick.bound = bound
        native.run(*arguments)
        for parameter in cell.parameters():
            parameter.data = parameter.data.clone()
        scan(cell, us)  # the other call

    quick.bound = SimpleNamespace(native=SimpleNamespace(run=run, pack=native.pack), work=bound.work)
    scan(cell, us)
    assert quick.bound is bound, "the short cut was taken"
    for weight in old:
        weight.fill_(torch.nan)
    torch.testing.assert_close(scan(cell, us), scan(cell, us, "reference"))


def test_a_write_through_data_is_seen():
    """Torch does not count it, and a state that some of the weights are old would be that of no network."""
    for cell in (ns.GRU(16, 32), ns.Embedded(ns.LSTM(16, 32), 9, 16)):
        for steps, rows in ((1, 1), (7, 3)):
            us = (
                torch.randint(9, (steps, rows))
                if isinstance(cell, ns.Embedded)
                else torch.randn(steps, rows, 16)
            )
            scan(cell, us), scan(cell, us)
            for parameter in cell.parameters():
                parameter.data.mul_(1.3)
            torch.testing.assert_close(scan(cell, us), scan(cell, us, "reference"))


def test_one_value_is_seen_where_all_are_looked_at():
    cell, us = ns.GRU(16, 16), torch.randn(48, 1, 16)  # 16 values a row: all 768 of a matrix
    scan(cell, us), scan(cell, us)
    cell.weight_hh.data[5, 3] += 1
    torch.testing.assert_close(scan(cell, us), scan(cell, us, "reference"))
