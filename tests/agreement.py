"""What it means that two ways to run a cell agree: outputs, final state, and every gradient.

A runner is any (cell, us, s0, lengths) -> (vs, sT). Every comparison here raises AssertionError, so that a
canary can show that it does.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import nextstate as ns
from nextstate.engines.base import Request
from nextstate.run import ENGINES
from nextstate.states import Tree, leaves, tree_map

Runner = Callable[[ns.Cell, Tree, Tree, Tensor | None], tuple[Tree, Tree]]
Outcome = dict[str, Tensor]

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}


ELSEWHERE = {"torch", "scan", "newton", "quasi-newton"}
"""Engines that do not run any cell, and have tests of their own."""
HERE = [name for name in ENGINES if name not in ELSEWHERE]
"""Engines that run the catalogue: a new one does unless it is named above."""


def on(engine: str) -> Runner:
    """The runner of one engine; where the engine refuses the request, the test is skipped with its reason."""

    def run(cell: ns.Cell, us: Tree, s0: Tree, lengths: Tensor | None) -> tuple[Tree, Tree]:
        steps, batch = leaves(us)[0].shape[:2]
        refusal = ENGINES[engine].refusal(Request(cell, us, s0, lengths, steps, batch, named=True))
        if refusal is not None:
            pytest.skip(f"engine {engine} refuses: {refusal.reason}")
        return ns.scan(cell, us, s0, lengths=lengths, engine=engine)

    return run


def dtype_of(engine: str) -> torch.dtype:
    """Laws are tested in float64 where an engine has it: the reference engine."""
    return torch.float64 if engine == "reference" else torch.float32


def floating(tree: Tree) -> list[Tensor]:
    return [leaf for leaf in leaves(tree) if leaf.is_floating_point()]


def leaf_of(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_(x.is_floating_point())


def outcome(run: Runner, cell: ns.Cell, us: Tree, s0: Tree, lengths: Tensor | None = None) -> Outcome:
    """Outputs, final state, and the gradients of random cotangents on both, for us, s0, every parameter."""
    us, s0 = (tree_map(leaf_of, tree) for tree in (us, s0))
    vs, sT = run(cell, us, s0, lengths)
    found = {f"{kind} {k}": x for kind, tree in (("v", vs), ("s", sT)) for k, x in enumerate(leaves(tree))}
    wanted = {f"u {k}": x for k, x in enumerate(floating(us))}
    wanted |= {f"s0 {k}": x for k, x in enumerate(floating(s0))}
    wanted |= dict(cell.named_parameters())
    return {**found, **gradients(found, wanted)}


def gradients(found: Outcome, wanted: Outcome) -> Outcome:
    """Gradients of a random weighting of `found`; the weights depend on names and shapes only."""
    total = torch.zeros((), dtype=torch.float64)
    for name, x in found.items():
        if x.requires_grad:
            seed = torch.Generator().manual_seed(sum(map(ord, name)) + x.numel())
            weights = torch.randn(x.shape, generator=seed, dtype=torch.float64)
            total = total + (x.double() * weights).sum()
    grads: tuple[Tensor | None, ...] = (None,) * len(wanted)
    if total.requires_grad:
        grads = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    return {
        f"gradient of {name}": torch.zeros_like(x) if grad is None else grad
        for (name, x), grad in zip(wanted.items(), grads, strict=True)
    }


def assert_agree(one: Outcome, other: Outcome, tolerance: float | None = None) -> None:
    """Every entry within `tolerance` of the other's, relative to the largest number of that entry."""
    assert one.keys() == other.keys(), f"{sorted(one.keys() ^ other.keys())} on one side only"
    assert one, "nothing was compared"
    for name, x in one.items():
        y = other[name]
        assert x.shape == y.shape, f"{name}: {tuple(x.shape)} against {tuple(y.shape)}"
        assert x.dtype == y.dtype, f"{name}: {x.dtype} against {y.dtype}"
        assert torch.isfinite(y).all(), f"{name} is not finite"
        if not x.numel():
            continue
        if not x.is_floating_point():
            assert torch.equal(x, y), name
            continue
        limit = (tolerance or TOLERANCE[x.dtype]) * max(1.0, float(y.detach().abs().max()))
        worst = float((x.detach() - y.detach()).abs().max())
        assert worst <= limit, f"{name} differs by {worst:.2e}, more than {limit:.2e}"


def assert_close(one: Tree, other: Tree, tolerance: float | None = None) -> None:
    pairs = (dict(enumerate(leaves(tree))) for tree in (one, other))
    left, right = ({str(k): x for k, x in pair.items()} for pair in pairs)
    if left or right:
        assert_agree(left, right, tolerance)
