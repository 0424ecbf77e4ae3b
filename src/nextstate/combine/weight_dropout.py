"""Dropout of weights: some connections are missing for a whole sequence."""

from __future__ import annotations

from operator import attrgetter

import torch
from torch import Tensor
from torch.nn import functional as F

from nextstate.cell import Cell
from nextstate.checks import refuse
from nextstate.combine.wrapper import Wrapper, check_rate
from nextstate.states import Tree


class WeightDropped(Wrapper):
    """DropConnect on a cell's weights: one mask for all steps and rows of a sequence.

    WeightDropped : Cell (u, s) -> (v, s')  =>  Cell (u, s) -> (v, s')

        M ~ Bernoulli(1 - rate) / (1 - rate), of the shape of W, drawn in `initial_state`
        (v, s') = cell(u, s) with M W in the place of W

    `weights` are names of the cell's parameters, as in its `state_dict`; the recurrent matrix unless said
    otherwise. In eval mode nothing is dropped. The masks, having no rows, are the cell's and not the state's:
    `scan` draws them for every sequence it starts itself, `initial_state` for every chunk of a longer one;
    given a start, `scan` has the masks drawn last. (Under torch.compile a draw holds for its own scan alone;
    a `checkpointed` one has to go backward before the next draw.) The whole batch reads one matrix, which the
    engine masks once a sequence: a step costs what it costs without.

    Shapes: those of the cell.

    Raises InputError for a rate outside 0 <= rate < 1, no name, or one of no floating parameter of the cell.
    `ResetWhen` and `LearnedStart` around it are refused: WeightDropped stands outside of them.
    Source: Wan et al. 2013; in the recurrent matrix, Merity et al. 2018 (arXiv 1708.02182).

    >>> from nextstate import GRU, scan
    >>> cell = WeightDropped(GRU(3, 4), 0.5)
    >>> first, second = (scan(cell, torch.ones(7, 2, 3))[0] for _ in range(2))
    >>> torch.equal(first[:, 0], first[:, 1]), torch.equal(first, second)
    (True, False)
    """

    draws_start = True
    draws_weights = True

    def __init__(self, cell: Cell, rate: float, weights: tuple[str, ...] = ("weight_hh",)) -> None:
        super().__init__(cell)
        check_rate("WeightDropped", "rate", rate)
        if not isinstance(weights, tuple | list) or not weights:
            refuse("WeightDropped", f"weights is {weights!r}; expected a tuple of one or more names")
        known = {name: p for name, p in cell.named_parameters() if p.is_floating_point()}
        for name in weights:
            if name not in known:
                refuse("WeightDropped", f"there is no weight {name!r}; expected one of {', '.join(known)}")
        self.rate, self.weights = rate, tuple(dict.fromkeys(weights))
        for place, name in enumerate(self.weights):
            # A buffer: the engines read it anew at every call, and it moves with the cell.
            self.register_buffer(f"mask{place}", torch.ones_like(known[name].detach()), persistent=False)

    @property
    def masks(self) -> dict[str, Tensor]:
        """The masks drawn last, by the names of their weights; ones before the first draw."""
        return {name: self.get_buffer(f"mask{place}") for place, name in enumerate(self.weights)}

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tree:
        if self.training and self.rate:
            for place, name in enumerate(self.weights):
                # A new tensor, not a changed one: a gradient still to come may need the mask before.
                mask = F.dropout(torch.ones_like(attrgetter(name)(self.cell)), self.rate)
                setattr(self, f"mask{place}", mask)
        return self.cell.initial_state(batch_size, device=device, dtype=dtype)

    def forward(self, u: Tree, s: Tree) -> tuple[Tree, Tree]:
        if not (self.training and self.rate):
            return self.cell(u, s)
        masked: dict[str, Tensor] = {}
        for name, mask in self.masks.items():
            weight = attrgetter(name)(self.cell)
            masked |= dict.fromkeys(_places(self.cell, weight), weight * mask)
        return torch.func.functional_call(self.cell, masked, (u, s), tie_weights=False)


def _places(cell: Cell, weight: Tensor) -> list[str]:
    """The attributes that hold a weight, each once: it may be tied, and its module stand in two layers."""
    return [
        f"{path}.{name}".lstrip(".")
        for path, module in cell.named_modules()
        for name, held in module._parameters.items()
        if held is weight
    ]
