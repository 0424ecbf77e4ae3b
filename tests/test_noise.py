"""A step that draws random numbers draws them anew for every step and row, whatever engine runs it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import nextstate as ns
from agreement import HERE
from catalogue import BY_NAME

STEPS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "a draw like the input": lambda u, s: (u + torch.rand_like(u), s),
    "a draw like the state": lambda u, s: (s, u + torch.rand_like(s)),
    "a draw of the batch": lambda u, s: (s, u + torch.rand(u.shape)),
    "dropout of the input": lambda u, s: (F.dropout(u, 0.5), s),
    "dropout of the state": lambda u, s: (s, F.dropout(s + u, 0.5)),
    "dropout of the output": lambda u, s: (F.dropout(s, 0.5), s),
}


def varies(vs: Tensor) -> bool:
    """No two steps and no two rows are alike."""
    flat = vs[1:].flatten(0, 1)
    return len({tuple(row) for row in flat.tolist()}) == len(flat)


@pytest.mark.parametrize("engine", [*HERE, "auto"])
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.filterwarnings("ignore::nextstate.FallbackWarning")
def test_every_step_and_row_draws(name: str, engine: str) -> None:
    cell = ns.FunctionCell(STEPS[name], lambda b, **kw: torch.ones(b, 50, **kw))
    try:
        vs, _ = ns.scan(cell, torch.ones(6, 3, 50), engine=engine)
    except ns.EngineError as refused:
        assert engine not in ("reference", "auto")
        pytest.skip(str(refused))
    assert varies(vs)


@pytest.mark.filterwarnings("ignore::nextstate.FallbackWarning")
def test_zoneout_in_training_draws_at_every_step() -> None:
    cell = ns.Zoneout(BY_NAME["GRU"].cell(3, 200, torch.float32), 0.4).train()
    vs, _ = ns.scan(cell, torch.randn(6, 3, 3))
    kept = vs[1:] == vs[:-1]
    assert abs(kept.double().mean() - 0.4) < 0.03
    assert not any(torch.equal(kept[t], kept[t + 1]) for t in range(4))


def test_one_draw_for_all_is_seen() -> None:
    assert not varies(torch.rand(50).expand(6, 3, 50))
    assert not varies(torch.rand(3, 50).expand(6, 3, 50))
    assert varies(torch.rand(6, 3, 50))


def test_the_gradient_of_a_random_step_is_that_of_its_draws() -> None:
    """d sT / d s0 of s' = m s + u is the product of the masks, which the outputs tell too."""
    cell = ns.FunctionCell(
        lambda u, s: ((torch.rand_like(s) < 0.9).to(s) * s + u,) * 2, lambda b, **kw: torch.ones(b, 50, **kw)
    )
    s0 = torch.ones(3, 50, requires_grad=True)
    vs, sT = ns.scan(cell, torch.zeros(6, 3, 50), s0)
    sT.sum().backward()
    assert 0 < s0.grad.mean() < 1
    assert torch.equal(s0.grad, vs[-1].detach())
