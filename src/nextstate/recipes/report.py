"""What a training leaves beside the weights: the learning curve as a picture, and the model's card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from nextstate.recipes.sort import Recipe
from nextstate.tasks.sort import Entry, Score
from nextstate.training import Record
from nextstate.writing import whole


def by_law(entries: Iterable[Entry]) -> dict[str, Score]:
    """The entries of an evaluation added up over the lengths."""
    sums: dict[str, Score] = {}
    for entry in entries:
        sums[entry.law] = sums.get(entry.law, Score()) + entry.score
    return sums


def by_length(entries: Iterable[Entry]) -> dict[int, Score]:
    """The entries of an evaluation added up over the laws."""
    sums: dict[int, Score] = {}
    for entry in entries:
        sums[entry.length] = sums.get(entry.length, Score()) + entry.score
    return sums


def draw_curve(records: Sequence[Record], path: Path) -> None:
    """Loss of every record, and the shares measured on unseen lists, over seconds of training; a PNG."""
    from matplotlib.figure import Figure  # slow to import, and only training draws

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([r.seconds for r in records], [r.loss for r in records], linewidth=1)
    left.set(yscale="log", xlabel="seconds of training", ylabel="cross-entropy, nats a number", title="loss")
    measured = [r for r in records if r.evaluation is not None]
    for name in measured[-1].evaluation or {} if measured else {}:
        values = [100 * (r.evaluation or {})[name] for r in measured]
        right.plot([r.seconds for r in measured], values, marker=".", label=name.replace("_", " "))
    right.set(ylim=(-2, 102), xlabel="seconds of training", ylabel="%", title="unseen lists, greedy")
    if measured:
        right.legend(loc="center right")
    with whole("draw_curve", path) as aside:
        figure.savefig(aside, dpi=120, format="png")


def model_card(
    recipe: Recipe, *, seed: int, steps: int, seconds: float, entries: Sequence[Entry], evaluation_seed: int
) -> str:
    """The card of a trained sorter, in Markdown: what it does, how it was made, what was measured."""
    range = recipe.range
    lines = [
        "# A network that sorts",
        "",
        f"Reads a list of {range.lengths()} whole numbers from 1 to {range.largest} and writes as many,",
        "meant to be the same in order. A GRU encoder hands its last state, one vector, to a GRU decoder,",
        "which sees that vector and the number it wrote before. No attention, no copying; nothing mends",
        "the answer.",
        "",
        "## Training",
        "",
        "Random lists made on the fly (`nextstate.tasks.sort.TrainingLists`); no other data.",
        f"{steps} steps in {seconds:.0f} seconds, seed {seed}. Recipe:",
        "",
        *[f"- {name}: {value}" for name, value in asdict(recipe).items()],
        "",
        "## Measured",
        "",
        f"Greedy answers to lists from a separate generator (seed {evaluation_seed}), "
        f"{len({e.length for e in entries})} length(s) from {min(e.length for e in entries)} "
        f"to {max(e.length for e in entries)}.",
        "",
        "| law | lists | numbers right % | whole lists right % | never decreasing % | worst length |",
        "|---|---|---|---|---|---|",
    ]
    for law, score in by_law(entries).items():
        shares = [f"{100 * share:.3f}" for share in score.shares().values()]
        worst = min((e for e in entries if e.law == law), key=lambda e: e.score.shares()["lists_right"])
        at_worst = f"{100 * worst.score.shares()['lists_right']:.2f} at {worst.length}"
        lines.append(f"| {law} | {score.lists} | {' | '.join(shares)} | {at_worst} |")
    lines += [
        "",
        "The last column is the share of whole lists right at the length where it is lowest.",
        "Lists outside the trained lengths or numbers are refused by `nextstate sort`: the network would",
        "answer, and mostly wrongly.",
        "",
    ]
    return "\n".join(lines)
