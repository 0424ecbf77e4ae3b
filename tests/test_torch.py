"""Elman, GRU, LSTM and ProjectedLSTM are torch.nn's, to rounding: outputs, final states, every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nextstate as ns
from agreement import HERE, assert_agree
from catalogue import randomise_
from torch_peers import PEERS, PROJECTION, Peer, cells_of, our_outcome, their_outcome

peers = pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)


@peers
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("engine", HERE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (1, True), (2, True), (3, False)])
@pytest.mark.parametrize("lengths", [None, [5, 1, 7, 2]], ids=["full", "packed"])
def test_networks(
    peer: Peer,
    engine: str,
    dtype: torch.dtype,
    layers: int,
    bidirectional: bool,
    lengths: list[int] | None,
) -> None:
    if engine != "reference" and dtype != torch.float32:
        pytest.skip(f"engine {engine} is compared in float32; float64 is the reference engine's")
    network = randomise_(peer.torch(3, 5, num_layers=layers, bidirectional=bidirectional)).to(dtype)
    us = torch.randn(7, 4, 3, dtype=dtype)
    sizes = [PROJECTION if network.proj_size else 5] + [5] * isinstance(network, nn.LSTM)
    s0 = tuple(torch.randn(layers * (1 + bidirectional), 4, size, dtype=dtype) for size in sizes)
    ragged = None if lengths is None else torch.tensor(lengths)
    ours = our_outcome(cells_of(peer, network), us, s0, ragged, engine)
    assert_agree(ours, their_outcome(network, us, s0, ragged))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(ns.Elman, nn.RNNCell), (ns.GRU, nn.GRUCell), (ns.LSTM, nn.LSTMCell)],
    ids=lambda cell: cell.__name__,
)
def test_cells_exchange_parameters_with_torch_and_start_alike(ours, theirs) -> None:
    torch.manual_seed(3)
    cell = ours(3, 5)
    torch.manual_seed(3)
    peer = theirs(3, 5)
    assert list(cell.state_dict()) == list(peer.state_dict())
    for name, x in cell.state_dict().items():
        assert torch.equal(x, peer.state_dict()[name]), f"{name} starts elsewhere"
    randomise_(peer)
    cell.load_state_dict(peer.state_dict())
    peer.load_state_dict(cell.state_dict())
    u, h = torch.randn(2, 3), torch.randn(2, 5)
    if ours is ns.LSTM:
        v, (_, c) = cell(u, ns.LSTMState(h, 2 * h))
        h_next, c_next = peer(u, (h, 2 * h))
        torch.testing.assert_close(c, c_next)
    else:
        v, _ = cell(u, h)
        h_next = peer(u, h)
    torch.testing.assert_close(v, h_next)
