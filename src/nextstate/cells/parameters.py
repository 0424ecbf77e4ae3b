"""What the built-in cells share: size checks and PyTorch's uniform start."""

from __future__ import annotations

import math

from torch import Tensor, nn

from nextstate.checks import describe, refuse


def check_sizes(cell: str, *sizes: int) -> None:
    for size in sizes:
        if not isinstance(size, int) or size < 1:
            refuse(cell, f"sizes are {sizes}; each must be an integer >= 1")


def check_input(cell: str, u: Tensor, input_size: int, h: Tensor, hidden_size: int) -> None:
    """One step's input and state have the sizes the cell was made with."""
    if not isinstance(u, Tensor) or u.dim() != 2 or u.shape[1] != input_size:
        refuse(
            cell,
            f"the input of one step is {describe(u)}; expected [B, {input_size}], "
            f"so a sequence is [T, B, {input_size}]",
        )
    if not isinstance(h, Tensor) or h.dim() != 2 or h.shape[1] != hidden_size:
        refuse(cell, f"the state is {describe(h)}; expected [B, {hidden_size}]")


def check_pair(cell: str, s: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The state of an LSTM is (h, c)."""
    if not isinstance(s, tuple) or len(s) != 2:
        refuse(cell, f"the state is {describe(s)}; expected a pair (h, c)")
    return s


def uniform_(module: nn.Module, hidden_size: int) -> None:
    """Every parameter drawn from U(-1/sqrt(H), 1/sqrt(H)), in order: the start of `torch.nn`."""
    bound = 1 / math.sqrt(hidden_size)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -bound, bound)
