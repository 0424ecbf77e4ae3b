"""torch.nn's networks beside ours, with the same parameters: one function of both to compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import nextstate as ns
from agreement import Outcome, gradients
from nextstate.lengths import reverse_valid
from nextstate.states import Tree, leaves

PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


@dataclass(frozen=True)
class Peer:
    name: str
    torch: Callable[..., nn.RNNBase]
    """(input size, hidden size, num_layers, bidirectional) -> torch network"""
    cell: Callable[[int, int], ns.Cell]


PROJECTION = 3
PEERS = (
    Peer("RNN tanh", nn.RNN, ns.Elman),
    Peer(
        "RNN relu",
        lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k),
        lambda i, h: ns.Elman(i, h, activation=torch.relu),
    ),
    Peer("GRU", nn.GRU, ns.GRU),
    Peer("LSTM", nn.LSTM, ns.LSTM),
    Peer(
        "LSTM projected",
        lambda *a, **k: nn.LSTM(*a, proj_size=PROJECTION, **k),
        lambda i, h: ns.ProjectedLSTM(i, h, PROJECTION),
    ),
)


def cells_of(peer: Peer, network: nn.RNNBase) -> dict[str, ns.Cell]:
    """Our cells with the very parameters of the torch network, by torch's suffix: l0, l0_reverse, l1, ..."""
    cells = {}
    for layer in range(network.num_layers):
        for suffix in (f"l{layer}", f"l{layer}_reverse")[: 1 + network.bidirectional]:
            theirs = {name: getattr(network, f"{name}_{suffix}", None) for name in PARAMETERS}
            theirs = {name: x for name, x in theirs.items() if x is not None}
            cell = peer.cell(theirs["weight_ih"].shape[1], network.hidden_size)
            cell = cell.to(theirs["weight_ih"].dtype)
            cell.load_state_dict({name: x.detach() for name, x in theirs.items()})
            cells[suffix] = cell
    return cells


def their_outcome(network: nn.RNNBase, us: Tensor, s0: Tree, lengths: Tensor | None) -> Outcome:
    """torch's outputs, final state and gradients; ragged rows go through a packed sequence."""
    us, s0 = us.clone().requires_grad_(), tuple(s.clone().requires_grad_() for s in s0)
    start = s0 if len(s0) == 2 else s0[0]
    if lengths is None:
        vs, end = network(us, start)
    else:
        packed = nn.utils.rnn.pack_padded_sequence(us, lengths, enforce_sorted=False)
        vs, end = network(packed, start)
        vs, _ = nn.utils.rnn.pad_packed_sequence(vs, total_length=us.shape[0])
    found = {"v": vs} | {f"s {k}": s for k, s in enumerate(leaves(end))}
    wanted = {"u": us} | {f"s0 {k}": s for k, s in enumerate(s0)}
    return {**found, **gradients(found, wanted | dict(network.named_parameters()))}


def our_outcome(
    cells: dict[str, ns.Cell], us: Tensor, s0: Tree, lengths: Tensor | None, engine: str
) -> Outcome:
    """The same from our cells, layer by layer; states [layers x directions, B, H] in torch's order."""
    x = us = us.clone().requires_grad_()
    s0 = tuple(s.clone().requires_grad_() for s in s0)
    ends, layer = [], []
    for k, (suffix, cell) in enumerate(cells.items()):
        start = ns.LSTMState(s0[0][k], s0[1][k]) if len(s0) == 2 else s0[0][k]
        back = suffix.endswith("reverse")
        read = reverse_valid(x, lengths) if back else x
        vs, end = ns.scan(cell, read, start, lengths=lengths, engine=engine)
        layer.append(reverse_valid(vs, lengths) if back else vs)
        ends.append(leaves(end))
        if f"{suffix}_reverse" not in cells:
            x, layer = torch.cat(layer, -1), []
    found = {"v": x} | {f"s {k}": torch.stack(parts) for k, parts in enumerate(zip(*ends, strict=True))}
    wanted = {"u": us} | {f"s0 {k}": s for k, s in enumerate(s0)}
    for suffix, cell in cells.items():
        wanted |= {f"{name}_{suffix}": p for name, p in cell.named_parameters()}
    return {**found, **gradients(found, wanted)}
