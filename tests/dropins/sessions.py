"""Cells to stream with, and what counts as the same."""

from __future__ import annotations

import torch

import nextstate as ns
from catalogue import randomise_
from nextstate.states import leaves


def made(kind: type[ns.Cell], inputs: int, hidden: int) -> ns.Cell:
    return randomise_(kind(inputs, hidden, *((16,) if kind is ns.ProjectedLSTM else ()))).eval()


def equal(one, other) -> bool:
    pairs = zip(leaves(one), leaves(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
