"""`nextstate train sort`: train a sorter with live progress; leaves the model, its card and its curve."""

from __future__ import annotations

import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nextstate.checks import refuse
from nextstate.cli import run_note, run_told
from nextstate.writing import folder_of, write_text

if TYPE_CHECKING:  # imported when training starts: the other commands must answer at once
    from nextstate.recipes.sort import Recipe
    from nextstate.recipes.sorter import TrainedSorter
    from nextstate.training import Record


WORK = {"checkpoints": run_note.CHECKPOINTS}


class RecipeName(StrEnum):
    short = "short"
    robust = "robust"
    sixty_four = "64"
    hundred = "100"


def train_sort(
    recipe: Annotated[
        RecipeName, typer.Option(help="short: one length, a minute; robust: all laws and lengths.")
    ] = RecipeName.short,
    out: Annotated[Path, typer.Option(help="Folder for model, card, curve and checkpoints.")] = Path(
        "runs/sort"
    ),
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of weights and lists.")] = 0,
    minutes: Annotated[float | None, typer.Option(help="Plan the run by the clock, not by steps.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps instead of the recipe's.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "cpu",
    precision: Annotated[str, typer.Option(help="32-true or bf16-mixed.")] = "32-true",
    json_output: Annotated[bool, typer.Option("--json", help="A JSON object a record on stdout.")] = False,
) -> None:
    """Train a network to sort. A run that was interrupted is taken up again where its checkpoint stands,
    one that has finished is left as it is and shown at work.

    Several processes: torchrun --nproc-per-node 2 -m nextstate train sort
    """
    from dataclasses import replace

    import torch

    from nextstate.engines.threads import set_threads
    from nextstate.recipes.report import draw_curve, model_card
    from nextstate.recipes.sort import RECIPES, prepare
    from nextstate.recipes.sorter import load_sorter
    from nextstate.tasks.sort import evaluate
    from nextstate.training import check_minutes, here, of_first

    # The cores are for the engine, and a seed gives the same bits whatever their number: torch's products
    # depend on its threads, the engine's results do not.
    set_threads(torch.get_num_threads())
    torch.set_num_threads(1)
    chosen = RECIPES[recipe.value]
    if steps is not None:
        chosen = replace(chosen, steps=steps)
    check_minutes("train sort", minutes)
    if device not in ("cpu", "cuda", "auto"):
        refuse("train sort", f"device is {device!r}; expected cpu, cuda or auto")
    if device == "cuda" and not torch.cuda.is_available():
        refuse("train sort", "device is cuda, and torch finds none here; expected cpu or auto")
    if precision not in ("32-true", "bf16-mixed"):
        refuse("train sort", f"precision is {precision!r}; expected 32-true or bf16-mixed")
    folder_of("train sort", out)
    settings = {"recipe": asdict(chosen), "seed": seed, "minutes": minutes, "precision": precision}
    fabric = here(device, precision)
    if of_first(fabric, lambda: _has_finished(out, settings)):
        if fabric.is_global_zero and not json_output:
            _show_examples(load_sorter(out / run_note.MODEL))
        return
    run = prepare(
        chosen,
        seed=seed,
        seconds=None if minutes is None else 60 * minutes,
        checkpoints=out / "checkpoints",
        fabric=fabric,
    )
    if not fabric.is_global_zero:  # the first process writes and tells
        list(run.records())
        return
    curve = run_told.Curve(out / "curve.jsonl")
    with run_told.shown(lambda record: _summary(record, chosen), json_output) as show:
        for record in curve.follow(run.records()):
            show(record)
    sorter = run.sorter()
    sorter.network.eval()
    lengths = range(chosen.shortest, chosen.longest + 1)
    entries = list(evaluate(sorter, largest=chosen.largest, lengths=lengths, lists=-(-4000 // len(lengths))))
    sorter.save(out / "model.safetensors")
    state = run.state
    card = model_card(
        chosen, seed=seed, steps=state.step, seconds=state.seconds, entries=entries, evaluation_seed=1
    )
    write_text(out / "model.md", card)
    draw_curve(curve.records, out / "curve.png")
    run_note.write(out, settings, finished=True)
    run_note.remove_work(out, WORK)
    if not json_output:
        _show_examples(sorter)
    print(f"wrote {out}/model.safetensors, model.md, curve.png, curve.jsonl", file=sys.stderr)


def _show_examples(sorter: TrainedSorter) -> None:
    """Three lists that were not trained on, and what the network makes of them."""
    import numpy as np

    from nextstate.tasks.sort import LAWS

    random = np.random.default_rng(3)
    for length in np.linspace(sorter.range.shortest, sorter.range.longest, 3).astype(int):
        [numbers] = LAWS["uniform"](random, 1, int(length), sorter.range.largest).tolist()
        [answer] = sorter.sort([numbers])
        verdict = "right" if answer == sorted(numbers) else "WRONG"
        print(" ".join(map(str, numbers)), "->", " ".join(map(str, answer)), f"({verdict})")


def _has_finished(out: Path, settings: dict) -> bool:
    """Whether the run in `out` has ended; if there is none, one begins."""
    run_note.check_work("train sort", out, WORK)
    note = run_note.found("train sort", out, settings)
    if note is None:
        run_note.remove_work(out, WORK)
        (out / "curve.jsonl").unlink(missing_ok=True)
        run_note.write(out, settings)
    elif note["finished"]:
        run_note.tell_finished("train sort", out)
        return True
    return False


def _summary(record: Record, recipe: Recipe) -> str:
    left = record.seconds * (1 - record.progress) / max(record.progress, 1e-9)
    shown = record.evaluation or record.metrics
    kind = "unseen" if record.evaluation else "training"
    return (
        f"{record.rate * recipe.batch:6.0f} lists/s  loss {record.loss:.4f}  {kind}: "
        f"numbers right {100 * shown['elements_right']:6.2f} %, "
        f"whole lists {100 * shown['lists_right']:6.2f} %  {left:4.0f} s left"
    )
