"""Every cell and every combination, one row each. A new cell is one row here and gets every general test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import nextstate as ns
from nextstate.networks import Decoder
from nextstate.states import Tree, tree_map


@dataclass(frozen=True)
class Row:
    name: str
    make: Callable[[int, int], ns.Cell]
    """(input size, hidden size) -> cell"""
    inputs: str = "features"
    """features [T, B, I], ids [T, B], or resets: (features, reset [T, B] bool)"""
    constants: tuple[int, ...] = ()
    """which tensors of the state are constants of the sequence: handed on unchanged"""

    def cell(self, inputs: int = 3, hidden: int = 5, dtype: torch.dtype = torch.float64) -> ns.Cell:
        """The cell with random non-zero parameters, biases included."""
        return randomise_(self.make(inputs, hidden)).to(dtype)

    def us(self, steps: int, batch: int, inputs: int = 3, dtype: torch.dtype = torch.float64) -> Tree:
        if self.inputs == "ids":
            return torch.randint(0, VOCABULARY, (steps, batch))
        features = torch.randn(steps, batch, inputs, dtype=dtype)
        if self.inputs == "features":
            return features
        return features, torch.rand(steps, batch) < 0.3


VOCABULARY = 7


def randomise_(module: nn.Module, scale: float = 0.4) -> nn.Module:
    """Every parameter drawn anew, away from zero on average; gains stay near 1."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(1.0 if name.rsplit(".", 1)[-1].startswith("gain") else 0.05, scale)
    return module


def random_state(cell: ns.Cell, batch: int, dtype: torch.dtype = torch.float64) -> Tree:
    """A state of the right structure with nothing in it zero or equal between rows."""
    return tree_map(torch.randn_like, cell.initial_state(batch, dtype=dtype))


def leaky(inputs: int, hidden: int) -> ns.FunctionCell:
    """A cell of two lambdas, as a user may write it."""
    weights = nn.ModuleDict(
        {"input": nn.Linear(inputs, hidden), "recurrent": nn.Linear(hidden, hidden, bias=False)}
    )
    return ns.FunctionCell(
        lambda u, h: (torch.tanh(weights["input"](u) + weights["recurrent"](h)) + h,) * 2,
        lambda b, **kw: torch.zeros(b, hidden, **kw),
        weights,
    )


def memoryless(inputs: int, hidden: int) -> ns.FunctionCell:
    layer = nn.Linear(inputs, hidden)
    return ns.FunctionCell(lambda u, s: (layer(u).sin(), s), lambda b, **kw: (), layer)


class LowRank(ns.Cell):
    """A user's cell with work on parameters alone and on the input alone, and two outputs."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.skew = nn.Parameter(torch.empty(hidden, hidden))
        self.input = nn.Linear(inputs, hidden)

    def initial_state(self, batch_size: int, *, device=None, dtype=None) -> Tensor:
        return torch.zeros(batch_size, len(self.skew), device=device, dtype=dtype)

    def forward(self, u: Tensor, h: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        h = h + 0.1 * torch.tanh(h @ (self.skew - self.skew.T) + self.input(u))
        return (h, h.square().sum(-1, keepdim=True)), h


CELLS = (
    Row("Elman", ns.Elman),
    Row("Elman relu", lambda i, h: ns.Elman(i, h, activation=nn.ReLU())),
    Row("GRU", ns.GRU),
    Row("ResetBeforeGRU", ns.ResetBeforeGRU),
    Row("LayerNormGRU", ns.LayerNormGRU),
    Row("MinGRU", ns.MinGRU),
    Row("LSTM", ns.LSTM),
    Row("PeepholeLSTM", ns.PeepholeLSTM),
    Row("ProjectedLSTM", lambda i, h: ns.ProjectedLSTM(i, h, max(1, h - 2))),
    Row("CoupledLSTM", ns.CoupledLSTM),
    Row("LayerNormLSTM", ns.LayerNormLSTM),
    Row("MogrifierLSTM", ns.MogrifierLSTM),
    Row("StackRNN", lambda i, h: ns.StackRNN(i, h, stack_width=2, depth=4)),
)

COMBINATIONS = (
    Row("Stacked GRU LSTM", lambda i, h: ns.Stacked(ns.GRU(i, h), ns.LSTM(h, h + 1))),
    Row("Residual GRU", lambda i, h: ns.Residual(ns.GRU(i, i))),
    Row("ResetWhen LSTM", lambda i, h: ns.ResetWhen(ns.LSTM(i, h)), inputs="resets"),
    Row("ResetWhen LearnedStart GRU", lambda i, h: ns.ResetWhen(ns.LearnedStart(ns.GRU(i, h))), "resets"),
    Row(
        "Dropped GRU",
        lambda i, h: ns.Dropped(ns.GRU(i, h), input=0.3, state=0.4, output=0.2, input_size=i, output_size=h),
        constants=(1, 2, 3),
    ),
    Row("Dropped LSTM", lambda i, h: ns.Dropped(ns.LSTM(i, h), state=0.4), constants=(2,)),
    Row("Dropped Elman", lambda i, h: ns.Dropped(ns.Elman(i, h), input=0.4, input_size=i), constants=(1,)),
    Row("WeightDropped GRU, eval", lambda i, h: ns.WeightDropped(ns.GRU(i, h), 0.4).eval()),
    Row("Zoneout LSTM, eval", lambda i, h: ns.Zoneout(ns.LSTM(i, h), (0.1, 0.5)).eval()),
    Row("LearnedStart GRU", lambda i, h: ns.LearnedStart(ns.GRU(i, h))),
    Row("Embedded GRU", lambda i, h: ns.Embedded(ns.GRU(i, h), VOCABULARY, i), inputs="ids"),
    Row("Decoder", lambda i, h: Decoder(ns.GRU(i + 2, h), VOCABULARY, i, 2, h), "ids", constants=(1,)),
    Row("WithState LSTM", lambda i, h: ns.WithState(ns.LSTM(i, h))),
    Row(
        "Embedded Stacked Residual LearnedStart Dropped",
        lambda i, h: ns.Embedded(
            ns.Stacked(
                ns.Residual(ns.Dropped(ns.LearnedStart(ns.LayerNormGRU(i, i)), state=0.3)), ns.MinGRU(i, h)
            ),
            VOCABULARY,
            i,
        ),
        inputs="ids",
        constants=(1,),
    ),
    Row("two lambdas", leaky),
    Row("two lambdas without memory", memoryless),
    Row("LowRank", LowRank),
)

ROWS = CELLS + COMBINATIONS
BY_NAME = {row.name: row for row in ROWS}
