"""The protocol of a recurrent function: a start state and one step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

import torch
from torch import nn

from nextstate.checks import refuse
from nextstate.states import Tree


class Cell(nn.Module):
    """A recurrent function f : U x S -> V x S, written as one step.

    Cell : initial_state : B -> s,  forward : (u, s) -> (v, s')

    Shapes: every tensor of `u`, `s`, `v` has the batch as its first dimension. Rows must not influence
    each other, and `s'` must have the structure, shapes and dtypes of `s`. A state component that a
    step hands on unchanged is a constant of the sequence.

    Subclasses define both methods; `scan`, `fold` and `unfold` ask for nothing else.

    >>> from nextstate import scan
    >>> class Decay(Cell):
    ...     def initial_state(self, batch_size, *, device=None, dtype=None):
    ...         return torch.zeros(batch_size, 1, device=device, dtype=dtype)
    ...     def forward(self, u, s):
    ...         s = 0.5 * s + u
    ...         return s, s
    >>> scan(Decay(), torch.ones(3, 1, 1))[0].flatten().tolist()
    [1.0, 1.5, 1.75]
    """

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tree:
        """The state before the first step, [batch_size, ...] in every tensor."""
        raise NotImplementedError(
            f"{type(self).__name__} must define initial_state(batch_size, *, device, dtype)"
        )

    def forward(self, u: Tree, s: Tree) -> tuple[Tree, Tree]:
        """One step: the output `v` and the next state."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(u, s) -> (v, s')")


class FunctionCell(Cell):
    """A cell made of two callables.

    FunctionCell : ((u, s) -> (v, s'), B -> s) -> Cell

    `start` is called as start(batch_size, device=..., dtype=...). Modules handed over in `parameters`
    are registered, so that their weights are trained and saved with the cell.

    >>> total = FunctionCell(lambda u, s: (s + u, s + u), lambda b, **kw: torch.zeros(b, 1, **kw))
    >>> v, s = total(torch.ones(2, 1), total.initial_state(2))
    >>> v.tolist()
    [[1.0], [1.0]]
    """

    def __init__(
        self,
        step: Callable[[Tree, Tree], tuple[Tree, Tree]],
        start: Callable[..., Tree],
        parameters: nn.Module | None = None,
    ) -> None:
        super().__init__()
        for name, given in (("step", step), ("start", start)):
            if not callable(given):
                refuse("FunctionCell", f"{name} is {given!r}; expected a function")
        self.step, self.start, self.weights = step, start, parameters

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tree:
        return self.start(batch_size, device=device, dtype=dtype)

    def forward(self, u: Tree, s: Tree) -> tuple[Tree, Tree]:
        return self.step(u, s)


def state_dtype(cell: nn.Module, us_leaves: list[torch.Tensor]) -> torch.dtype:
    """The dtype of a default start: that of the input if it is floating, else of the cell's weights."""
    for x in chain(us_leaves, cell.parameters()):
        if x.is_floating_point():
            return x.dtype
    return torch.get_default_dtype()


def tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    """Parameters, buffers, and what hooks (weight_norm, spectral_norm, pruning) keep as attributes."""
    yield from chain(module.parameters(), module.buffers())
    for part in module.modules():
        yield from (x for x in vars(part).values() if isinstance(x, torch.Tensor))
