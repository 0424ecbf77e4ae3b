"""A torch layer and ours, made alike; every call of both; what counts as the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import nextstate as ns
from agreement import Outcome, gradients

INPUT, HIDDEN, STEPS, BATCH = 3, 5, 7, 4
LENGTHS = torch.tensor([3, 7, 1, 4])

LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "RNN": ("RNN", {}),
    "RNN relu, two layers, no bias": (
        "RNN", {"nonlinearity": "relu", "num_layers": 2, "bias": False},
    ),
    "GRU": ("GRU", {}),
    "GRU, no bias, batch first": ("GRU", {"bias": False, "batch_first": True}),
    "GRU, two layers, both directions, dropout": (
        "GRU", {"num_layers": 2, "bidirectional": True, "dropout": 0.5},
    ),
    "LSTM": ("LSTM", {}),
    "LSTM, three layers, batch first, dropout": (
        "LSTM", {"num_layers": 3, "batch_first": True, "dropout": 0.3},
    ),
    "LSTM, both directions, no bias": ("LSTM", {"bidirectional": True, "bias": False}),
    "LSTM projected": ("LSTM", {"proj_size": 2}),
    "LSTM projected, two layers, both directions": (
        "LSTM", {"proj_size": 2, "num_layers": 2, "bidirectional": True},
    ),
}  # fmt: skip

CELLS: dict[str, tuple[str, dict[str, Any]]] = {
    "RNNCell": ("RNNCell", {}),
    "RNNCell relu": ("RNNCell", {"nonlinearity": "relu"}),
    "GRUCell": ("GRUCell", {}),
    "GRUCell, no bias": ("GRUCell", {"bias": False}),
    "LSTMCell": ("LSTMCell", {}),
    "LSTMCell, no bias": ("LSTMCell", {"bias": False}),
}


def pair(kind: str, options: dict[str, Any], dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """torch's module and ours with the same constructor call and random non-zero parameters."""
    theirs = getattr(nn, kind)(INPUT, HIDDEN, dtype=dtype, **options)
    mine = getattr(ns.nn, kind)(INPUT, HIDDEN, dtype=dtype, **options)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0.05, 0.4)
    mine.load_state_dict(theirs.state_dict())
    return theirs, mine


def starts(layer: Any, batch: int | None = BATCH, dtype: torch.dtype = torch.float32) -> Any:
    """A random start of the shape that the layer wants."""
    first = layer.num_layers * (1 + layer.bidirectional), *(() if batch is None else (batch,))
    hidden = torch.randn(*first, layer.proj_size or layer.hidden_size, dtype=dtype)
    if not isinstance(layer, nn.LSTM):
        return hidden
    return hidden, torch.randn(*first, layer.hidden_size, dtype=dtype)


def dense(layer: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    us = torch.randn(STEPS, BATCH, INPUT, dtype=dtype)
    return us.transpose(0, 1).contiguous() if layer.batch_first else us


def packed(layer: Any, enforce_sorted: bool = False) -> Callable[[Tensor], PackedSequence]:
    lengths = LENGTHS.sort(descending=True).values if enforce_sorted else LENGTHS
    return lambda us: pack_padded_sequence(us, lengths, layer.batch_first, enforce_sorted)


def outcome(layer: nn.Module, us: Tensor, hx: Any = None, shape: Callable[..., Any] = lambda u: u) -> Outcome:
    """Outputs, last states, and gradients of random cotangents for us, hx and every parameter."""
    us = us.clone().requires_grad_()
    given = () if hx is None else tuple(h.clone().requires_grad_() for h in tensors(hx))
    start = None if hx is None else given if isinstance(hx, tuple) else given[0]
    torch.manual_seed(7)  # dropout draws the same
    found = {f"out {k}": x for k, x in enumerate(tensors(layer(shape(us), start)))}
    wanted = {"us": us} | {f"hx {k}": h for k, h in enumerate(given)} | dict(layer.named_parameters())
    return {**found, **gradients(found, wanted)}


def tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, PackedSequence):
        return [x for x in tree if x is not None]
    return [tree] if isinstance(tree, Tensor) else [x for part in tree for x in tensors(part)]
