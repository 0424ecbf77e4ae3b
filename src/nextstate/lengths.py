"""Rows of different length in one padded batch: checks, masks, each row reversed at its own end."""

from __future__ import annotations

import torch
from torch import Tensor

from nextstate.checks import refuse
from nextstate.states import Tree, leaves, tree_map


def check_lengths(
    operation: str, lengths: Tensor | None, steps: int, batch: int, device: torch.device
) -> Tensor | None:
    """`lengths` as int64 [B] on the device of the input; None stays None (every row is full)."""
    if lengths is None:
        return None
    if not isinstance(lengths, Tensor):
        refuse(operation, f"lengths is a {type(lengths).__name__}; expected an integer tensor [{batch}]")
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        refuse(operation, f"lengths has dtype {lengths.dtype}; expected integers")
    if lengths.shape != (batch,):
        refuse(
            operation,
            f"lengths has shape {tuple(lengths.shape)}; the batch has {batch} rows: expected ({batch},)",
        )
    if lengths.is_meta and device.type != "meta":
        refuse(operation, f"lengths is on meta, without values, and the input on {device}")
    if batch and not lengths.is_meta and not torch.compiler.is_compiling():
        low, high = int(lengths.min()), int(lengths.max())
        if low < 0 or high > steps:
            refuse(
                operation, f"lengths run from {low} to {high}; each must lie in 0..{steps}, the steps of us"
            )
    return lengths.to(device=device, dtype=torch.int64)


def valid_steps(lengths: Tensor, steps: int) -> Tensor:
    """Boolean [T, B]: true where step t belongs to the row.

    >>> valid_steps(torch.tensor([2, 0, 3]), 3).int().tolist()
    [[1, 0, 1], [1, 0, 1], [0, 0, 1]]
    """
    return torch.arange(steps, device=lengths.device)[:, None] < lengths


def zero_padding(us: Tree, lengths: Tensor | None) -> Tree:
    """The sequence with everything after each row's own end set to zero (whatever stood there, NaN too)."""
    if lengths is None:
        return us
    valid = valid_steps(lengths, leaves(us)[0].shape[0])

    def clear(u: Tensor) -> Tensor:
        return u.where(valid.reshape(*valid.shape, *[1] * (u.dim() - 2)), u.new_zeros(()))

    return tree_map(clear, us)


def reverse_valid(us: Tree, lengths: Tensor | None) -> Tree:
    """Each row read from its own last valid step to its first; padding stays where it is.

    reverse_valid : ([u], lengths) -> [u], its own inverse.

    >>> reverse_valid(torch.tensor([[1, 5], [2, 6], [3, 0]]), torch.tensor([3, 2])).T.tolist()
    [[3, 2, 1], [6, 5, 0]]
    """
    if lengths is None:
        return tree_map(lambda u: u.flip(0), us)
    steps = leaves(us)[0].shape[0]
    time = torch.arange(steps, device=lengths.device)[:, None]
    source = (lengths - 1 - time).where(time < lengths, time)  # [T, B]
    rows = torch.arange(lengths.shape[0], device=lengths.device)
    return tree_map(lambda u: u[source, rows], us)


def first_step(vs: Tree) -> Tree:
    """The values [B, ...] at the first step of [T, B, ...], in memory of their own; zeros without steps.

    >>> first_step(torch.tensor([[1.0], [2.0]])), first_step(torch.zeros(0, 1))
    (tensor([1.]), tensor([0.]))
    """
    return tree_map(lambda v: v[0].clone() if len(v) else v.new_zeros(v.shape[1:]), vs)


def last_valid(vs: Tree, lengths: Tensor | None) -> Tree:
    """The value at each row's last valid step; zeros for a row of length 0."""
    parts = leaves(vs)
    steps = parts[0].shape[0] if parts else 0

    def pick(v: Tensor) -> Tensor:
        if steps == 0:
            return v.new_zeros(v.shape[1:])
        if lengths is None:
            return v[-1]
        rows = torch.arange(v.shape[1], device=v.device)
        last = v[(lengths - 1).clamp(min=0), rows]
        return last.where((lengths > 0).reshape(-1, *[1] * (last.dim() - 1)), last.new_zeros(()))

    return tree_map(pick, vs)
