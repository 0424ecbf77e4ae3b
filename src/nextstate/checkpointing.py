"""A long sequence in segments: less memory for the gradient, or a shorter reach of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nextstate.cell import Cell
from nextstate.checks import check_sequence, describe, refuse
from nextstate.lengths import check_lengths
from nextstate.run import request_for
from nextstate.states import Tree, leaves, rebuild, tree_map

Scan = Callable[..., tuple[Tree, Tree]]


def checkpointed(scan: Scan, *, every: int) -> Scan:
    """A scan that keeps only every k-th state for the gradient and computes the rest again.

    checkpointed : (scan, k) -> scan with the same outputs and gradients

    Of a sequence of T steps it keeps T/k states, beside inputs and outputs, and during the backward pass what
    one segment of k steps needs. The price is a second forward pass. Least memory: k about sqrt(T).
    Outputs, states and the gradients of us and s0 keep their bits; those of the parameters are summed segment
    by segment, so they agree to rounding, as does what is multiplied outside of the loop (a MinGRU, products
    of many ids). Noise that a step draws is drawn alike the second time. Of torch.func's
    transforms grad, vjp and jacrev raise; vmap, jvp and jacfwd pass, but no gradient goes back through them.

    Raises InputError for k < 1 and for a loop that is no scan. Source: Chen et al. 2016 (arXiv 1604.06174);
    over time, Gruslys et al. 2016 (arXiv 1606.03401).

    >>> import nextstate as ns
    >>> cell, us = ns.GRU(3, 16), torch.randn(100, 2, 3)
    >>> vs, sT = checkpointed(ns.scan, every=10)(cell, us)
    >>> torch.equal(vs, ns.scan(cell, us)[0])
    True
    """
    _check("checkpointed", scan, every)

    def run(
        cell: Cell, us: Tree, s0: Tree | None = None, *, lengths: Tensor | None = None, **options: Any
    ) -> tuple[Tree, Tree]:
        def segment(us: Tree, s: Tree, lengths: Tensor | None) -> tuple[Tree, Tree]:
            def again(*parts: Tensor) -> tuple[Tensor, ...]:
                u, state = rebuild((us, s), parts)
                vs, last = scan(cell, u, state, lengths=lengths, **options)
                forms[:] = vs, last
                return (*leaves(vs), *leaves(last))

            forms: list[Tree] = []
            found = checkpoint(again, *leaves((us, s)), use_reentrant=False)
            return rebuild(tuple(forms), found)

        return _in_segments("checkpointed", segment, every, cell, us, s0, lengths)

    return run


def truncated(scan: Scan, *, every: int) -> Scan:
    """A scan whose gradient goes back to the start of its segment of k steps, and no further.

    truncated : (scan, k) -> scan with the same outputs; no gradient passes from step i k to step i k - 1

    Truncated back-propagation through time with segments that do not overlap. The gradient of the last state
    ends with its segment too; that of s0 is cut only behind the first one.

    Raises InputError for k < 1 and for a loop that is no scan. Source: Williams and Peng 1990.

    >>> import nextstate as ns
    >>> us = torch.ones(6, 1, 3, requires_grad=True)
    >>> truncated(ns.scan, every=4)(ns.GRU(3, 16), us)[0][-1].sum().backward()
    >>> us.grad.abs().sum((1, 2)).ne(0).tolist()
    [False, False, False, False, True, True]
    """
    _check("truncated", scan, every)

    def run(
        cell: Cell, us: Tree, s0: Tree | None = None, *, lengths: Tensor | None = None, **options: Any
    ) -> tuple[Tree, Tree]:
        given = s0

        def segment(us: Tree, s: Tree, lengths: Tensor | None) -> tuple[Tree, Tree]:
            start = s if s is given else tree_map(Tensor.detach, s)
            return scan(cell, us, start, lengths=lengths, **options)

        if given is None:
            given = request_for("truncated", cell, us, None).s0
        return _in_segments("truncated", segment, every, cell, us, given, lengths)

    return run


def _check(operation: str, scan: Scan, every: int) -> None:
    if not callable(scan) or isinstance(scan, nn.Module):
        refuse(operation, f"the first argument is a {type(scan).__name__}; expected a loop: nextstate.scan")
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        refuse(operation, f"every is {every!r}; expected an integer >= 1, the steps of a segment")


def _in_segments(
    operation: str, segment: Scan, every: int, cell: Cell, us: Tree, s: Tree | None, lengths: Tensor | None
) -> tuple[Tree, Tree]:
    """The segments one after the other, each from the state of the one before."""
    steps, batch = check_sequence(operation, us)
    lengths = check_lengths(operation, lengths, steps, batch, leaves(us)[0].device)
    if s is None:
        s = request_for(operation, cell, us, None).s0
    outputs = []
    for first, part in _cut(us, steps, every):
        left = None if lengths is None else (lengths - first).clamp(0, min(every, steps - first))
        vs, s = segment(part, s, left)
        count = min(every, steps - first)
        if any(v.shape[:2] != (count, batch) for v in leaves(vs)):
            wanted = f"[{count}, {batch}, ...], an output for every step, as from nextstate.scan"
            refuse(operation, f"the loop gave {describe(vs)} for a segment; expected {wanted}")
        outputs.append(vs)
    return tree_map(lambda *parts: torch.cat(parts), *outputs), s


def _cut(us: Tree, steps: int, every: int) -> Iterator[tuple[int, Tree]]:
    for first in range(0, max(steps, 1), every):
        yield first, tree_map(lambda u: u[first : first + every], us)  # noqa: B023  (called at once)
