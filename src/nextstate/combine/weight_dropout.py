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
    `scan` draws them for every sequence, `initial_state` for every chunk of a longer one. The whole batch
    reads one matrix, which the engine masks once a sequence: a step costs what it costs without.

    Shapes: those of the cell.

    Raises InputError for a rate outside 0 <= rate < 1, or a name that is no floating parameter of the cell.
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
        known = dict(cell.named_parameters())
        for name in weights:
            if name not in known:
                refuse("WeightDropped", f"there is no weight {name!r}; expected one of {', '.join(known)}")
        self.rate, self.weights = rate, tuple(weights)
        self.masks: dict[str, Tensor] = {}

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tree:
        if self.training and self.rate:
            ones = ((name, torch.ones_like(self.cell.get_parameter(name))) for name in self.weights)
            self.masks = {name: F.dropout(one, self.rate) for name, one in ones}
        return self.cell.initial_state(batch_size, device=device, dtype=dtype)

    def forward(self, u: Tree, s: Tree) -> tuple[Tree, Tree]:
        if not (self.training and self.masks):
            return self.cell(u, s)
        masked = {name: attrgetter(name)(self.cell) * mask for name, mask in self.masks.items()}
        return torch.func.functional_call(self.cell, masked, (u, s))
