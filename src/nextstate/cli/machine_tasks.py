"""`nextstate machine tasks`: cells trained on the tasks of the Chomsky hierarchy, scored on longer words."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nextstate.checks import refuse
from nextstate.writing import folder_of

if TYPE_CHECKING:  # imported when training starts: the other commands must answer at once
    from nextstate.training import Record


def tasks(
    task: Annotated[list[str] | None, typer.Option(help="A task by name, such as 'reverse string'.")] = None,
    cell: Annotated[list[str] | None, typer.Option(help="rnn, gru, lstm or stack.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and words.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="At most so many, instead of 5000.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for results, table and picture.")] = Path("runs/tasks"),
    json_output: Annotated[bool, typer.Option("--json", help="A JSON object a result on stdout.")] = False,
) -> None:
    """Train cells on words of lengths 1 to 40, score them on lengths 41 to 500 (Delétang et al. 2023).

    Without --task: the eight tasks of the fifteen that an RNN, an LSTM or a stack RNN solved in that paper.
    A pair that --out holds already is not trained again, and an interrupted one is taken up where its
    checkpoint stands.
    """
    from dataclasses import replace

    import torch

    from nextstate.engines.threads import set_threads
    from nextstate.machines.chomsky import TASKS
    from nextstate.recipes.chomsky import CELLS, FITTING, Recipe, prepare
    from nextstate.recipes.chomsky_report import draw_results, read_results, table, write_results

    for given, known, kind in ((task, TASKS, "task"), (cell, CELLS, "cell")):
        for name in given or ():
            if name not in known:
                refuse("machine tasks", f"there is no {kind} {name!r}; the names are {', '.join(known)}")
    # The cores are for the engine: what torch does between its runs is too small to share.
    set_threads(torch.get_num_threads())
    torch.set_num_threads(1)
    recipe = Recipe() if steps is None else replace(Recipe(), steps=steps)
    folder_of("machine tasks", out)
    results = read_results(out / "results.json", recipe)
    for name in task or FITTING:
        for kind in cell or CELLS:
            done = [r for r in results if (r.task, r.cell, r.seed) == (name, kind, seed)]
            if not done:
                folder = out / f"checkpoints-{name.replace(' ', '-')}-{kind}-{seed}"
                run = prepare(name, kind, seed=seed, recipe=recipe, checkpoints=folder)
                with _display(f"{name}, {kind}", recipe.steps) as show:
                    for record in run.records():
                        show(record)
                done = [run.result()]
                results += done
                write_results(results, out / "results.json", recipe)
                shutil.rmtree(folder, ignore_errors=True)
            if json_output:
                print(json.dumps(asdict(done[0])), flush=True)
            else:
                print(
                    f"{name}, {kind}: {100 * done[0].score:.1f} % on lengths 41 to 500, "
                    f"{100 * done[0].trained:.1f} % on 1 to 40; {done[0].steps} steps, "
                    f"{done[0].minutes:.1f} minutes, seed {seed}",
                    flush=True,
                )
    shown = [r for r in results if r.seed == seed]
    (out / "table.md").write_text(table(shown))
    draw_results(shown, out / "lengths.png")
    print(f"wrote {out}/results.json, table.md, lengths.png", file=sys.stderr)


@contextmanager
def _display(title: str, steps: int) -> Iterator[Callable[[Record], None]]:
    """Progress on stderr: a live line on a terminal, or a line for every check."""
    if not sys.stderr.isatty():

        def line(record: Record) -> None:
            if record.evaluation is not None:
                left = (steps - record.step) / record.rate
                print(
                    f"{title}: step {record.step}, loss {record.loss:.4f}, "
                    f"{record.evaluation['right']:.2%} right, {record.rate:.0f} steps/s, {left:.0f} s left",
                    file=sys.stderr,
                    flush=True,
                )

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (BarColumn(20), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(title, total=steps)
        right = 0.0

        def live(record: Record) -> None:
            nonlocal right
            right = right if record.evaluation is None else record.evaluation["right"]
            told = f"{title}: loss {record.loss:.4f}, {right:.2%} right, {record.rate:.0f} steps/s"
            progress.update(bar, completed=record.step, description=told)

        yield live
