"""The loops under `torch.compile`: one opaque call in dynamo's graph, whose operators AOT autograd then sees.

Dynamo must not trace the engine (caches, compilation, predicates); it may only place the call. Trees travel
through it as `Boxed`, because dynamo cannot rebuild a NamedTuple that an opaque call returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nextstate.cell import Cell
from nextstate.states import Tree, leaves

LOOPS: dict[str, Callable[..., Any]] = {}
"""The public loops by name."""

_placed: Callable[..., Any] | None = None


class Boxed:
    """A tree as a list of tensors and the form to rebuild it."""

    def __init__(self, tree: Tree) -> None:
        self.parts, self.form = leaves(tree), form_of(tree)


def form_of(tree: Tree) -> Any:
    """None for a tensor, (type, forms of the parts) for a tuple."""
    return None if isinstance(tree, Tensor) else (type(tree), tuple([form_of(part) for part in tree]))


def formed(parts: list[Tensor], form: Any) -> Tree:
    """The tree of a form. Takes its tensors from the front of `parts`.

    >>> formed([1, 2], form_of((torch.zeros(1), ((), torch.zeros(1)))))
    (1, ((), 2))
    """
    if form is None:
        return parts.pop(0)
    kind, inner = form
    values = [formed(parts, f) for f in inner]
    return kind(*values) if hasattr(kind, "_fields") else kind(values)


pytree.register_pytree_node(
    Boxed, lambda box: (box.parts, box.form), lambda parts, form: formed([*parts], form)
)


def run(
    name: str, cell: Cell, us: Tree, s0: Tree | None, lengths: Tensor | None, engine: str
) -> tuple[Tree, Tree]:
    """The loop of that name as one call; traced by dynamo, which thereby guards on the cell's modes."""
    _prepare()
    assert _placed is not None
    given: dict[str, Any] = {"us": Boxed(us)}
    if s0 is not None:
        given["s0"] = Boxed(s0)
    if lengths is not None:
        given["lengths"] = lengths
    modes = [module.training for module in cell.modules()]
    out, s = _placed(name, cell, engine, modes, given)
    return out, s


def _loop(name: str, cell: Cell, engine: str, modes: list[bool], given: dict[str, Any]) -> list[Boxed]:
    # Rebuilt already: unflattening a `Boxed` gives the tree it stands for.
    return [Boxed(found) for found in LOOPS[name](cell, engine=engine, **given)]


def _prepare() -> None:
    """Register the opaque call. Dynamo runs this as Python, while it traces, so it is imported by then."""
    global _placed
    if _placed is None:
        _placed = torch._dynamo.nonstrict_trace(_loop)


_prepare._dynamo_marked_constant = True  # type: ignore[attr-defined]
