"""One stream, or a fixed number side by side: a cell and its current state, which changes in place."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from nextstate.accelerate import cell_of_it
from nextstate.cell import Cell, state_dtype, tensors_of
from nextstate.checks import check_same_state, check_sequence, describe, parts_of, refuse
from nextstate.combine import Quantised
from nextstate.engines.registry import MissingCpuEngine
from nextstate.run import ENGINES, choose, request_for
from nextstate.saved_state import from_bytes, to_bytes
from nextstate.states import Tree, leaves, rebuild, tree_map


class Session:
    """A cell that runs on a stream: it is fed step by step, or in chunks, and keeps the state.

    Session : Cell => object with  step : u -> v,  feed : [u] -> [v]

        v, s = cell(u, s)                   # step, s kept
        vs, s = scan(cell, us, s)           # feed, s kept

    Shapes: for one stream u [I], v [V], us [T, I]; with `batch_size` B streams side by side u [B, I],
    v [B, V], us [T, B, I]. Any other input tree goes without its batch in the same way.

    A `Quantised` cell is kept in two bytes or one a weight, which is what a step of one stream has to read.
    With "int8" the inputs of products are rounded too, to 16 bits (fewer from 517 of them on) by a unit of
    their own: sums are exact then. Steps and chunks agree bit for bit with each other, not with `scan`.

    The session takes a copy of the cell, in eval mode and without gradients: what happens to the cell later
    does not reach it. On the CPU engine a stream has the same bits however it is cut into steps and chunks,
    whatever runs beside it, and the same as `scan` over the whole. (What a cell computes outside its loop, a
    read-out or everything in a MinGRU that reads the input alone, torch multiplies: equal to rounding. So is
    `scan` over many ids, whose products it looks up; steps and chunks do not.)

    A new session copies and compiles; `fork`, and a row of `Streams`, do neither. One thread at a time.

    Raises InputError for input of the wrong size, and for a saved state that is damaged or not of this cell.

    >>> from nextstate import GRU, scan
    >>> cell = GRU(3, 16)
    >>> session = Session(cell)
    >>> us = torch.randn(10, 3)
    >>> first = session.feed(us[:6])
    >>> other = session.fork()
    >>> rest = torch.stack([session.step(u) for u in us[6:]])
    >>> torch.equal(torch.cat([first, rest]), scan(cell, us[:, None])[0][:, 0])
    True
    >>> torch.equal(other.feed(us[6:]), rest)
    True
    """

    def __init__(self, cell: Cell, *, batch_size: int | None = None) -> None:
        if not isinstance(cell, Cell):
            expected = f"expected a Cell, such as nextstate.GRU{cell_of_it(cell)}"
            refuse("Session", f"the cell is a {type(cell).__name__}; {expected}")
        whole = isinstance(batch_size, int) and not isinstance(batch_size, bool)
        if batch_size is not None and not (whole and batch_size >= 1):
            refuse(
                "Session", f"batch_size is {batch_size!r}; expected an integer >= 1, or None for one stream"
            )
        self._cell = frozen(cell)
        self._batched, self._batch = batch_size is not None, batch_size or 1
        self._state = start(self._cell, self._batch)
        self._stepper: Any = None
        self._shape: Any = None
        self._dtype: Any = None
        """Shape and dtype of the input that the stepper takes."""
        self._tried = False
        self._weights = cell.weights if isinstance(cell, Quantised) else "float32"

    @property
    def state(self) -> Tree:
        """A copy of the current state, [B, ...] in every tensor."""
        return tree_map(Tensor.clone, self._state) if self._stepper is None else self._stepper.state()

    @state.setter
    def state(self, s: Tree) -> None:
        parts_of("Session", "the state", s)
        check_same_state("Session", self._state, s)
        self._put(rebuild(self._state, leaves(s)))

    def step(self, u: Tree) -> Tree:
        """One step: the output of u; the state moves on."""
        if (
            type(u) is Tensor
            and u.shape == self._shape
            and u.dtype is self._dtype
            and u.is_cpu
            and u.is_contiguous()
            and not u.is_neg()
        ):
            return self._stepper(u)
        return self._general_step(u)

    def feed(self, us: Tree) -> Tree:
        """A chunk of any number of steps: their outputs; the state moves on."""
        if self._weights == "int8" and isinstance(us, Tensor) and us.dim() > 1 and len(us):
            return torch.stack([self.step(u) for u in us])
        vs, s = advance(self._cell, self._with_batch(us, 1), self.state)
        self._put(s)
        return vs if self._batched else tree_map(lambda v: v.squeeze(1), vs)

    def peek(self, u: Tree) -> Tree:
        """The output that `step` would give; the state stays where it is."""
        before = self.state
        v = self.step(u)
        self._put(before)
        return v

    def reset(self) -> None:
        """Back to the cell's initial state."""
        self._put(start(self._cell, self._batch))

    def fork(self) -> Session:
        """A second session that goes on from here on its own; the copy of the cell is shared."""
        return copy.copy(self)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle holds: not what is laid ready for steps, which each session does anew."""
        ready = {"_stepper": None, "_shape": None, "_dtype": None, "_tried": False}
        return vars(self) | {"_state": self.state} | ready

    def save(self) -> bytes:
        """The state as bytes (safetensors): no weights, and nothing that runs when it is read."""
        return to_bytes(self._cell, self.state)

    def restore(self, data: bytes) -> None:
        """Go on from saved bytes; if they are refused, the session is as it was."""
        self._put(from_bytes("Session.restore", data, self._cell, self._state))

    def _put(self, s: Tree) -> None:
        if self._stepper is not None and self._stepper.fits(s):
            self._stepper.put(s)
            return
        self._state = tree_map(lambda x: x.detach().clone(), s)
        self._stepper, self._shape, self._tried = None, None, False

    def _with_batch(self, tree: Tree, dim: int) -> Tree:
        parts = parts_of("Session", "the input", tree)
        if self._batched:
            if not parts or any(x.dim() <= dim or x.shape[dim] != self._batch for x in parts):
                refuse("Session", f"the input is {describe(tree)}; this session has {self._batch} rows")
            return tree
        if any(x.dim() < dim for x in parts):
            refuse("Session", f"the input of a chunk is {describe(tree)}; expected [T, ...]")
        return tree_map(lambda x: x.unsqueeze(dim), tree)

    def _general_step(self, u: Tree) -> Tree:
        us = tree_map(lambda x: x.unsqueeze(0), self._with_batch(u, 0))
        if not self._tried and isinstance(u, Tensor):
            self._tried = True
            self._prepare(u, us)
        if isinstance(u, Tensor) and u.shape == self._shape and u.dtype is self._dtype and u.is_cpu:
            return self._stepper(u.contiguous().resolve_neg())
        vs, s = advance(self._cell, us, self.state)
        self._put(s)
        v = tree_map(lambda x: x.squeeze(0), vs)
        return v if self._batched else tree_map(lambda x: x.squeeze(0), v)

    def _prepare(self, u: Tensor, us: Tensor) -> None:
        """Before the first step, if the engine has it: everything laid ready, the state in its buffers."""
        engine: Any = ENGINES["cpu"]
        if isinstance(engine, MissingCpuEngine):
            return
        from nextstate.engines.stepper import Stepper

        with torch.no_grad():
            request = request_for("Session", self._cell, us.contiguous(), self._state, None)
            made = Stepper.make(engine, request, self._batched, self._weights)
        if made is not None:
            made.put(self._state)
            self._stepper, self._shape, self._dtype = made, u.shape, u.dtype


def frozen(cell: Cell) -> Cell:
    """A copy of a cell in eval mode whose parameters nobody trains."""
    with torch.inference_mode(False):  # tensors of inference mode have no version: engines do not keep them
        return copy.deepcopy(cell, {id(x): x.detach().clone() for x in tensors_of(cell)}).eval()


def start(cell: Cell, rows: int) -> Tree:
    example = next(cell.parameters(), torch.empty(0))
    with torch.no_grad():
        s = cell.initial_state(rows, device=example.device, dtype=state_dtype(cell, []))
    return tree_map(lambda x: x.detach().clone(), s)


def advance(cell: Cell, us: Tree, s: Tree, lengths: Tensor | None = None) -> tuple[Tree, Tree]:
    """A scan without gradients that prepares nothing for its own sizes, since those change all the time."""
    check_sequence("Session", us)
    with torch.no_grad():
        request = request_for("Session", cell, us, s, lengths)
        chosen, engine = choose(request), ENGINES["cpu"]
        if chosen is engine and request.steps and not all(u.is_floating_point() for u in leaves(us)):
            from nextstate.engines.stepper import scan_alike

            return scan_alike(engine, request)  # type: ignore[arg-type]
        return chosen.scan(request)
