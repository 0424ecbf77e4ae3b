"""States, inputs and outputs are trees: a tensor, or a tuple or NamedTuple of trees. Immutable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

Tree = Any
"""A tensor, or a (named) tuple of trees. An empty tuple is the state of a cell without memory."""


def leaves(tree: Tree) -> list[Tensor]:
    """The tensors of a tree, in order.

    >>> import torch
    >>> [tuple(x.shape) for x in leaves((torch.zeros(2, 3), (torch.zeros(2), ())))]
    [(2, 3), (2,)]
    """
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, tuple):
        return [leaf for part in tree for leaf in leaves(part)]
    raise TypeError(f"expected a tensor or a tuple of tensors, got {type(tree).__name__}")


def rebuild(like: Tree, new_leaves: Sequence[Tensor] | Iterator[Tensor]) -> Tree:
    """A tree of the structure of `like` (NamedTuples kept) that holds `new_leaves` in order."""
    source = iter(new_leaves)
    if isinstance(like, Tensor):
        return next(source)
    parts = [rebuild(part, source) for part in like]
    return type(like)(*parts) if hasattr(like, "_fields") else tuple(parts)


def tree_map(function: Callable[..., Tensor], tree: Tree, *others: Tree) -> Tree:
    """`function` applied to the corresponding tensors of trees of equal structure."""
    columns = [leaves(tree), *(leaves(other) for other in others)]
    return rebuild(tree, [function(*row) for row in zip(*columns, strict=True)])


def select(keep: Tensor, new: Tree, old: Tree) -> Tree:
    """Row by row: `new` where `keep` [B] is true, else `old`."""
    return tree_map(lambda a, b: a.where(keep.reshape(-1, *[1] * (a.dim() - 1)), b), new, old)


def zeros_like(tree: Tree) -> Tree:
    return tree_map(lambda leaf: leaf.new_zeros(()).expand(leaf.shape), tree)
