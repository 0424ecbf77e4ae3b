"""The gradient of a loss at every state of a sequence, and how far back it reaches."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from nextstate.cell import Cell
from nextstate.checks import FallbackWarning, describe, refuse
from nextstate.combine.wrapper import Wrapper
from nextstate.engines.base import Request
from nextstate.lengths import valid_steps
from nextstate.run import request_for, scan
from nextstate.states import Tree, leaves, rebuild, tree_map

PROBES = 16
"""Random directions of a final state, in which the reach of its gradient is measured, at least."""


class Probed(Wrapper):
    """A cell with something added to its state before each step, so that a gradient can be read there.

    Probed : Cell (u, s) -> (v, s')  =>  Cell ((u, e), s) -> (v, s'),   (v, s') = cell(u, s + e)

    With e = 0 nothing changes, and dL/de_t is the gradient of the loss with respect to the state that enters
    step t, through everything that follows. An ordinary cell, so it runs on every engine.
    `e` is a tuple with a tensor [B, ...] for each of the tensors of the state that `moving` names.

    >>> from nextstate import GRU
    >>> cell, u, h = GRU(3, 5), torch.ones(2, 3), torch.ones(2, 5)
    >>> torch.equal(Probed(cell, (0,))((u, (torch.zeros(2, 5),)), h)[1], cell(u, h)[1])
    True
    """

    def __init__(self, cell: Cell, moving: tuple[int, ...]) -> None:
        super().__init__(cell)
        self.moving = moving

    def forward(self, u: tuple[Tree, tuple[Tensor, ...]], s: Tree) -> tuple[Tree, Tree]:
        inner, added = u
        parts = leaves(s)
        for k, e in zip(self.moving, added, strict=True):
            parts[k] = parts[k] + e
        return self.cell(inner, rebuild(s, parts))


def moving(cell: Cell, us: Tree, s0: Tree) -> tuple[int, ...]:
    """Which tensors of the state are floating or complex and changed by a step; one step is run to see it.

    What a step hands on unchanged is a constant of the sequence: a dropout mask, a decoder's summary.

    >>> from nextstate import LSTM, Dropped
    >>> cell = Dropped(LSTM(3, 4), state=0.5)
    >>> moving(cell, torch.ones(1, 2, 3), cell.initial_state(2))
    (0, 1)
    """
    if leaves(us)[0].shape[0] == 0:
        return ()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        before, after = leaves(s0), leaves(cell(tree_map(lambda u: u[0], us), s0)[1])
    pairs = enumerate(zip(before, after, strict=True))
    return tuple(k for k, (a, b) in pairs if a is not b and (a.is_floating_point() or a.is_complex()))


def real(x: Tensor) -> Tensor:
    """A tensor as real numbers: a complex one [...] as its real and imaginary parts [..., 2].

    >>> real(torch.tensor([1 + 2j])).tolist()
    [[1.0, 2.0]]
    """
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def unmoved(request: Request) -> str:
    """What to say of a request none of whose state moves."""
    if not request.steps:
        return "us has 0 steps; there must be some"
    return f"{type(request.cell).__name__} has no floating state that a step changes"


def probes(steps: int, s0: Tree, moving: tuple[int, ...]) -> tuple[Tensor, ...]:
    """The zeros [T, B, ...] that `Probed` adds, each asking for its gradient."""
    parts = leaves(s0)
    return tuple(parts[k].new_zeros((steps, *parts[k].shape)).requires_grad_() for k in moving)


def norms(grads: tuple[Tensor | None, ...], shape: tuple[int, int]) -> Tensor:
    """The Euclidean norm [T, B] of the gradients of all tensors of a state together; no gradient is 0."""
    total = torch.zeros(shape, dtype=torch.float64, device="cpu")
    for grad in grads:
        if grad is not None:
            total += real(grad.detach()).flatten(2).double().square().sum(-1).cpu()
    return total.sqrt()


def gradient_norms(
    cell: Cell,
    us: Tree,
    loss: Callable[[Tree, Tree], Tensor],
    s0: Tree | None = None,
    *,
    lengths: Tensor | None = None,
) -> Tensor:
    """The norm of the gradient of a loss with respect to every state, from one backward pass.

    gradient_norms : (cell, [u], ([v], sT) -> loss) -> [|dL/ds|]

    Shapes: us [T, B, ...], time first; the result [T, B] float64. Entry t is the gradient with respect to the
    whole state that enters step t, so entry 0 belongs to s0; 0 after a row's own end. Runs on the engine
    that `scan` would choose; no gradient of a parameter is touched.

    Raises InputError for input that `scan` would refuse, or a loss that is not one number of this graph.

    >>> from nextstate import FunctionCell
    >>> half = FunctionCell(lambda u, s: (u, s / 2), lambda b, **kw: torch.zeros(b, 1, **kw))
    >>> gradient_norms(half, torch.ones(4, 1, 1), lambda vs, s: s.sum()).flatten().tolist()
    [0.0625, 0.125, 0.25, 0.5]
    """
    request = request_for("gradient_norms", cell, us, s0, lengths)
    return _norms("gradient_norms", request, loss)


def _norms(operation: str, request: Request, loss: Callable[[Tree, Tree], Tensor]) -> Tensor:
    us, s0 = tree_map(Tensor.detach, request.us), tree_map(Tensor.detach, request.s0)
    parts = moving(request.cell, us, s0)
    if not parts:
        refuse(operation, unmoved(request))
    added = probes(request.steps, s0, parts)
    with torch.enable_grad(), quiet():
        value = loss(*scan(Probed(request.cell, parts), (us, added), s0, lengths=request.lengths))
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            refuse(operation, f"the loss is {describe(value)}; expected one number made of vs and sT")
        grads = torch.autograd.grad(value.sum(), added, allow_unused=True)
    return norms(grads, (request.steps, request.batch))


@dataclass(frozen=True)
class Reach:
    """How much of the gradient of a final state is left, by how many steps it went back.

    `curve[k]` is the root mean square over directions and rows of |v dsT/ds_{T-k}| / |v|: the Frobenius norm
    of the product of k Jacobians over sqrt(N). curve[0] is 1.

    >>> reach = Reach(torch.tensor([1.0, 0.5, 0.25, 0.125]), longest=3)
    >>> reach.steps(0.2), reach.steps(0.01), reach.full(0.01)
    (2, 3, True)
    """

    curve: Tensor
    """[T + 1] float64"""
    longest: int
    """steps of the longest row"""

    def steps(self, share: float = 0.01) -> int:
        """The largest lag up to which at least `share` of the gradient arrives; NaN has not arrived."""
        lost = (~(self.curve >= share)).nonzero()
        return int(lost[0]) - 1 if len(lost) else self.longest

    def full(self, share: float = 0.01) -> bool:
        """Whether the gradient is still there at the start of the longest row."""
        return self.steps(share) >= self.longest

    @property
    def rate(self) -> float:
        """Mean growth in nats a step over the part of the curve above 1e-6, a little after its start."""
        alive = int((self.curve > 1e-6).long().cumprod(0).sum())
        begin = min(alive // 10, alive - 1)
        if alive - begin < 2:
            return -math.inf if self.longest and alive == 1 else 0.0
        return float((self.curve[alive - 1] / self.curve[begin]).log()) / (alive - 1 - begin)

    @property
    def most(self) -> float:
        """The largest growth on the way back; infinite if the gradient overflows."""
        return float(self.curve.nan_to_num(math.inf, posinf=math.inf).max())


def reach(
    cell: Cell, us: Tree, s0: Tree | None = None, *, lengths: Tensor | None = None, seed: int = 0
) -> Reach:
    """How far back the gradient of the final state reaches along an input.

    reach : (cell, [u], s0) -> Reach

    One backward pass from random directions of each row's own last state; few rows are read several times,
    so that there are 16 directions at least. No random generator of the caller is moved.
    Shapes: us [T, B, ...], time first, lengths [B].

    Raises InputError for input that `scan` would refuse, or if no row has a step.

    >>> from nextstate import FunctionCell
    >>> half = FunctionCell(lambda u, s: (u, s / 2), lambda b, **kw: torch.zeros(b, 3, **kw))
    >>> found = reach(half, torch.ones(20, 1, 1))
    >>> found.steps(0.01), round(found.rate, 4)
    (6, -0.6931)
    """
    return reach_of(request_for("reach", cell, us, s0, lengths), seed)


def reach_of(request: Request, seed: int = 0) -> Reach:
    """The reach along a request of a loop."""
    own = request.lengths
    longest = request.steps if own is None else int(own.max()) if len(own) else 0
    if not longest or not request.batch:
        refuse("reach", f"us has {request.steps} steps and {request.batch} rows, none of which has a step")
    times = -(-PROBES // request.batch)
    us = tree_map(lambda u: u.repeat_interleave(times, 1), request.us)
    s0 = tree_map(lambda s: s.repeat_interleave(times, 0), request.s0)
    lengths = None if own is None else own.repeat_interleave(times)
    generator = torch.Generator().manual_seed(seed)
    rows = request.batch * times

    which = moving(request.cell, us, s0)
    if not which:
        refuse("reach", unmoved(request))

    def loss(_: Tree, end: Tree) -> Tensor:
        parts = [real(leaves(end)[k]) for k in which]
        drawn = [torch.randn(x.shape, generator=generator, dtype=torch.float32, device="cpu") for x in parts]
        directions = [d.to(x) for d, x in zip(drawn, parts, strict=True)]
        length = torch.cat([d.flatten(1) for d in directions], 1).norm(dim=1)
        along = torch.cat([(x * d).flatten(1) for x, d in zip(parts, directions, strict=True)], 1).sum(1)
        return (along / length).sum()

    with torch.random.fork_rng(devices=[]):
        repeated = Request(request.cell, us, s0, lengths, request.steps, rows)
        found = _norms("reach", repeated, loss)
    return Reach(_by_lag(found, lengths), longest)


def _by_lag(found: Tensor, lengths: Tensor | None) -> Tensor:
    """Root mean square [T + 1] over the rows that are long enough, by the distance from each row's end."""
    steps, rows = found.shape
    ends = torch.full((rows,), steps, device="cpu") if lengths is None else lengths.cpu()
    lags = ends - torch.arange(steps, device="cpu")[:, None]
    valid = valid_steps(ends, steps)
    square, count = torch.zeros(2, steps + 1, dtype=torch.float64, device="cpu")
    square.index_add_(0, lags[valid], found[valid].square())
    count.index_add_(0, lags[valid], torch.ones_like(found[valid]))
    square[0], count[0] = 1, 1
    return (square / count)[: int(ends.max()) + 1].sqrt()


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warning that a step runs on the reference engine: to measure is no loop of the user's.

    And with numbers below the normal range as zeros: a vanishing gradient is full of them, and they make a
    CPU ten times slower.
    """
    flushed = not float(torch.tensor(1e-39, dtype=torch.float32, device="cpu") * 1.0)
    torch.set_flush_denormal(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            yield
    finally:
        torch.set_flush_denormal(flushed)
