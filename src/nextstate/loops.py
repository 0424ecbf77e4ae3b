"""The meaning of every loop, in plain PyTorch. This is the reference engine; nothing here is fast."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nextstate.cell import Cell
from nextstate.checks import check_same_state
from nextstate.lengths import zero_padding
from nextstate.states import Tree, leaves, rebuild, select, tree_map, zeros_like


def scan(cell: Cell, us: Tree, s0: Tree, lengths: Tensor | None = None) -> tuple[Tree, Tree]:
    """scan : (cell, [u], s0) -> ([v], sT)

    A row with `lengths[b]` steps has zeros as outputs after them, and keeps its state.
    """
    us = zero_padding(us, lengths)
    s, vs = s0, []
    for t in range(leaves(us)[0].shape[0]):
        v, s_next = cell(tree_map(lambda u: u[t], us), s)  # noqa: B023  (called at once)
        check_same_state("scan", s, s_next)
        if lengths is not None:
            live = t < lengths
            v, s_next = select(live, v, zeros_like(v)), select(live, s_next, s)
        vs.append(v)
        s = s_next
    return (stack(vs) if vs else no_outputs(cell, us, s0)), s


def fold(cell: Cell, us: Tree, s0: Tree, lengths: Tensor | None = None) -> tuple[Tree, Tree]:
    """fold : (cell, [u], s0) -> (vT, sT), the output of each row's last step; zeros for an empty row."""
    us = zero_padding(us, lengths)
    s, last = s0, None
    for t in range(leaves(us)[0].shape[0]):
        v, s_next = cell(tree_map(lambda u: u[t], us), s)  # noqa: B023  (called at once)
        check_same_state("fold", s, s_next)
        if lengths is not None:
            live = t < lengths
            v, s_next = select(live, v, zeros_like(v) if last is None else last), select(live, s_next, s)
        last, s = v, s_next
    if last is None:
        last = tree_map(lambda v: v.new_zeros(v.shape[1:]), no_outputs(cell, us, s0))
    return last, s


def unfold(cell: Cell, s0: Tree, u0: Tree, steps: int, feed: Callable[[Tree], Tree]) -> tuple[Tree, Tree]:
    """unfold : (cell, s0, u0, feed) -> ([v], sT), each output fed back as the next input."""
    s, u, vs = s0, u0, []
    for _ in range(steps):
        v, s_next = cell(u, s)
        check_same_state("unfold", s, s_next)
        vs.append(v)
        s, u = s_next, feed(v)
    if not vs:
        us = tree_map(lambda u: u.new_zeros((0, *u.shape)), u0)
        return no_outputs(cell, us, s0), s0
    return stack(vs), s


def stack(vs: list[Tree]) -> Tree:
    columns = zip(*(leaves(v) for v in vs), strict=True)
    return rebuild(vs[0], [torch.stack(column) for column in columns])


def no_outputs(cell: Cell, us: Tree, s0: Tree) -> Tree:
    """Outputs of a sequence without steps: [0, B, ...], the shape asked of one step on zeros."""
    with torch.no_grad():
        v, _ = cell(tree_map(lambda u: u.new_zeros(u.shape[1:]), us), s0)
    return tree_map(lambda x: x.new_zeros((0, *x.shape)), v)
