"""Weight averaging: a second copy of the parameters that follows the trained ones slowly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nextstate.checks import refuse


class Average:
    """Exponential moving average of a model's parameters.

        a' = decay_k a + (1 - decay_k) w,     decay_k = min(decay, (1 + k) / (10 + k))

    after update k = 0, 1, ...: early averages forget the start quickly. Buffers are not averaged.
    Source: Polyak & Juditsky 1992 for averaging; the ramp of the decay is TensorFlow's.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> nn.init.zeros_(model.weight) is model.weight
    True
    >>> average = Average(model, decay=0.5)
    >>> nn.init.ones_(model.weight) is model.weight
    True
    >>> average.update(model)
    >>> round(average.tensors["weight"].item(), 3)
    0.9
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            refuse("Average", f"decay is {decay}; it must lie in 0 <= decay < 1")
        self.decay = decay
        self.updates = 0
        self.tensors = {name: p.detach().clone() for name, p in model.named_parameters()}

    def match(self, model: nn.Module) -> None:
        """Move the averages to where the model's parameters are."""
        for name, parameter in model.named_parameters():
            self.tensors[name] = self.tensors[name].to(parameter.device)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = dict(model.named_parameters())
        torch._foreach_lerp_(
            list(self.tensors.values()), [current[name].detach() for name in self.tensors], 1 - decay
        )
        self.updates += 1

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """The averaged values become the model's parameters."""
        for name, parameter in model.named_parameters():
            parameter.copy_(self.tensors[name])

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model has the averaged parameters; after it, its own again, bit for bit."""
        own: dict[str, Tensor] = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.copy_to(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(own[name])
