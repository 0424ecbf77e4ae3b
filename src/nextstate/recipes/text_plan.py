"""Which model for this text in this time: the rule behind `nextstate train text --minutes`."""

from __future__ import annotations

import math
import time
from dataclasses import replace

from nextstate.checks import refuse
from nextstate.engines.registry import has_bf16
from nextstate.recipes.text import Dropout, Recipe, check_rate, seconds_a_step
from nextstate.recipes.text_model import Shape
from nextstate.tasks.text import Corpus
from nextstate.training import check_minutes

RESERVE = 0.08
"""Share of the time kept for measuring, samples, files, and for a machine that slows down."""


def sized(minutes: float, tokens: int, cell: str | None = None) -> Recipe:
    """Sizes by the time there is: one layer, wider for more time, smaller for a short text.

    sized : (minutes, tokens) -> Recipe

    A GRU of 512 to 1,024 units; where the text will be read several times (from 12 minutes on, below 100,000
    tokens a minute) a MogrifierLSTM of about two thirds as many, whose steps take as long. `cell` is another
    choice. Few rows and many steps: at equal work 16 rows end lower than 32. The rate falls as the layer
    gets wider, min(6e-3, 2.5 / units), units being those of the GRU. What was compared: benchmarks/LOG.md.

    Raises InputError for minutes that no run can last.

    >>> for minutes in (1, 5, 20, 60):
    ...     shape = sized(minutes, 1_000_000).shape
    ...     print(shape.cell, shape.hidden)
    GRU 512
    GRU 640
    MogrifierLSTM 512
    MogrifierLSTM 704
    >>> sized(20, 100_000_000).shape.hidden, sized(5, 1000).shape.hidden
    (768, 128)
    """
    check_minutes("train text", minutes)
    units = 512 if minutes < 3 else 640 if minutes < 12 else 768 if minutes < 45 else 1024
    if tokens < 100_000:
        units = min(units, 256 if tokens > 20_000 else 128)
    if cell is None:
        cell = "MogrifierLSTM" if minutes >= 12 and 100_000 <= tokens < 100_000 * minutes else "GRU"
    return Recipe(
        Shape(cell, 1, 128, units * 11 // 16 // 32 * 32 if cell == "MogrifierLSTM" else units),
        rows=16 if tokens > 20_000 else 8,
        length=64 if minutes < 3 else 96,
        rate=min(6e-3, 2.5 / units),
    )


def dropout_for(passes: float) -> Dropout:
    """More dropout the more often the training part is read, none below eleven passes.

    dropout_for : passes -> d before the read-out and between layers, d/2 in the state, d/4 on the table

        d = log2(passes / 8) / 10, at most 0.5; 0 where that is below 0.05

    Up to eight passes `decay_for` alone ends lower, and steps without masks are a tenth faster.

    >>> dropout_for(8) == Dropout(), round(dropout_for(32).output, 3)
    (True, 0.2)
    """
    d = min(0.5, 0.1 * math.log2(max(passes, 8) / 8))
    return Dropout() if d < 0.05 else Dropout(features=d / 4, between=d, output=d, state=d / 2)


def decay_for(recipe: Recipe, tokens: int, processes: int = 1) -> float:
    """Weight decay under which the weights are an average over the last three passes.

    decay_for : (recipe, tokens) -> decay

        decay = processes x rows x length / (3 x rate x tokens), at least 0.01 and at most 0.4

    Under AdamW a weight is a moving average of its updates, over 1 / (rate x decay) steps at the highest
    rate. Of a text of many millions of tokens 0.01 is left.

    Raises InputError for a rate that is not a positive number.
    Source: Wang and Aitchison 2024 (arXiv 2405.13698): what to keep over sizes is this time, in passes.

    >>> recipe = sized(20, 1_000_000)
    >>> [round(decay_for(recipe, tokens), 3) for tokens in (100_000, 1_000_000, 100_000_000)]
    [0.4, 0.157, 0.01]
    """
    check_rate(recipe.rate)
    decay = processes * recipe.rows * recipe.length / (3 * recipe.rate * max(1, tokens))
    return min(0.4, max(0.01, decay))


def planned(
    recipe: Recipe,
    corpus: Corpus,
    seconds: float,
    *,
    bf16: bool = False,
    dropout: bool = True,
    processes: int = 1,
) -> Recipe:
    """The recipe with as many steps as fit into `seconds` on this machine, and with dropout to match.

    Steps are timed once, and again with dropout if there will be any; that time counts too. From then on the
    run is planned by steps, so that it can be taken up again with the same bits. `dropout` False keeps the
    recipe's own; that of weights is the recipe's in any case. Each of several `processes`
    reads so many tokens at a step.
    """
    began, tokens = time.perf_counter(), recipe.rows * recipe.length

    def fitting(recipe: Recipe) -> Recipe:
        pace = seconds_a_step(recipe, corpus, bf16=bf16, seconds=min(3.0, 0.02 * seconds))
        left = max((1 - RESERVE) * seconds - (time.perf_counter() - began), seconds / 2)
        return replace(recipe, steps=max(1, int(left / pace)))

    if not dropout:
        return fitting(recipe)
    weights = recipe.dropout.weights
    plain = fitting(replace(recipe, dropout=Dropout(weights=weights)))
    passes = processes * plain.steps * tokens / corpus.training.tokens
    rates = replace(dropout_for(passes), weights=weights)
    return plain if rates == plain.dropout else fitting(replace(recipe, dropout=rates))


def bf16_for(precision: str) -> bool:
    """Whether products are made in bfloat16; "auto": where the processor multiplies them fast.

    Raises InputError for another name than 32-true, bf16-mixed and auto.
    """
    if precision not in ("auto", "32-true", "bf16-mixed"):
        refuse("train text", f"precision is {precision!r}; expected 32-true, bf16-mixed or auto")
    return precision == "bf16-mixed" or (precision == "auto" and has_bf16())
