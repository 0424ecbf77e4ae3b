"""Watching the loops of a model from outside: an engine that notes what it is asked and has it done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nextstate.cell import Cell
from nextstate.dynamics.gradients import Probed, moving, probes
from nextstate.engines.base import Refusal, Request
from nextstate.lengths import zero_padding
from nextstate.nn.views import cells_of
from nextstate.run import engine, fold, scan
from nextstate.states import Tree, tree_map


@dataclass
class Sequence:
    """One loop that ran: its request, detached, and the zeros added to every state, whose gradients tell."""

    request: Request
    added: tuple[Tensor, ...]


@dataclass
class Observer:
    """An engine that has every request run as it would have been, and keeps it.

    With `probe` the states are probed, so that a later backward pass leaves its gradient at every state.
    """

    probe: bool
    outside: Context
    """in which the loops run: with the engine that was forced there, if one was"""
    name: str = "observer"
    sequences: list[Sequence] = field(default_factory=list)

    def refusal(self, request: Request) -> Refusal | None:
        return None

    def quick(self, cell: Cell, us: Tree, s0: Tree, lengths: Tensor | None) -> None:
        return None

    def scan(self, request: Request) -> tuple[Tree, Tree]:
        return self._run(request, scan)

    def fold(self, request: Request) -> tuple[Tree, Tree]:
        return self._run(request, fold)

    def _run(self, request: Request, loop: Callable[..., tuple[Tree, Tree]]) -> tuple[Tree, Tree]:
        us, s0 = tree_map(Tensor.detach, request.us), tree_map(Tensor.detach, request.s0)
        kept = Request(request.cell, us, s0, request.lengths, request.steps, request.batch)
        cell, read = request.cell, request.us
        added: tuple[Tensor, ...] = ()
        if self.probe and torch.is_grad_enabled():
            parts = moving(request.cell, us, s0)
            added = probes(request.steps, s0, parts)
            cell, read = Probed(request.cell, parts), (request.us, added)
        self.sequences.append(Sequence(kept, added))
        return self.outside.copy().run(loop, cell, read, request.s0, lengths=request.lengths)


@contextmanager
def observed(*, probe: bool = False) -> Iterator[list[Sequence]]:
    """Within this block every scan and fold is noted in the list.

    >>> import nextstate as ns
    >>> with observed() as sequences:
    ...     vs, s = ns.scan(ns.GRU(3, 5), torch.ones(7, 2, 3))
    >>> sequences[0].request.steps
    7
    """
    watching = Observer(probe, copy_context())
    with engine(watching):
        yield watching.sequences


def first_rows(request: Request, most: int) -> Request | None:
    """A request for a few of its rows, the longest; their padding is zeroed. None if no row has a step."""
    if not request.steps or not request.batch:
        return None
    us, rows = zero_padding(request.us, request.lengths), torch.arange(min(most, request.batch), device="cpu")
    if request.lengths is not None:
        lengths = request.lengths.cpu()
        rows = lengths.argsort(descending=True, stable=True)[:most]
        rows = rows[lengths[rows] > 0]
    if not len(rows):
        return None
    return Request(
        request.cell,
        tree_map(lambda u: u[:, rows], us),
        tree_map(lambda s: s[rows], request.s0),
        None if request.lengths is None else request.lengths[rows],
        request.steps,
        len(rows),
    )


def names(module: nn.Module, sequences: list[Sequence]) -> list[str]:
    """The name of the cell of every sequence within a module, numbered where one cell ran several times.

    Fabric's wrapper around a model in training has no part in them.
    """
    known = {id(part): name for name, part in module.named_modules()}
    for name, part in module.named_modules():
        if isinstance(part, nn.RNNBase):
            layers = zip(cells_of(part), part._all_weights, strict=True)
            known |= {id(cell): f"{name} {w[0].removeprefix('weight_ih_')}".strip() for cell, w in layers}
    found: list[str] = []
    for sequence in sequences:
        cell = sequence.request.cell
        name = (known.get(id(cell)) or "").removeprefix("_forward_module.") or type(cell).__name__
        times = sum(other.split(" #")[0] == name for other in found)
        found.append(f"{name} #{times + 1}" if times else name)
    return found
