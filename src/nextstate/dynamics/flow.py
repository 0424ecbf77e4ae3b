"""One step of a cell as a map from a vector to a vector, and its derivative, for any cell."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from nextstate.cell import Cell
from nextstate.checks import refuse
from nextstate.combine import WithState
from nextstate.dynamics.gradients import moving, quiet, real
from nextstate.run import request_for, scan
from nextstate.states import Tree, leaves, rebuild, tree_map

CHUNK = 1 << 22
"""Numbers of the Jacobians that are computed at a time."""


@dataclass(frozen=True)
class StepMap:
    """The step of a cell on the state as a vector x [rows, N].

        x' = f(u, x)

    x holds every floating tensor of the state that a step changes, side by side: h and c of an LSTM, all
    cells of a stack; of a complex one its real and imaginary parts. What a step hands on unchanged (a dropout
    mask, a decoder's summary) is a constant of the sequence, hence no dimension of the state.
    """

    cell: Cell
    moving: tuple[int, ...]
    """which tensors of the state are in x"""
    size: int

    def join(self, state: Tree) -> Tensor:
        """The vectors [rows, N] of a state."""
        parts = leaves(state)
        return torch.cat([real(parts[k]).flatten(1) for k in self.moving], 1)

    def split(self, x: Tensor, state: Tree) -> Tree:
        """The state with the vectors x in it; its constants are those of `state`."""
        parts = leaves(state)
        widths = [real(parts[k]).shape[1:].numel() for k in self.moving]
        for k, part in zip(self.moving, x.split(widths, 1), strict=True):
            like = real(parts[k])
            part = part.reshape(like.shape).to(like.dtype)
            parts[k] = torch.view_as_complex(part.contiguous()) if parts[k].is_complex() else part
        return rebuild(state, parts)

    def push(self, u: Tree, state: Tree, tangents: Tensor) -> tuple[Tree, Tensor]:
        """Tangent vectors [B, N, K] carried through a step: the next state, and J times the tangents.

        Differentiable with respect to the cell's parameters. Each tangent has a row of the batch to itself.
        """
        count = tangents.shape[-1]
        u_rows, s_rows = (tree_map(lambda x: x.repeat_interleave(count, 0), tree) for tree in (u, state))
        x = self.join(s_rows)
        rows = tangents.transpose(1, 2).reshape(-1, self.size).to(x.dtype)

        def step(x: Tensor) -> tuple[Tensor, Tree]:
            after = self.cell(u_rows, self.split(x, s_rows))[1]
            return self.join(after), after

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, when it first loads its rules
            _, pushed, after = jvp(step, (x,), (rows,), has_aux=True)  # type: ignore[misc]
        return tree_map(lambda x: x[::count], after), pushed.unflatten(0, (-1, count)).transpose(1, 2)

    @torch.no_grad()
    def jacobians(self, u: Tree, state: Tree) -> Tensor:
        """dx'/dx of every row, [rows, N, N]: row i is the gradient of x'_i."""

        def step(x: Tensor) -> Tensor:
            return self.join(self.cell(u, self.split(x, state))[1])

        x = self.join(state)
        _, pull = vjp(step, x)  # type: ignore[misc]
        basis = torch.eye(self.size, device=x.device, dtype=x.dtype)
        return vmap(lambda row: pull(row.expand_as(x))[0], out_dims=1)(basis)


@dataclass(frozen=True)
class Flow:
    """A cell along one input: its step as a map of vectors, and the states it went through."""

    map: StepMap
    us: Tree
    states: Tree
    """[T, B, ...]: the state before each step"""
    steps: int
    batch: int

    def row(self, t: int) -> tuple[Tree, Tree]:
        """Input and state of step t."""
        return tree_map(lambda u: u[t], self.us), tree_map(lambda s: s[t], self.states)

    def jacobians(self, begin: int = 0, end: int | None = None) -> Iterator[Tensor]:
        """J_t = dx_{t+1}/dx_t for begin <= t < end, one after the other, [B, N, N] float64.

        Many are computed at a time, and no more are held.
        """
        end = self.steps if end is None else end
        many = max(1, CHUNK // (self.batch * self.map.size**2))
        for first in range(begin, end, many):
            last = min(end, first + many)

            def cut(tree: Tree) -> Tree:
                return tree_map(lambda x: x[first:last].flatten(0, 1), tree)  # noqa: B023  (called at once)

            found = self.map.jacobians(cut(self.us), cut(self.states))
            yield from found.unflatten(0, (last - first, self.batch)).double()


def step_map(operation: str, cell: Cell, us: Tree, s0: Tree) -> StepMap:
    """The step of a cell as a map of vectors.

    Raises InputError if there is no part of the state that can be differentiated.
    """
    parts = moving(cell, us, s0)
    size = sum(real(leaves(s0)[k]).shape[1:].numel() for k in parts)
    if not size:
        refuse(operation, f"{type(cell).__name__} has no floating state that a step changes")
    return StepMap(cell, parts, size)


def flow(operation: str, cell: Cell, us: Tree, s0: Tree | None = None) -> Flow:
    """Run a cell over its input, on the fastest engine, and keep every state.

    Raises InputError for input that `scan` would refuse, an empty sequence, a cell without a state that can
    be differentiated, or states that are not finite.
    """
    request = request_for(operation, cell, us, s0)
    if not request.steps or not request.batch:
        refuse(operation, f"us has {request.steps} steps and {request.batch} rows; there must be some")
    us, s0 = tree_map(Tensor.detach, request.us), tree_map(Tensor.detach, request.s0)
    found = step_map(operation, cell, us, s0)
    with torch.no_grad(), quiet():
        (_, reached), _ = scan(WithState(cell), us, s0)
        states = tree_map(lambda start, later: torch.cat([start[None], later[:-1]]), s0, reached)
    for part in leaves(states):
        wrong = ~part.flatten(1).isfinite().all(1)
        if wrong.any():
            refuse(operation, f"the state is not finite after step {int(wrong.nonzero()[0])}")
    return Flow(found, us, states, request.steps, request.batch)
