"""Errors and input checks: every refusal restates what was asked and says what would be right."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from nextstate.states import Tree, leaves


class InputError(ValueError):
    """An argument that cannot be right: the message names the operation, the argument and its shape.

    >>> from nextstate import GRU, scan
    >>> scan(GRU(3, 5), torch.ones(7, 3, 4))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    nextstate.checks.InputError: GRU: the input of one step is (3, 4) float32; expected [B, 3], ...
    """


class EngineError(RuntimeError):
    """An engine that was asked for by name cannot run this cell on this input; the message says why.

    >>> issubclass(EngineError, RuntimeError)
    True
    """


class FallbackWarning(UserWarning):
    """A cell runs on the reference engine because it cannot run on a faster one; given once a reason.

    >>> import warnings
    >>> warnings.simplefilter("error", FallbackWarning)  # a program that would rather stop than be slow
    """


def refuse(operation: str, complaint: str) -> NoReturn:
    raise InputError(f"{operation}: {complaint}")


def describe(tree: Tree) -> str:
    """Shape and dtype of every tensor in a tree, for messages."""
    if isinstance(tree, Tensor):
        return f"{tuple(tree.shape)} {str(tree.dtype).removeprefix('torch.')}"
    if isinstance(tree, tuple):
        return "(" + ", ".join(describe(part) for part in tree) + ")"
    return type(tree).__name__


def parts_of(operation: str, name: str, tree: Tree) -> list[Tensor]:
    """The tensors of an argument, which must be a tensor or a tuple of such."""
    try:
        return leaves(tree)
    except TypeError:
        refuse(operation, f"{name} is {describe(tree)}; expected a tensor or a tuple of tensors")


def check_sequence(operation: str, us: Tree) -> tuple[int, int]:
    """T and B of a time-first input; every tensor of the tree must be [T, B, ...]."""
    parts = parts_of(operation, "us", us)
    if not parts:
        refuse(operation, f"us holds no tensor (got {describe(us)}); it must be a tensor [T, B, ...]")
    for part in parts:
        if part.dim() < 2:
            refuse(
                operation,
                f"us has shape {tuple(part.shape)}, expected [T, B, ...] (time first). "
                "For one sequence without a batch write us.unsqueeze(1)",
            )
    steps, batch = parts[0].shape[:2]
    for part in parts[1:]:
        if part.shape[:2] != parts[0].shape[:2]:
            refuse(operation, f"the parts of us disagree on [T, B]: {describe(us)}")
        if part.device != parts[0].device:
            refuse(operation, f"the parts of us are on different devices: {parts[0].device}, {part.device}")
    return steps, batch


def check_state(operation: str, name: str, state: Tree, batch: int, device: torch.device) -> None:
    for part in parts_of(operation, name, state):
        if part.dim() < 1 or part.shape[0] != batch:
            refuse(
                operation,
                f"{name} is {describe(state)}, but the batch has {batch} rows: expected [{batch}, ...]",
            )
        if part.device != device:
            refuse(operation, f"{name} is on {part.device} and the input on {device}; move one of them")


def check_same_state(operation: str, before: Tree, after: Tree) -> None:
    """A step must hand on a state of the same structure, shapes and dtypes as it was given."""
    old, new = leaves(before), leaves(after)
    same = len(old) == len(new) and all(
        a.shape == b.shape and a.dtype == b.dtype for a, b in zip(old, new, strict=True)
    )
    if not same:
        refuse(
            operation,
            f"the step turned a state {describe(before)} into {describe(after)}; "
            "s' must have the structure, shapes and dtypes of s",
        )
