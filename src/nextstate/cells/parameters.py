"""What the built-in cells share: size checks and PyTorch's uniform start."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nextstate.checks import describe, refuse


def check_sizes(cell: str, *sizes: int) -> None:
    for size in sizes:
        if not isinstance(size, int) or size < 1:
            refuse(cell, f"sizes are {sizes}; each must be an integer >= 1")


def check_input(cell: str, u: Tensor, weight: Tensor, h: Tensor, hidden_size: int) -> None:
    """One step's input and state have the sizes, dtype and device of the cell's `weight` [rows, I]."""
    input_size = weight.shape[1]
    if not isinstance(u, Tensor) or u.dim() != 2 or u.shape[1] != input_size:
        refuse(
            cell,
            f"the input of one step is {describe(u)}; expected [B, {input_size}], "
            f"so a sequence is [T, B, {input_size}]",
        )
    if not isinstance(h, Tensor) or h.shape != (u.shape[0], hidden_size):
        refuse(cell, f"the state is {describe(h)}; expected [B, {hidden_size}] with B = {u.shape[0]}")
    for name, x in (("input", u), ("state", h)):
        if x.device != weight.device:
            refuse(cell, f"the {name} is on {x.device} and the weights on {weight.device}; move one of them")
        autocast = weight.device.type != "meta" and torch.is_autocast_enabled(weight.device.type)
        if x.dtype != weight.dtype and not (autocast and x.is_floating_point()):
            refuse(
                cell,
                f"the {name} is {describe(x)} and the weights are "
                f"{str(weight.dtype).removeprefix('torch.')}; convert one of them with .to(dtype)",
            )


def uniform_(module: nn.Module, hidden_size: int) -> None:
    """Every parameter drawn from U(-1/sqrt(H), 1/sqrt(H)), in order: the start of `torch.nn`."""
    bound = 1 / math.sqrt(hidden_size)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -bound, bound)


def ones_(*gains: nn.Parameter) -> None:
    for gain in gains:
        nn.init.ones_(gain)
