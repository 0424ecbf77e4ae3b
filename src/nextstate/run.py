"""The public loops: check the input, choose an engine, run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace

import torch
from torch import Tensor, nn

from nextstate import loops
from nextstate.cell import Cell, state_dtype
from nextstate.checks import (
    EngineError,
    FallbackWarning,
    check_sequence,
    check_state,
    describe,
    parts_of,
    refuse,
)
from nextstate.engines import opaque
from nextstate.engines.base import Engine, ReadsBack, Request
from nextstate.engines.registry import engines
from nextstate.lengths import check_lengths, reverse_valid
from nextstate.states import Tree, leaves

ENGINES: dict[str, Engine] = engines()
"""Engines by name, in the order in which `auto` asks them; the reference engine is asked last."""

_forced: ContextVar[str | Engine] = ContextVar("nextstate_engine", default="auto")
_warned: set[tuple[str, str]] = set()


@contextmanager
def engine(name: str | Engine) -> Iterator[None]:
    """Within this block every loop runs on the engine `name`, or raises `EngineError` if it cannot.

    Instead of a name, an object of the protocol `nextstate.engines.base.Engine`.

    >>> with engine("reference"):
    ...     pass
    """
    if isinstance(name, str):
        _check_name("engine", name)
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def scan(
    cell: Cell, us: Tree, s0: Tree | None = None, *, lengths: Tensor | None = None, engine: str = "auto"
) -> tuple[Tree, Tree]:
    """Run a cell over a sequence and keep every output: many-to-many.

    scan : (cell, [u], s0) -> ([v], sT)

        def scan(cell, us, s):              # the meaning; lengths=None
            vs = []
            for u in us:
                v, s = cell(u, s)
                vs.append(v)
            return stack(vs), s

    Shapes: us [T, B, ...], s0 a state [B, ...] (default: `cell.initial_state(B)`), vs [T, B, ...].
    `lengths` [B] integers, any order, any device, zeros allowed: a row of length n has the outputs of its
    n steps, zeros after them, and the state after step n.
    `engine`: "auto" takes the fastest that can run this cell on this input; a name forces one.

    Raises InputError for input that cannot be right, EngineError if the engine forced cannot run.

    >>> import torch
    >>> from nextstate import FunctionCell
    >>> total = FunctionCell(lambda u, s: (s + u, s + u), lambda b, **kw: torch.zeros(b, 1, **kw))
    >>> vs, sT = scan(total, torch.ones(3, 2, 1), lengths=torch.tensor([3, 1]))
    >>> vs.squeeze(-1).T.tolist(), sT.squeeze(-1).tolist()
    ([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0]], [3.0, 1.0])
    """
    if torch.compiler.is_dynamo_compiling():
        return opaque.run("scan", cell, us, s0, lengths, engine)
    if _wanted(engine) in ("auto", "cpu"):
        done = ENGINES["cpu"].quick(cell, us, s0, lengths)
        if done is not None:
            return done
    request = request_for("scan", cell, us, s0, lengths)
    chosen = choose(request, engine)
    with _look_ups_told(request):
        return chosen.scan(request)


def fold(
    cell: Cell, us: Tree, s0: Tree | None = None, *, lengths: Tensor | None = None, engine: str = "auto"
) -> tuple[Tree, Tree]:
    """Run a cell over a sequence and keep the last output only: many-to-one.

    fold : (cell, [u], s0) -> (vT, sT)

    vT [B, ...] is the output of each row's last step, zeros for a row of length 0. Everything else as in
    `scan`; `fold(cell, us) == scan(cell, us)` at the last step, with less memory.

    >>> import torch
    >>> from nextstate import FunctionCell
    >>> total = FunctionCell(lambda u, s: (s + u, s + u), lambda b, **kw: torch.zeros(b, 1, **kw))
    >>> fold(total, torch.ones(3, 1, 1))[0].item()
    3.0
    """
    if torch.compiler.is_dynamo_compiling():
        return opaque.run("fold", cell, us, s0, lengths, engine)
    request = request_for("fold", cell, us, s0, lengths)
    chosen = choose(request, engine)
    with _look_ups_told(request):
        return chosen.fold(request)


def scan_back(
    cell: Cell, us: Tree, s0: Tree | None = None, *, lengths: Tensor | None = None
) -> tuple[Tree, Tree]:
    """Run a cell from each row's own last step to its first; every output stays at the step it is of.

    scan_back : (cell, [u], s0) -> ([v], sT)

        scan_back(cell, us) = reverse_valid(vs), s    of  vs, s = scan(cell, reverse_valid(us))

    Shapes and errors as in `scan`, by whose name the errors go.

    >>> import torch
    >>> from nextstate import FunctionCell
    >>> total = FunctionCell(lambda u, s: (s + u, s + u), lambda b, **kw: torch.zeros(b, 1, **kw))
    >>> us = torch.tensor([1.0, 2.0, 3.0])[:, None, None].expand(3, 2, 1)
    >>> scan_back(total, us, lengths=torch.tensor([3, 2]))[0].squeeze(-1).T.tolist()
    [[6.0, 5.0, 3.0], [3.0, 2.0, 0.0]]
    """
    if lengths is None or torch.compiler.is_compiling():
        vs, s = scan(cell, reverse_valid(us, lengths), s0, lengths=lengths)
        return reverse_valid(vs, lengths), s
    request = request_for("scan", cell, us, s0, lengths)
    chosen = choose(request)
    with _look_ups_told(request):
        if isinstance(chosen, ReadsBack):
            return chosen.scan_back(request)
        vs, s = chosen.scan(_reversed(request))
    return reverse_valid(vs, request.lengths), s


def fold_back(
    cell: Cell, us: Tree, s0: Tree | None = None, *, lengths: Tensor | None = None
) -> tuple[Tree, Tree]:
    """Run a cell from each row's own last step to its first and keep the output of the first step only.

    fold_back : (cell, [u], s0) -> (v1, sT)

        fold_back(cell, us) = fold(cell, reverse_valid(us))

    Shapes and errors as in `fold`, by whose name the errors go: zeros for a row of length 0.

    >>> import torch
    >>> from nextstate import FunctionCell
    >>> latest = FunctionCell(lambda u, s: (u, u), lambda b, **kw: torch.zeros(b, 1, **kw))
    >>> fold_back(latest, torch.tensor([1.0, 2.0]).view(2, 1, 1), lengths=torch.tensor([2]))[0].item()
    1.0
    """
    if lengths is None or torch.compiler.is_compiling():
        return fold(cell, reverse_valid(us, lengths), s0, lengths=lengths)
    request = request_for("fold", cell, us, s0, lengths)
    chosen = choose(request)
    with _look_ups_told(request):
        if isinstance(chosen, ReadsBack):
            return chosen.fold_back(request)
        return chosen.fold(_reversed(request))


def _reversed(request: Request) -> Request:
    return replace(request, us=reverse_valid(request.us, request.lengths), memo={})


def unfold(
    cell: Cell, s0: Tree, u0: Tree, *, steps: int, feed: Callable[[Tree], Tree], engine: str = "auto"
) -> tuple[Tree, Tree]:
    """Let a cell write a sequence, each output fed back as the next input: one-to-many.

    unfold : (cell, s0, u0, v -> u) -> ([v], sT)

        def unfold(cell, s, u):             # the meaning
            vs = []
            for _ in range(steps):
                v, s = cell(u, s)
                vs.append(v)
                u = feed(v)
            return stack(vs), s

    Shapes: s0 a state [B, ...], u0 [B, ...], vs [steps, B, ...]. `feed` is any function of one output: an
    arg max, a draw, an embedding. Gradients flow through it if it is differentiable.

    >>> import torch
    >>> from nextstate import FunctionCell
    >>> double = FunctionCell(lambda u, s: (2 * u, s), lambda b, **kw: ())
    >>> unfold(double, (), torch.ones(1, 1), steps=3, feed=lambda v: v)[0].flatten().tolist()
    [2.0, 4.0, 8.0]
    """
    check_cell("unfold", cell)
    if not callable(feed):
        refuse("unfold", f"feed is {feed!r}; expected a function v -> u")
    if not isinstance(steps, int) or steps < 0:
        refuse("unfold", f"steps is {steps!r}; expected an integer >= 0")
    parts = parts_of("unfold", "u0", u0)
    if not parts or any(part.dim() < 1 for part in parts):
        refuse("unfold", f"u0 is {describe(u0)}; expected a first input [B, ...]")
    check_state("unfold", "s0", s0, parts[0].shape[0], parts[0].device)
    name = _wanted(engine)
    if isinstance(name, str) and name not in ("auto", "reference"):
        raise EngineError(f"engine {name!r} cannot run unfold: feed is Python between two steps")
    return loops.unfold(cell, s0, u0, steps, feed)


def choose(request: Request, engine: str = "auto") -> Engine:
    """The engine that will run a request: the one forced, or the first in order that does not refuse."""
    name = _wanted(engine)
    if name != "auto":
        chosen = ENGINES[name] if isinstance(name, str) else name
        refusal = chosen.refusal(replace(request, named=True))
        if refusal is not None:
            raise EngineError(
                f"engine {chosen.name!r} cannot run {type(request.cell).__name__}: {refusal.reason}"
            )
        return chosen
    surprises: list[str] = []
    for candidate in ENGINES.values():
        refusal = candidate.refusal(request)
        if refusal is None:
            if candidate.name == "reference":
                for reason in surprises:
                    warn_once(type(request.cell).__name__, reason)
            return candidate
        if refusal.surprising:
            surprises.append(refusal.reason)
    raise AssertionError("the reference engine refuses nothing")


@contextmanager
def _look_ups_told(request: Request) -> Iterator[None]:
    """An id outside a table is an IndexError within an engine: the cell's own step says which one it is."""
    try:
        yield
    except IndexError:
        with torch.no_grad():
            loops.fold(request.cell, request.us, request.s0, request.lengths)
        raise


def warn_once(cell_name: str, reason: str) -> None:
    if (cell_name, reason) not in _warned:
        _warned.add((cell_name, reason))
        warnings.warn(f"{cell_name} runs on the reference engine: {reason}", FallbackWarning, stacklevel=5)


def _wanted(engine: str) -> str | Engine:
    _check_name("engine", engine)
    return engine if engine != "auto" else _forced.get()


def check_cell(operation: str, cell: Cell) -> None:
    """A cell is what has a start state: a wrapper that hands on its cell's (Fabric's, say) is one too."""
    if isinstance(cell, type):
        refuse(
            operation, f"the cell is the class {cell.__name__}; expected a cell made of it, with its sizes"
        )
    if not callable(getattr(cell, "initial_state", None)):
        same = {nn.GRUCell: "GRU", nn.LSTMCell: "LSTM", nn.RNNCell: "Elman"}.get(type(cell))
        wanted = f"nextstate.{same}, which takes its state_dict" if same else "a Cell, such as nextstate.GRU"
        refuse(operation, f"the cell is a {type(cell).__name__}; expected {wanted}")


def _check_name(operation: str, name: str) -> None:
    if name != "auto" and name not in ENGINES:
        known = ", ".join(repr(known) for known in ("auto", *ENGINES))
        refuse(operation, f"no engine is called {name!r}; there are {known}")


def request_for(
    operation: str, cell: Cell, us: Tree, s0: Tree | None, lengths: Tensor | None = None
) -> Request:
    """The checked request of a loop, its start filled in."""
    check_cell(operation, cell)
    steps, batch = check_sequence(operation, us)
    parts = leaves(us)
    device = parts[0].device
    if s0 is None:
        s0 = cell.initial_state(batch, device=device, dtype=state_dtype(cell, parts))
    check_state(operation, "s0", s0, batch, device)
    return Request(cell, us, s0, check_lengths(operation, lengths, steps, batch, device), steps, batch)


opaque.LOOPS.update(scan=scan, fold=fold)
