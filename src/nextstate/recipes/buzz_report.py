"""What a training of a Buzzometer leaves beside the model: card, confusion matrix, calibration plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nextstate.recipes.buzz import Recipe
from nextstate.tasks.buzz.measure import Figures
from nextstate.writing import whole


def draw_confusion(figures: Figures, path: Path) -> None:
    """The confusion matrix as a PNG: rows are true labels, shares of a row as shades, counts as numbers."""

    def draw(axes: Any) -> None:
        names = list(figures.classes)
        shares = [[n / max(1, sum(row)) for n in row] for row in figures.confusion]
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set(
            xlabel="given", ylabel="true", title=f"{figures.texts} texts, {_percent(figures.accuracy)} right"
        )
        # A label is what the data says: two dollar signs in it begin no formula.
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right", parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
        if len(names) <= 12:
            for row, counts in enumerate(figures.confusion):
                for column, count in enumerate(counts):
                    colour = "white" if shares[row][column] > 0.5 else "black"
                    axes.text(column, row, str(count), ha="center", va="center", color=colour)

    _draw(draw, path)


def draw_calibration(figures: Figures, path: Path) -> None:
    """Share right against probability stated, as a PNG; the diagonal is what it should be."""

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
        most = max(part.answers for part in figures.bins)
        axes.bar(
            [part.stated for part in figures.bins],
            [part.answers / most for part in figures.bins],
            width=0.03,
            color="lightgrey",
            label="answers (relative)",
        )
        axes.plot(
            [part.stated for part in figures.bins],
            [part.right for part in figures.bins],
            marker="o",
            label="share right",
        )
        axes.set(
            xlim=(0, 1),
            ylim=(0, 1),
            xlabel="probability stated",
            ylabel="share right",
            title=f"expected calibration error {_percent(figures.calibration_error)}",
        )
        axes.legend(loc="upper left")

    _draw(draw, path)


def _draw(draw: Callable[[Any], None], path: Path) -> None:
    from matplotlib.figure import Figure  # slow to import, and only reports draw

    figure = Figure(figsize=(5, 4.5), layout="constrained")
    draw(figure.subplots())
    with whole("draw", path) as aside:
        figure.savefig(aside, dpi=120, format="png")


def figures_table(figures: Figures) -> list[str]:
    """Lines of a Markdown table: one class a line."""
    lines = ["| class | texts | precision % | recall % | F1 % |", "|---|---|---|---|---|"]
    for name, found in figures.classes.items():
        values = " | ".join(_number(value) for value in (found.precision, found.recall, found.f1))
        lines.append(f"| {_cell(name)} | {found.texts} | {values} |")
    return lines


def _cell(name: str) -> str:
    """A label inside a Markdown table, which a bar or a line break would tear.

    >>> _cell("this|that")
    'this\\\\|that'
    """
    return "<br>".join(name.replace("|", "\\|").splitlines())


def model_card(
    recipe: Recipe,
    *,
    title: str,
    data: Sequence[str],
    seed: int,
    took: str,
    measured: dict[str, Figures],
    command: str,
) -> str:
    """The card of a trained Buzzometer, in Markdown: what it is, its data, how it was made and measured.

    `took` says how long training was, in words: "900 steps in 70 seconds".
    """
    beside = ", together with a\nlinear model of all runs of one to three words" if recipe.ngrams else ""
    lines = [
        f"# {title}",
        "",
        "Text in; label, score and calibrated probability out. A bidirectional GRU reads the words of a text",
        f"in pieces; of each feature of the words the largest and the mean decide{beside}.",
        "",
        "## Data",
        "",
        *[f"- {line}" for line in data],
        "",
        "## Training",
        "",
        "```sh",
        command,
        "```",
        "",
        f"{took}, seed {seed}. Recipe:",
        "",
        *[f"- {name}: {value}" for name, value in asdict(recipe).items()],
        "",
        "## Measured",
    ]
    for name, figures in measured.items():
        lines += [
            "",
            f"{name}: {figures.texts} texts, accuracy {_number(figures.accuracy)} %, macro F1 "
            f"{_number(figures.macro_f1)} %, expected calibration error "
            f"{_number(figures.calibration_error)} %.",
            "",
            *figures_table(figures),
        ]
    return "\n".join([*lines, ""])


def _number(share: float) -> str:
    return f"{100 * share:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
