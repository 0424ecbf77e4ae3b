"""Training a cell on the tasks of the Chomsky hierarchy, and scoring it on words far longer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.cell import Cell
from nextstate.cells import GRU, LSTM, Elman, StackRNN
from nextstate.checks import refuse
from nextstate.machines.chomsky.batches import SILENT, Spelling, TrainingWords, WordBatch, score
from nextstate.run import engine, scan
from nextstate.training import (
    Checkpoints,
    Evaluation,
    Indexed,
    Loss,
    Record,
    Steps,
    TrainState,
    fit,
    warmup_cosine,
)

CELLS: dict[str, Callable[[int, int], Cell]] = {
    "rnn": Elman,
    "gru": GRU,
    "lstm": LSTM,
    "stack": lambda letters, hidden: StackRNN(letters, hidden, stack_width=8, depth=LONGEST + 2),
}
LONGEST = 40
"""Words of training have lengths 1..40, as published."""

LENGTHS = range(41, 501, 9)
"""52 of the published test lengths 41..500, both ends among them."""

PUBLISHED: dict[str, dict[str, float]] = {
    "even pairs": {"rnn": 100.0, "stack": 100.0, "lstm": 100.0},
    "modular arithmetic (simple)": {"rnn": 100.0, "stack": 100.0, "lstm": 100.0},
    "parity check": {"rnn": 100.0, "stack": 100.0, "lstm": 100.0},
    "cycle navigation": {"rnn": 100.0, "stack": 100.0, "lstm": 100.0},
    "stack manipulation": {"rnn": 56.0, "stack": 100.0, "lstm": 59.1},
    "reverse string": {"rnn": 62.0, "stack": 100.0, "lstm": 60.9},
    "modular arithmetic": {"rnn": 41.3, "stack": 96.1, "lstm": 59.2},
    "solve equation": {"rnn": 51.0, "stack": 56.2, "lstm": 67.8},
    "duplicate string": {"rnn": 50.3, "stack": 52.8, "lstm": 57.6},
    "missing duplicate": {"rnn": 52.3, "stack": 55.2, "lstm": 54.3},
    "odds first": {"rnn": 51.0, "stack": 51.9, "lstm": 55.6},
    "binary addition": {"rnn": 50.3, "stack": 52.7, "lstm": 55.5},
    "binary multiplication": {"rnn": 50.0, "stack": 52.7, "lstm": 53.1},
    "compute sqrt": {"rnn": 54.3, "stack": 56.5, "lstm": 57.5},
    "bucket sort": {"rnn": 27.9, "stack": 78.1, "lstm": 99.3},
}
"""Delétang et al. 2023: the best of 10 seeds and 3 learning rates, 10^6 steps each; it has no GRU."""

FITTING = tuple(task for task, scores in PUBLISHED.items() if max(scores.values()) >= 90)
"""The tasks trained here: those that a cell of these kinds solved there, by its criterion of 90 %."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides how a network comes out, but for the task, the cell and the seed.

    Adam with a learning rate for each cell, after a linear warm-up over the first twentieth, then a cosine
    to 0; the gradient clipped at norm 1. One half of a batch has lengths to 40, the other to
    `start + growth step`. It ends early once `patience` checks, `every` steps apart, found no error on
    held-out words of the trained lengths.
    """

    hidden: int = 64
    batch: int = 64
    steps: int = 5000
    rates: Mapping[str, float] = field(
        default_factory=lambda: {"rnn": 3e-3, "gru": 1e-2, "lstm": 1e-2, "stack": 3e-3}
    )
    start: int = 3
    growth: float = 0.01
    every: int = 250
    patience: int = 3


class Writer(nn.Module):
    """A cell that reads letters one-hot, and a linear read-out of its output: a score for every symbol.

    Writer : ids [T, B], lengths [B] -> scores [T, B, symbols]
    """

    def __init__(self, cell: Cell, letters: int, hidden: int, symbols: int) -> None:
        super().__init__()
        self.cell, self.letters = cell, letters
        self.readout = nn.Linear(hidden, symbols)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        us = F.one_hot(ids, self.letters).to(self.readout.weight)
        vs, _ = scan(self.cell, us, lengths=lengths)
        return self.readout(vs)

    @torch.no_grad()
    def answer(self, batch: WordBatch) -> Tensor:
        """The best symbol at every place [T, B]; for words longer than the trained ones a stack is deeper."""
        longest = len(batch.ids)
        if not isinstance(self.cell, StackRNN) or longest <= 2 * LONGEST + 1:
            return self(batch.ids, batch.lengths).argmax(-1)
        depth, self.cell.depth = self.cell.depth, longest + 2
        try:
            # the CPU engine would compile each depth anew, and has no room for hundreds of cells
            with engine("reference"):
                return self(batch.ids, batch.lengths).argmax(-1)
        finally:
            self.cell.depth = depth


def writing_loss(model: nn.Module, batch: WordBatch, carry: object) -> Loss:
    """Cross-entropy in nats a symbol of the answer, with the share of symbols right."""
    scores: Tensor = model(batch.ids, batch.lengths)
    value = F.cross_entropy(scores.flatten(0, 1), batch.answers.flatten(), ignore_index=SILENT)
    with torch.no_grad():
        asked = batch.answers != SILENT
        right = (scores.argmax(-1) == batch.answers) & asked
    return Loss(value, metrics={"right": right.sum() / asked.sum()})


@dataclass
class Run:
    """The training of one cell on one task: iterate over `records()`, then take `result()`."""

    task: str
    cell: str
    seed: int
    recipe: Recipe
    spelling: Spelling
    state: TrainState
    checkpoints: Checkpoints | None

    def records(self) -> Iterator[Record]:
        def measure(model: nn.Module) -> dict[str, float]:
            return {"right": trained_lengths(cast(Writer, model), self.spelling)}

        return fit(
            self.state,
            writing_loss,
            Steps(self.recipe.steps),
            schedule=warmup_cosine(0.05),
            report_every=100,
            evaluation=Evaluation(measure, self.recipe.every, faultless(self.recipe.patience)),
            checkpoints=self.checkpoints,
        )

    def result(self, lengths: Sequence[int] = LENGTHS, words: int = 16) -> Result:
        model = cast(Writer, self.state.model)
        model.eval()
        by_length = score(model.answer, self.spelling, lengths, words, "test")
        return Result(
            self.task,
            self.cell,
            self.seed,
            self.state.step,
            self.state.seconds / 60,
            self.recipe.hidden,
            trained_lengths(model, self.spelling),
            sum(by_length.values()) / len(by_length),
            by_length,
        )


@dataclass(frozen=True)
class Result:
    """What a trained network scored: `trained` on held-out words of the trained lengths, `score` on the
    longer ones, the mean over the lengths of `by_length`; all are shares of symbols right."""

    task: str
    cell: str
    seed: int
    steps: int
    minutes: float
    hidden: int
    trained: float
    score: float
    by_length: Mapping[int, float]


def trained_lengths(model: Writer, spelling: Spelling) -> float:
    """The share of symbols right, the mean over the lengths 1..40, on words held out from the training."""
    found = score(model.answer, spelling, range(1, LONGEST + 1), 8, "held out")
    return sum(found.values()) / len(found)


def faultless(times: int) -> Callable[[Sequence[Mapping[str, float]]], bool]:
    """Enough once the last so many checks found no error.

    >>> faultless(2)([{"right": 0.5}, {"right": 1.0}]), faultless(2)([{"right": 1.0}, {"right": 1.0}])
    (False, True)
    """
    return lambda history: len(history) >= times and all(entry["right"] == 1.0 for entry in history[-times:])


def prepare(
    task: str, cell: str, *, seed: int = 0, recipe: Recipe | None = None, checkpoints: Path | None = None
) -> Run:
    """A run of a cell on a task; the same seed gives the same bits on the same machine. With a folder for
    checkpoints an interrupted run is taken up again.

    Raises InputError for a task or cell that there is none of.
    """
    if cell not in CELLS:
        refuse("tasks", f"there is no cell {cell!r}; the names are {', '.join(CELLS)}")
    recipe = Recipe() if recipe is None else recipe
    spelling = Spelling.of(task)
    torch.manual_seed(seed)
    letters = len(spelling.letters)
    model = Writer(CELLS[cell](letters, recipe.hidden), letters, recipe.hidden, len(spelling.symbols))
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.rates[cell], fused=True)
    words = TrainingWords(spelling, LONGEST, recipe.batch, recipe.start, recipe.growth, seed)
    kept = None if checkpoints is None else Checkpoints(checkpoints, recipe.every)
    return Run(task, cell, seed, recipe, spelling, TrainState(model, optimiser, Indexed(words)), kept)
