"""Names for the tensors of a tree."""

from __future__ import annotations

from torch import Tensor

from nextstate.states import Tree


def paths(prefix: str, tree: Tree) -> list[str]:
    """A name for each tensor of a tree: s0, or s0_h and s0_c, or s0_0_h, ..."""
    if isinstance(tree, Tensor):
        return [prefix]
    fields = getattr(tree, "_fields", range(len(tree)))
    return [x for name, part in zip(fields, tree, strict=True) for x in paths(f"{prefix}_{name}", part)]
