"""Threads that share the weights of one step, of up to four rows: the same bits as one thread.

The package of these tests asks for threads in the smallest run (`conftest.py`), so that they do share.
"""

from __future__ import annotations

import pytest
import torch

import nextstate as ns
from catalogue import randomise_


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(
    ("kind", "weights"),
    [(ns.GRU, "float32"), (ns.GRU, "bfloat16"), (ns.GRU, "int8"), (ns.LayerNormGRU, "float32")],
)
def test_a_step_of_several_threads(
    kind: type[ns.Cell], weights: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = randomise_(kind(176, 160), 0.1)
    us, found = torch.randn(20, batch, 176), []
    for count in (1, 2, 3):
        monkeypatch.setattr("nextstate.engines.threads._chosen", count)
        session = ns.Session(cell if weights == "float32" else ns.Quantised(cell, weights), batch_size=batch)
        found.append(torch.stack([session.step(u) for u in us]))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
