"""What the fifteen tasks leave: results in a file that grows pair by pair, a table, a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from nextstate.checks import refuse
from nextstate.machines.chomsky import TASKS
from nextstate.recipes.chomsky import CELLS, FITTING, PUBLISHED, Recipe, Result
from nextstate.writing import whole


def read_results(path: Path, recipe: Recipe) -> list[Result]:
    """The results in a file; none if there is no file yet.

    Raises InputError if the file holds results of another recipe, or none that can be read.
    """
    if not path.exists():
        return []
    try:
        document = json.loads(path.read_text())
        if document["recipe"] != asdict(recipe):
            refuse("machine tasks", f"{path} holds results of another recipe; name another --out")
        return [
            Result(**{**row, "by_length": {int(n): share for n, share in row["by_length"].items()}})
            for row in document["trained"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        refuse("machine tasks", f"{path} holds no results of this command ({error}); name another --out")


def write_results(results: Sequence[Result], path: Path, recipe: Recipe) -> None:
    """All results as JSON, aside first and then renamed."""
    document = {"recipe": asdict(recipe), "trained": [asdict(result) for result in results]}
    with whole("machine tasks", path) as aside:
        aside.write_text(json.dumps(document, indent=1))


def table(results: Sequence[Result]) -> str:
    """The results beside the constructed machines and the published scores, in Markdown."""
    found = {(r.task, r.cell): r for r in results}
    lines = [
        f"| level | task | constructed | {' | '.join(f'trained: {cell}' for cell in CELLS)} "
        f"| published: {', '.join(('rnn', 'lstm', 'stack'))} |",
        "|---" * (4 + len(CELLS)) + "|",
    ]
    for task, entry in TASKS.items():
        scores = [_cell(found.get((task, cell)), task) for cell in CELLS]
        published = " / ".join(f"{PUBLISHED[task][cell]:.1f}" for cell in ("rnn", "lstm", "stack"))
        lines.append(f"| {entry.level} | {task} | 100.0 | {' | '.join(scores)} | {published} |")
    return "\n".join(lines) + "\n"


def _cell(result: Result | None, task: str) -> str:
    if result is None:
        return "" if task in FITTING else "not run"
    return f"{100 * result.score:.1f} ({result.steps} steps, {result.minutes:.1f} min)"


def draw_results(results: Sequence[Result], path: Path) -> None:
    """A panel a task: the share of symbols right at each tested length, a line a cell; a PNG."""
    from matplotlib.figure import Figure  # slow to import, and only this draws

    tasks = [task for task in TASKS if any(r.task == task for r in results)]
    columns = min(4, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.6 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for panel in panels[len(tasks) :]:
        panel.set_axis_off()
    for panel, task in zip(panels, tasks, strict=False):
        for number, cell in enumerate(CELLS):
            for result in (r for r in results if (r.task, r.cell) == (task, cell)):
                shares = [100 * share for share in result.by_length.values()]
                panel.plot(list(result.by_length), shares, label=cell, color=f"C{number}", linewidth=1.2)
        panel.axvline(40, color="gray", linewidth=0.8, linestyle=":")
        panel.set(title=task, ylim=(0, 104), xlim=(0, 505))
        panel.title.set_fontsize(10)
    panels[0].legend(fontsize=8, loc="lower left")
    figure.supxlabel("length of the input (trained to 40)")
    figure.supylabel("symbols right, %")
    with whole("machine tasks", path) as aside:
        figure.savefig(aside, dpi=120, format="png")
