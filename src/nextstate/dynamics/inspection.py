"""A model looked at from inside: how far its gradients reach, and why not further."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nextstate.accelerate import accelerated
from nextstate.cell import Cell
from nextstate.checks import describe, refuse
from nextstate.combine.wrapper import Combined
from nextstate.dynamics.flow import step_map
from nextstate.dynamics.gates import gates
from nextstate.dynamics.gradients import moving, norms, quiet, reach_of, unmoved
from nextstate.dynamics.lyapunov import lyapunov
from nextstate.dynamics.observe import Sequence, first_rows, names, observed
from nextstate.dynamics.report import Part, Report
from nextstate.run import scan
from nextstate.states import tree_map

ROWS = 16
"""Rows of a batch that are looked at; the longest."""

STEPS = 1000
"""Steps of the longest row from which the Lyapunov exponents are taken."""

EXPONENTS = 64
"""Exponents that are computed at most: all of a state that is no larger."""


def inspect(
    module: nn.Module,
    batch: Any,
    *,
    loss: Callable[[Any], Tensor] | None = None,
) -> Report:
    """Look at the recurrent loops inside a model while it reads a batch: does its gradient vanish, and where?

    inspect : (module, batch, output -> loss) -> Report

    `module` is a cell, or any module that runs cells by `scan` or `fold` or holds layers of `torch.nn` (RNN,
    LSTM, GRU). `batch` is what it is called with: a tuple is its arguments in order; for a cell it is us
    [T, B, ...], time first. `loss` makes one number of the module's output; with it the gradient of that loss
    at every state is reported too. Nothing of the module is changed: no parameter, no gradient, no random
    generator, no mode (call `module.eval()` first to look at it as it is used).

    Reported for every loop: how many steps back gradients reach (to 1 %), the largest Lyapunov exponents (up
    to 64, along the longest row), gates, forget times, what may help. Up to 16 rows are looked at.

    Raises InputError if no recurrent loop runs or none has a floating state, if the loss is not one number
    that depends on one, and under `torch.inference_mode()`.

    >>> import nextstate as ns
    >>> model = ns.SequenceClassifier(ns.Elman(3, 8), inputs=3, classes=2)
    >>> report = ns.inspect(model, torch.randn(4, 60, 3))
    >>> print(str(report).splitlines()[0])
    layers.0: Elman, 8 numbers of state, 4 sequences
    """
    if not isinstance(module, nn.Module):
        refuse("inspect", f"expected a torch.nn.Module, got a {type(module).__name__}")
    if torch.is_inference_mode_enabled():
        refuse(
            "inspect", "torch.inference_mode() is on and forbids gradients; call it outside, or under no_grad"
        )
    with accelerated(module), torch.random.fork_rng(devices=[]), torch.enable_grad(), quiet():
        with observed(probe=True) as sequences:
            output = _call(module, batch)
        ran, sequences = sequences, [s for s in sequences if s.request.steps and s.request.batch]
        if ran and not sequences:
            shape = f"{ran[0].request.steps} steps and {ran[0].request.batch} rows"
            refuse("inspect", f"{type(ran[0].request.cell).__name__} got {shape}; there must be some")
        if not sequences:
            held = ", ".join(sorted({type(part).__name__ for part in module.modules()}))
            refuse(
                "inspect",
                f"no recurrent loop ran inside {type(module).__name__} (made of {held}); cells are seen "
                "when nextstate.scan or fold runs them, layers of torch.nn in float32",
            )
        found = [None] * len(sequences) if loss is None else _loss_norms(loss(output), sequences)
        parts = [
            _part(name, sequence, norm)
            for name, sequence, norm in zip(names(module, sequences), sequences, found, strict=True)
            if moving(sequence.request.cell, sequence.request.us, sequence.request.s0)
        ]
        if not parts:
            refuse("inspect", unmoved(sequences[0].request))
        return Report(tuple(parts))


def _call(module: nn.Module, batch: Any) -> Any:
    if isinstance(module, Cell):
        return scan(module, batch)
    return module(*batch) if type(batch) is tuple else module(batch)  # a NamedTuple is one argument


def _loss_norms(loss: Any, sequences: list[Sequence]) -> list[Tensor | None]:
    """|dL/ds| of every sequence; None where no gradient comes."""
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        refuse("inspect", f"the loss is {describe(loss)}; expected one number with a gradient")
    flat = [x for sequence in sequences for x in sequence.added]
    grads = iter(torch.autograd.grad(loss.sum(), flat, allow_unused=True))
    found: list[Tensor | None] = []
    for sequence in sequences:
        own = tuple(next(grads) for _ in sequence.added)
        shape = (sequence.request.steps, sequence.request.batch)
        found.append(None if all(g is None for g in own) else norms(own, shape))
    return found


def _part(name: str, sequence: Sequence, loss: Tensor | None) -> Part:
    whole = sequence.request
    request = first_rows(whole, ROWS)
    if request is None:
        refuse("inspect", f"every row of the batch of {name} is empty")
    lengths = request.lengths
    longest = request.steps if lengths is None else int(lengths[0])
    steps = min(longest, STEPS)
    us = tree_map(lambda u: u[:steps, :1], request.us)
    s0 = tree_map(lambda s: s[:1], request.s0)
    size = step_map("inspect", request.cell, us, s0).size
    inner = [m for m in request.cell.modules() if isinstance(m, Cell) and not isinstance(m, Combined)]
    return Part(
        name=name,
        cell=type(request.cell).__name__,
        layers=tuple(type(cell).__name__ for cell in inner),
        size=size,
        rows=whole.batch,
        reach=reach_of(request),
        spectrum=lyapunov(request.cell, us, s0, count=min(size, EXPONENTS)),
        gates=gates(request.cell, request.us, request.s0, lengths=lengths),
        loss=loss,
    )
