"""Which model for this text in this time: the rule behind `nextstate train text --minutes`."""

from __future__ import annotations

import math
from dataclasses import replace

from nextstate.checks import refuse
from nextstate.engines.registry import has_bf16
from nextstate.recipes.text import Dropout, Recipe, seconds_a_step
from nextstate.recipes.text_model import Shape
from nextstate.tasks.text import Corpus

RESERVE = 0.04
"""Share of the time kept for measuring and saving."""


def sized(minutes: float, tokens: int) -> Recipe:
    """Sizes by the time there is: two layers of 384, 512 or 640 units; smaller for a text of few tokens.

    >>> [sized(minutes, 1_000_000).shape.hidden for minutes in (1, 5, 60)]
    [384, 512, 640]
    >>> sized(5, 1000).shape.hidden
    128
    """
    if not minutes > 0:
        refuse("train text", f"minutes is {minutes}; it must be positive")
    hidden = 384 if minutes < 3 else 512 if minutes < 45 else 640
    if tokens < 100_000:
        hidden = min(hidden, 256 if tokens > 20_000 else 128)
    return Recipe(Shape("LSTM", 2, 128, hidden), rows=32 if tokens > 20_000 else 8)


def dropout_for(passes: float) -> Dropout:
    """More dropout the more often the training part is read.

    dropout_for : passes -> d before the read-out and between layers, d/2 in the state, d/4 on the table

        d = log2(passes / 2) / 10, at least 0 and at most 0.5

    >>> dropout_for(1.5) == Dropout(), round(dropout_for(16).output, 3)
    (True, 0.3)
    """
    d = min(0.5, max(0.0, 0.1 * math.log2(max(passes, 2) / 2)))
    return Dropout(features=d / 4, between=d, output=d, state=d / 2)


def planned(
    recipe: Recipe, corpus: Corpus, seconds: float, *, bf16: bool = False, dropout: bool = True
) -> Recipe:
    """The recipe with as many steps as fit into `seconds` on this machine, and with dropout to match.

    Steps are timed once, with dropout if there will be any; from then on the run is planned by steps, so
    that it can be taken up again with the same bits. `dropout` False keeps the recipe's own.
    """
    tokens = recipe.rows * recipe.length
    trial = recipe if not dropout else replace(recipe, dropout=dropout_for(8))
    pace = seconds_a_step(trial, corpus, bf16=bf16, seconds=min(4.0, 0.04 * seconds))
    steps = max(1, int((1 - RESERVE) * seconds / pace))
    if not dropout:
        return replace(recipe, steps=steps)
    return replace(recipe, steps=steps, dropout=dropout_for(steps * tokens / corpus.training.tokens))


def bf16_for(precision: str) -> bool:
    """Whether products are made in bfloat16; "auto": where the processor multiplies them fast.

    Raises InputError for another name than 32-true, bf16-mixed and auto.
    """
    if precision not in ("auto", "32-true", "bf16-mixed"):
        refuse("train text", f"precision is {precision!r}; expected 32-true, bf16-mixed or auto")
    return precision == "bf16-mixed" or (precision == "auto" and has_bf16())
