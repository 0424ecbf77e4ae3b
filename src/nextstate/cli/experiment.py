"""`nextstate experiment NAME`: where plain recurrent networks fail, and what mends them, measured anew."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nextstate.checks import refuse
from nextstate.writing import folder_of, write_text

if TYPE_CHECKING:  # imported when an experiment starts: the other commands must answer at once
    from nextstate.recipes.memory_tasks import Experiment, Outcome


def experiment(
    name: Annotated[
        str,
        typer.Argument(
            help="copy-100, copy-500, copy-1000, adding, xor, digits, permuted-digits or gradient-descent."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for figures and pictures; runs/experiment-NAME unless said.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and training data.")] = 0,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Steps instead of the experiment's; exit code 0 then, whatever comes out."),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Train networks on a task of memory, with the baseline, and draw what became of them.

    An experiment that was interrupted goes on where it stood. Exit code 1 if a network did not do what is
    claimed of it (docs/dynamics.md has the claims); with --steps never: nothing is claimed then.
    """
    folder = Path("runs") / f"experiment-{name}" if out is None else out
    if name == "gradient-descent":
        if steps is not None or seed:
            refuse("experiment", "gradient-descent has no --seed and no --steps: its figures are fixed")
        _descent(folder, json_output)
        return
    import torch

    from nextstate.engines.threads import set_threads
    from nextstate.recipes.memory_tasks import EXPERIMENTS, Outcome, results, run

    if name not in EXPERIMENTS:
        refuse(
            "experiment",
            f"no experiment is called {name!r}; there are {', '.join([*EXPERIMENTS, 'gradient-descent'])}",
        )
    chosen = EXPERIMENTS[name]
    settings = json.dumps({"experiment": name, "seed": seed, "steps": steps or chosen.steps})
    _same_run(folder, settings)
    # A vanished gradient is full of subnormal numbers, which slow a CPU down tenfold: to zero with them. The
    # threads of the engine take this over from the thread that starts them.
    torch.set_flush_denormal(True)
    set_threads(torch.get_num_threads())
    torch.set_num_threads(1)
    outcomes: list[Outcome] = []
    with _progress() as show:
        for variant, happened in run(name, folder, seed=seed, steps=steps):
            if isinstance(happened, Outcome):
                outcomes.append(happened)
            else:
                left = happened.seconds * (1 - happened.progress) / max(happened.progress, 1e-9)
                figure = (happened.evaluation or {}).get("figure", happened.loss)
                show(
                    f"{variant}: step {happened.step}, {happened.rate:.1f} steps/s, "
                    f"{chosen.unit} {figure:.4g}, {left:.0f} s left"
                )
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / "run.json").unlink()
    if json_output:
        print(json.dumps(results(name, chosen, outcomes, seed)))
    else:
        _print_table(chosen, outcomes)
    print(f"wrote {folder}/results.json, results.png", file=sys.stderr)
    if steps is None and not all(outcome.as_claimed for outcome in outcomes):
        raise typer.Exit(1)


def _descent(folder: Path, json_output: bool) -> None:
    from nextstate.recipes.gradient_descent import draw, figures

    folder_of("experiment", folder)
    found = figures()
    write_text(folder / "results.json", json.dumps(found, indent=1))
    draw(folder / "results.png")
    print(json.dumps(found) if json_output else "\n".join(f"{key}: {found[key]}" for key in found))
    print(f"wrote {folder}/results.json, results.png", file=sys.stderr)


def _same_run(folder: Path, settings: str) -> None:
    """Begin a run in a folder, or make sure that the unfinished one found there is this one."""
    folder_of("experiment", folder)
    note = folder / "run.json"
    if note.exists():
        if note.read_text() != settings:
            refuse("experiment", f"{folder} holds an unfinished run with other settings; name another --out")
        return
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    write_text(note, settings)


class _progress:
    """A live line on a terminal, one line a report elsewhere."""

    def __enter__(self) -> _progress:
        from rich.console import Console
        from rich.status import Status

        self.console = Console(stderr=True)
        self.status = Status("starting", console=self.console) if self.console.is_terminal else None
        if self.status is not None:
            self.status.start()
        return self

    def __call__(self, text: str) -> None:
        if self.status is not None:
            self.status.update(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self.status is not None:
            self.status.stop()


def _print_table(chosen: Experiment, outcomes: list[Outcome]) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{chosen.title}: {chosen.unit}; without memory {chosen.baseline:.4g}, solved {chosen.goal:.4g}"
    table = Table("", "figure", "solved", "as claimed", "reach before", "after", "seconds", title=title)
    for outcome in outcomes:
        claim = "-" if outcome.claimed is None else "yes" if outcome.as_claimed else "NO"
        table.add_row(
            outcome.variant,
            f"{outcome.figure:.4g}",
            "yes" if outcome.solved else "no",
            claim,
            str(outcome.reach_before),
            str(outcome.reach_after),
            f"{outcome.seconds:.0f}",
        )
    Console().print(table)
