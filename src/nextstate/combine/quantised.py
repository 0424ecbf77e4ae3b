"""A cell whose weights need fewer bytes."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from nextstate.cell import Cell
from nextstate.checks import refuse
from nextstate.combine.wrapper import Wrapper
from nextstate.states import Tree

FORMATS = ("bfloat16", "int8")


class Quantised(Wrapper):
    """A cell with its matrices rounded to `weights`: "bfloat16" or "int8".

    Quantised : Cell (u, s) -> (v, s')  =>  Cell (u, s) -> (v, s')

        bfloat16:  w <- the nearest bfloat16
        int8:      w <- q a,  q = round(w / a) in -127..127,  a = max |w| / 127 over the row of w

    Shapes: as the cell; rows are outputs, as in `torch.nn.Linear`. Biases and states stay float32. The cell
    is copied, its numbers are rounded once and no longer trained.

    The rounded numbers are stored as float32 and run everywhere; a `Session` keeps them in two bytes or one
    and reads that much less for each step. Outputs of fresh GRUs with H = 64 to 512 err by at most 0.0034
    (bfloat16) and 0.008 (int8) over 1000 steps of N(0, 1) inputs; a trained network has to be tried.

    Raises InputError for another format, and for a cell whose weights are computed from others in every call
    (weight_norm, spectral_norm, pruning): rounding those would not round the weights.

    >>> from nextstate import GRU, Session
    >>> cell = GRU(16, 32)
    >>> small = Quantised(cell, "int8")
    >>> us = torch.randn(20, 16)
    >>> error = (Session(small).feed(us) - Session(cell).feed(us)).abs().max()
    >>> bool(0 < error < 0.02)
    True
    """

    def __init__(self, cell: Cell, weights: str) -> None:
        if weights not in FORMATS:
            refuse("Quantised", f"weights is {weights!r}; expected one of {', '.join(FORMATS)}")
        _check_own_weights(cell)
        super().__init__(copy.deepcopy(cell))
        self.weights = weights
        for parameter in self.cell.parameters():
            parameter.requires_grad_(False)
            if parameter.dim() >= 2 and parameter.is_floating_point():
                parameter.copy_(_rounded(parameter, weights))

    def forward(self, u: Tree, s: Tree) -> tuple[Tree, Tree]:
        return self.cell(u, s)


def _check_own_weights(cell: Cell) -> None:
    """A hook keeps a weight as an attribute and its source as the parameter NAME_v or NAME_orig."""
    for name, part in cell.named_modules():
        if nn.utils.parametrize.is_parametrized(part):
            computed, off = [*part.parametrizations], "nn.utils.parametrize.remove_parametrizations"
        else:
            sources = [key for key in part._parameters if key.endswith(("_v", "_orig"))]
            computed = [key.rpartition("_")[0] for key in sources]
            computed = [key for key in computed if isinstance(vars(part).get(key), Tensor)]
            off = "nn.utils.remove_weight_norm, remove_spectral_norm or prune.remove"
        if computed:
            where = ".".join(filter(None, (name, ", ".join(computed))))
            refuse("Quantised", f"{where} is computed anew in every call; make it a parameter first by {off}")


def _rounded(w: Tensor, weights: str) -> Tensor:
    if weights == "bfloat16":
        return w.to(torch.bfloat16).to(w.dtype)
    unit = row_units(w)
    return (w / unit).round() * unit


def row_units(w: Tensor) -> Tensor:
    """What one step of a byte stands for in each row; 1 in a row of zeros."""
    unit = w.abs().amax(-1, keepdim=True) / 127
    return unit.where(unit > 0, 1)
