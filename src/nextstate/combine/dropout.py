"""Noise that a recurrent network can bear: one mask a sequence, or now and then an old state kept."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nextstate.cell import Cell
from nextstate.cells.carrying import Carrying
from nextstate.cells.parameters import check_sizes
from nextstate.checks import describe, refuse
from nextstate.combine.structure import LearnedStart
from nextstate.combine.wrapper import Combined, Wrapper, check_rate
from nextstate.states import Tree, leaves, rebuild


class Masks(NamedTuple):
    """The dropout masks of one sequence, [B, ...] each, already scaled; () where nothing is dropped."""

    input: Tree
    state: Tree
    output: Tree


class DroppedState(NamedTuple):
    """State of `Dropped`: that of its cell, and the masks, which every step hands on unchanged."""

    cell: Tree
    masks: Masks


class Dropped(Wrapper):
    """Variational dropout: one mask for a whole sequence on the input, the recurrent product, the output.

    Dropped : Cell (u, s) -> (v, s')  =>  Cell (u, (s, m)) -> (m_output v, (s', m))

        m_x     ~ Bernoulli(1 - rate_x) / (1 - rate_x), drawn in `initial_state`, one for each row and unit
        (v, s') = cell(m_input u, s with m_state on what the products read)

    `state` masks the tensor that the recurrent products read: the state itself, or its first tensor (the h
    of an LSTM, whose memory c stays whole). A `Carrying` cell (the GRUs) carries its state on unmasked.
    In eval mode nothing is dropped, whatever the state holds.

    Shapes: u [B, input_size] and v [B, output_size] where these are dropped; their sizes must then be given,
    since the masks are drawn before the first step.

    Raises InputError for a rate outside 0 <= rate < 1, a size that is missing or wrong, and for `state`
    around a combination: put Dropped next to the cell whose products it is to mask (a LearnedStart may
    stand between them).
    Source: Gal and Ghahramani 2016 (arXiv 1512.05287).

    >>> from nextstate import GRU, scan
    >>> cell = Dropped(GRU(3, 4), input=0.2, state=0.3, input_size=3)
    >>> vs, s = scan(cell, torch.ones(7, 2, 3))
    >>> s.masks.state.shape
    torch.Size([2, 4])
    """

    draws_start = True

    def __init__(
        self,
        cell: Cell,
        *,
        input: float = 0.0,
        state: float = 0.0,
        output: float = 0.0,
        input_size: int | None = None,
        output_size: int | None = None,
    ) -> None:
        super().__init__(cell)
        for name, rate in (("input", input), ("state", state), ("output", output)):
            check_rate("Dropped", name, rate)
        for name, rate, size in (("input", input, input_size), ("output", output, output_size)):
            if rate and size is None:
                refuse("Dropped", f"{name} is {rate}, but {name}_size, the width of the mask, is not given")
            if size is not None:
                check_sizes("Dropped", size)
        core = cell.cell if isinstance(cell, LearnedStart) else cell
        if state and (isinstance(core, Combined) or not leaves(core.initial_state(1))):
            refuse("Dropped", f"state is {state}, but {type(core).__name__} has no state of its own to mask")
        self.input, self.state, self.output = input, state, output
        self.input_size, self.output_size = input_size, output_size

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> DroppedState:
        s = self.cell.initial_state(batch_size, device=device, dtype=dtype)

        def mask(rate: float, *size: int | None) -> Tree:
            if not rate:
                return ()
            ones = torch.ones(batch_size, *size, device=device, dtype=dtype)  # type: ignore[arg-type]
            return torch.nn.functional.dropout(ones, rate, self.training)

        read = leaves(s)[0].shape[1:] if self.state else ()
        masks = Masks(
            mask(self.input, self.input_size), mask(self.state, *read), mask(self.output, self.output_size)
        )
        return DroppedState(s, masks)

    def forward(self, u: Tree, s: DroppedState) -> tuple[Tree, DroppedState]:
        if not isinstance(s, DroppedState):
            refuse("Dropped", f"the state is {describe(s)}; expected one made by initial_state")
        if not self.training:
            v, inner = self.cell(u, s.cell)
            return v, s._replace(cell=inner)
        if self.input:
            u = _masked("input", u, s.masks.input)
        v, inner = self._step(u, s)
        if self.output:
            v = _masked("output", v, s.masks.output)
        return v, s._replace(cell=inner)

    def _step(self, u: Tree, s: DroppedState) -> tuple[Tree, Tree]:
        if not self.state:
            return self.cell(u, s.cell)
        core = self.cell.cell if isinstance(self.cell, LearnedStart) else self.cell
        if isinstance(core, Carrying):
            return core.step(u, s.cell, _masked("state", s.cell, s.masks.state))
        first, *others = leaves(s.cell)
        return core(u, rebuild(s.cell, [_masked("state", first, s.masks.state), *others]))


class Zoneout(Wrapper):
    """Each unit of the state keeps its old value at random, anew at every step.

    Zoneout : Cell (u, s) -> (v, s')  =>  Cell (u, s) -> (v, s'')

        training:  s'' = s  with probability `rate`, else s'
        eval:      s'' = rate s + (1 - rate) s'

    An output that is a tensor of the state (the h of GRU and LSTM) is zoned out with it. `rate` is one number
    or a tuple with one for each tensor of the state, in order: (0.05, 0.5) for the h and c of an LSTM.

    Raises InputError for a rate outside 0 <= rate < 1, or if there are not as many as tensors in the state.
    Source: Krueger et al. 2017 (arXiv 1606.01305).

    >>> from nextstate import LSTM, scan
    >>> vs, s = scan(Zoneout(LSTM(3, 4), rate=(0.05, 0.5)).eval(), torch.ones(7, 2, 3))
    >>> bool((vs[-1] == s.h).all())
    True
    """

    def __init__(self, cell: Cell, rate: float | tuple[float, ...]) -> None:
        super().__init__(cell)
        count = len(leaves(cell.initial_state(1)))
        self.rates = rate if isinstance(rate, tuple) else (rate,) * count
        for one in self.rates:
            check_rate("Zoneout", "rate", one)
        if len(self.rates) != count:
            refuse("Zoneout", f"{len(self.rates)} rates for a state of {count} tensors")

    def forward(self, u: Tree, s: Tree) -> tuple[Tree, Tree]:
        v, s_next = self.cell(u, s)
        old, new = leaves(s), leaves(s_next)
        zoned = [self._zone(*triple) for triple in zip(old, new, self.rates, strict=True)]
        twins = {id(before): after for before, after in zip(new, zoned, strict=True)}
        v = rebuild(v, [twins.get(id(leaf), leaf) for leaf in leaves(v)])
        return v, rebuild(s_next, zoned)

    def _zone(self, old: Tensor, new: Tensor, rate: float) -> Tensor:
        if new is old or not rate:
            return new
        if not self.training:
            return rate * old + (1 - rate) * new
        return old.where(torch.rand_like(new) < rate, new)


def redrawn(start: Tree, s: Tree) -> Tree:
    """The state `s` with the dropout masks of `start`: a sequence goes on under new masks.

    redrawn : (s, s) -> s;  both have the structure of one cell's state, `start` being its initial state.

    In truncated back-propagation every chunk is a sequence of its own for the dropout.

    >>> from nextstate import GRU
    >>> cell = Dropped(GRU(3, 4), state=0.5)
    >>> start, s = cell.initial_state(2), cell(torch.ones(2, 3), cell.initial_state(2))[1]
    >>> new = redrawn(start, s)
    >>> new.cell is s.cell, new.masks is start.masks
    (True, True)
    """
    if isinstance(start, DroppedState):
        return DroppedState(redrawn(start.cell, s.cell), start.masks)
    if isinstance(start, Tensor):
        return s
    parts = [redrawn(new, old) for new, old in zip(start, s, strict=True)]
    return type(start)(*parts) if hasattr(start, "_fields") else tuple(parts)


def _masked(name: str, x: Tree, mask: Tensor) -> Tensor:
    if not isinstance(x, Tensor) or x.shape != mask.shape:
        refuse("Dropped", f"the {name} is {describe(x)}; the mask was drawn for {tuple(mask.shape)}")
    return x * mask
