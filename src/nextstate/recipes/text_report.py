"""What a training of a text model leaves beside the weights; and a picture of surprise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nextstate.recipes.text import Recipe
from nextstate.tasks.text import Corpus
from nextstate.training import Record
from nextstate.writing import whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_curve(records: Sequence[Record], characters: float, path: Path) -> None:
    """Loss on the training chunks and on the validation part, in nats a character, over seconds; a PNG.

    `characters`: those in a token, by which the loss of a chunk is divided.
    """
    from matplotlib.figure import Figure  # slow to import, and only training draws

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    seconds, losses = [r.seconds for r in records], [r.loss / characters for r in records]
    axes.plot(seconds, losses, linewidth=0.8, label="training, with dropout")
    measured = [r for r in records if r.evaluation is not None]
    values = [(r.evaluation or {})["nats_per_character"] for r in measured]
    axes.plot([r.seconds for r in measured], values, marker="o", label="validation, averaged weights")
    if values:
        axes.set_ylim(0.9 * min(*values, *losses), min(max(losses), 1.6 * max(values)))
    axes.set(xlabel="seconds of training", ylabel="nats a character")
    bits = axes.secondary_yaxis("right", functions=(_to_bits, _to_nats))
    bits.set_ylabel("bits a character")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def draw_surprise(
    characters: str, nats: np.ndarray, path: Path, *, columns: int = 80, most: int = 4000
) -> None:
    """A text with every character on a colour that says how little it was expected, in bits; a PNG.

    Long lines are broken at `columns`; of a text longer than `most` characters the beginning is drawn.
    """
    from matplotlib.figure import Figure

    rows: list[list[tuple[str, float]]] = [[]]
    for character, surprise in zip(characters[:most], nats[:most] / math.log(2), strict=True):
        if len(rows[-1]) >= columns:
            rows.append([])
        rows[-1].append((_shown(character), float(surprise)))
        if character == "\n":
            rows.append([])
    rows = rows if rows[-1] or len(rows) == 1 else rows[:-1]
    top = 8.0
    image = np.full((len(rows), columns), np.nan)
    for y, row in enumerate(rows):
        image[y, : len(row)] = [min(surprise, top) for _, surprise in row]
    figure = Figure(figsize=(0.11 * columns + 1.2, 0.2 * len(rows) + 0.6), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(image, cmap="YlOrRd", vmin=0, vmax=top, aspect="auto")
    for y, row in enumerate(rows):
        for x, (character, surprise) in enumerate(row):
            colour = "white" if surprise > 0.6 * top else "black"
            text = "" if character == " " else character
            axes.text(
                x,
                y,
                text,
                ha="center",
                va="center",
                family="monospace",
                fontsize=7,
                color=colour,
                parse_math=False,
            )
    axes.set_axis_off()
    bar = figure.colorbar(shown, ax=axes, pad=0.01, fraction=0.04)
    bar.set_label("surprise in bits")
    _save(figure, path)


def _shown(character: str) -> str:
    if character == "\n":
        return "\u21b5"
    return character if character.isprintable() else "\u00b7"


def text_card(
    recipe: Recipe,
    corpus: Corpus,
    *,
    seed: int,
    steps: int,
    seconds: float,
    nats: float,
    measured: int,
    parameters: int,
    command: str,
    processes: int = 1,
) -> str:
    """The card of a trained model, in Markdown: what it does, how it was made, what was measured.

    `seconds` of training, `nats` a character over the first `measured` tokens of the validation part; each
    of `processes` read `rows` rows at a step.
    """
    training, validation = corpus.training, corpus.validation
    passes = processes * steps * recipe.rows * recipe.length / training.tokens
    settings = asdict(recipe)
    shape = settings.pop("shape")
    lines = [
        "# A model of text",
        "",
        "Gives the probability of every next token of a text, and so writes texts. Stacked recurrent cells",
        f"with {parameters:,} weights, float16. Unit: {corpus.unit.name}, {corpus.unit.size} tokens.",
        "",
        "## Training",
        "",
        f"Text with SHA-256 `{corpus.digest}`: the first {training.bytes:,} bytes ({training.characters:,}",
        f"characters, {training.tokens:,} tokens) for training, the last {validation.bytes:,}",
        f"({validation.characters:,} characters) for validation. {steps} steps in {seconds:.0f} seconds,",
        f"seed {seed}; the training part was read {passes:.1f} times.",
        "",
        "```sh",
        command,
        "```",
        "",
        *[f"- {name}: {value}" for name, value in {**shape, **settings}.items()],
        "",
        "## Measured",
        "",
        f"Validation part, {measured_part(measured, corpus)}: {nats:.4f} nats a character,",
        f"{nats / math.log(2):.4f} bits, perplexity {math.exp(nats):.3f}. State carried, averaged weights.",
        "The validation part was used to choose which of the measured states of the run to keep, for nothing",
        "else.",
        "",
    ]
    return "\n".join(lines)


def measured_part(measured: int, corpus: Corpus) -> str:
    """How much of the validation part `measured` tokens are, in words."""
    return "all of it" if measured >= corpus.validation.tokens else f"its first {measured:,} tokens"


def _to_bits(nats: Any) -> Any:
    return nats / math.log(2)


def _to_nats(bits: Any) -> Any:
    return bits * math.log(2)


def _save(figure: Figure, path: Path) -> None:
    import warnings

    with whole("draw", path) as aside, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a sign the font has not is drawn as a box
        figure.savefig(aside, dpi=120, format="png")
