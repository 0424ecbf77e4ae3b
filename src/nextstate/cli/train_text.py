"""`nextstate train text`: a model of a text with live progress; leaves the model, its card and its curve."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextstate.checks import InputError, refuse
from nextstate.cli import run_note, run_told
from nextstate.writing import folder_of, write_text

if TYPE_CHECKING:  # imported when training starts: the other commands must answer at once
    from nextstate.recipes.text import Recipe, Run
    from nextstate.tasks.text import Corpus
    from nextstate.training import Record

MINUTES = 5.0
"""How long a run is planned for if nothing is said."""

STARTED = 2.0
"""Seconds that have passed, about, before this command begins."""

FINISH = 2.5
"""Seconds, about, for the last measurement of a small text and the files."""

RESULTS = ("model.safetensors", "model.md", "curve.png", "curve.jsonl", "run.json")
"""Files that a run writes into its folder."""

WORK = {
    "corpus": ("about.json", "text", "training", "validation", ".writing-*"),
    "checkpoints": (*run_note.CHECKPOINTS, "best.safetensors", ".best.safetensors"),
}
"""Folders in that of a run, removed when it has ended, and what they hold."""


def train_text(
    files: Annotated[
        list[Path], typer.Argument(help="Text files, folders of them, or - for stdin.", metavar="FILE...")
    ],
    out: Annotated[Path, typer.Option(help="Folder for model, card, curve and checkpoints.")] = Path(
        "runs/text"
    ),
    minutes: Annotated[
        float | None, typer.Option(help="Plan size, dropout and steps to end after so long; default 5.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="So many steps instead.")] = None,
    unit: Annotated[str, typer.Option(help="Tokens: bytes, characters, bpe, or auto.")] = "auto",
    vocabulary: Annotated[int, typer.Option(help="Tokens of bpe.")] = 4096,
    validation: Annotated[float, typer.Option(help="Share of the text, its end, to measure on.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of weights and dropout.")] = 0,
    cell: Annotated[str | None, typer.Option(help="LSTM, GRU or another cell by name.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Cells on top of each other.")] = None,
    hidden: Annotated[int | None, typer.Option(min=1, help="Units of a layer.")] = None,
    features: Annotated[int | None, typer.Option(min=1, help="Features of a token.")] = None,
    tied: Annotated[bool, typer.Option("--tied", help="One table for reading and writing.")] = False,
    rows: Annotated[int | None, typer.Option(min=1, help="Places read at the same time.")] = None,
    length: Annotated[int | None, typer.Option(min=1, help="Tokens between two updates.")] = None,
    rate: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    dropout: Annotated[
        float | None, typer.Option(min=0, max=0.9, help="Instead of the one by the passes over the text.")
    ] = None,
    weight_dropout: Annotated[
        float | None, typer.Option(min=0, max=0.9, help="Share of recurrent weights left out; default 0.")
    ] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="Measurements without gain: stop.")] = None,
    sample: Annotated[int, typer.Option(min=0, help="Tokens written at each measurement.")] = 160,
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed, or auto.")] = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="A JSON object a record on stdout.")] = False,
) -> None:
    """Train a model of a text. A run that was interrupted is taken up again where its checkpoint stands,
    one that has finished is left as it is."""
    began = time.perf_counter() - STARTED
    import torch

    from nextstate.engines.threads import set_threads
    from nextstate.recipes.text import prepare
    from nextstate.recipes.text_plan import bf16_for
    from nextstate.recipes.text_report import draw_curve, measured_part, text_card
    from nextstate.tasks.text import prepare_corpus, read_pieces
    from nextstate.training import NonFiniteGradient, check_minutes, here, of_first

    # The cores are for the engine: what torch does between its runs is too small to share.
    set_threads(torch.get_num_threads())
    torch.set_num_threads(1)
    if minutes is not None and steps is not None:
        refuse("train text", f"minutes is {minutes} and steps is {steps}; give one of them")
    check_minutes("train text", minutes)
    run_note.check_work("train text", folder_of("train text", out), WORK)
    sources = _sources(files, out)
    fabric, fresh = here(), not (out / "corpus").exists()
    corpus = of_first(
        fabric,
        lambda: prepare_corpus(
            read_pieces(sources), out / "corpus", unit=unit, vocabulary=vocabulary, validation=validation
        ),
    )
    bf16 = bf16_for(precision)
    wishes = {
        "shape": {
            "cell": cell,
            "layers": layers,
            "features": features,
            "hidden": hidden,
            "tied": tied or None,
        },
        "recipe": {"rows": rows, "length": length, "rate": rate, "patience": patience},
        "dropout": dropout,
        "minutes": minutes,
        "steps": steps,
        "seed": seed,
        "precision": precision,
        "text": corpus.digest,
        "unit": corpus.unit.to_json(),
        "validation": validation,
        **({} if weight_dropout is None else {"weight_dropout": weight_dropout}),
    }
    try:
        recipe = of_first(
            fabric,
            lambda: _begun(out, wishes, lambda: _recipe(wishes, corpus, bf16, began, fabric.world_size)),
        )
    except InputError:
        if fresh:  # no run is there that would go on with it
            shutil.rmtree(out / "corpus")
        raise
    if recipe is None:  # it has finished
        return
    run = prepare(recipe, corpus, seed=seed, checkpoints=out / "checkpoints", fabric=fabric, bf16=bf16)
    if not fabric.is_global_zero:  # the first process writes and tells
        list(run.records())
        return
    _announce(run)
    curve = run_told.Curve(out / "curve.jsonl")
    ratio = corpus.characters_per_token()
    pace = recipe.rows * recipe.length * ratio

    def summary(record: Record) -> str:
        return _summary(record, pace, ratio)

    with run_told.shown(summary, json_output) as show:
        try:
            for record in curve.follow(run.records()):
                show(record)
                if record.evaluation is not None and sample and not json_output:
                    _show_sample(run, record.step, sample)
        except NonFiniteGradient as error:
            refuse("train text", f"{error}; try a --rate below {recipe.rate:g}, with another --out")
    model = run.model()
    nats, measured = run.validation()
    model.save(out / "model.safetensors")
    card = text_card(
        recipe,
        corpus,
        seed=seed,
        steps=run.state.step,
        seconds=run.state.seconds,
        nats=nats,
        measured=measured,
        parameters=sum(p.numel() for p in model.network.parameters()),
        command=_command(wishes, sources, vocabulary),
        processes=fabric.world_size,
    )
    write_text(out / "model.md", card)
    draw_curve(curve.records, ratio, out / "curve.png")
    run_note.write(out, wishes, finished=True)
    run_note.remove_work(out, WORK)
    print(
        f"validation, {measured_part(measured, corpus)}: {nats:.4f} nats a character, "
        f"{nats / math.log(2):.4f} bits; {time.perf_counter() - began:.0f} s in all\n"
        f"wrote {out}/model.safetensors, model.md, curve.png, curve.jsonl",
        file=sys.stderr,
    )


def _recipe(wishes: dict[str, Any], corpus: Corpus, bf16: bool, began: float, processes: int) -> Recipe:
    """The recipe by the rule for this text and time, changed by what was asked for, its steps planned."""
    from nextstate.recipes.text import Dropout
    from nextstate.recipes.text_plan import decay_for, dropout_for, planned, sized

    minutes = MINUTES if wishes["minutes"] is None else wishes["minutes"]
    recipe = sized(minutes, corpus.training.tokens, wishes["shape"]["cell"])
    shape = {name: value for name, value in wishes["shape"].items() if value is not None}
    changes = {name: value for name, value in wishes["recipe"].items() if value is not None}
    recipe = replace(recipe, shape=replace(recipe.shape, **shape), **changes)
    if recipe.shape.tied and wishes["shape"]["features"] is None:
        recipe = replace(recipe, shape=replace(recipe.shape, features=recipe.shape.hidden))
    recipe = replace(recipe, decay=decay_for(recipe, corpus.training.tokens, processes))
    d = wishes["dropout"]
    if d is not None:
        recipe = replace(recipe, dropout=Dropout(features=d / 4, between=d, output=d, state=d / 2))
    weights = wishes.get("weight_dropout", 0.0)
    recipe = replace(recipe, dropout=replace(recipe.dropout, weights=weights))
    if wishes["steps"] is not None:
        recipe = replace(recipe, steps=wishes["steps"])
        passes = processes * recipe.steps * recipe.rows * recipe.length / corpus.training.tokens
        rates = replace(dropout_for(passes), weights=weights)
        return recipe if d is not None else replace(recipe, dropout=rates)
    left = 60 * minutes - (time.perf_counter() - began) - FINISH
    seconds = max(left, 0.2 * 60 * minutes)
    return planned(recipe, corpus, seconds, bf16=bf16, dropout=d is None, processes=processes)


def _begun(out: Path, wishes: dict[str, Any], make: Callable[[], Recipe]) -> Recipe | None:
    """The recipe of the run in `out`, None if it has finished; if there is no run, one begins."""
    from nextstate.recipes.text import recipe_from_json

    note = run_note.found("train text", out, wishes)
    if note is None:
        recipe = make()
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        (out / "curve.jsonl").unlink(missing_ok=True)
        run_note.write(out, wishes, recipe=asdict(recipe))
        return recipe
    if note["finished"]:
        run_note.tell_finished("train text", out)
        run_note.remove_work(out, WORK)
        return None
    return recipe_from_json(note["recipe"])


def _announce(run: Run) -> None:
    recipe, corpus, shape = run.recipe, run.corpus, run.recipe.shape
    training, validation = corpus.training, corpus.validation
    passes = run.fabric.world_size * recipe.steps * recipe.rows * recipe.length / training.tokens
    weights = sum(p.numel() for p in run.plain.parameters())
    print(
        f"text: {training.characters:,} characters for training, the last {validation.characters:,} for "
        f"validation; {corpus.unit.name}, {corpus.unit.size} tokens, "
        f"{training.characters / training.tokens:.2f} characters each\n"
        f"model: {shape.layers} x {shape.cell} of {shape.hidden}, {weights:,} weights; {recipe.steps} steps "
        f"of {recipe.rows} x {recipe.length}, {passes:.1f} passes, dropout {recipe.dropout.output:.2f}",
        file=sys.stderr,
    )


def _show_sample(run: Run, step: int, count: int) -> None:
    """What the averaged weights write now; signs that would steer a terminal are shown as dots."""
    assert run.state.average is not None
    with run.state.average.applied(run.state.model):
        text = b"".join(run.averaged().generate(length=count, temperature=0.8, seed=step))
    run.state.model.train()
    for line in text.decode(errors="replace").strip().splitlines():
        print("    " + "".join(c if c.isprintable() else "\u00b7" for c in line), file=sys.stderr, flush=True)


def _command(wishes: dict[str, Any], sources: list[Path], vocabulary: int) -> str:
    """The command that makes this run; what is as it is by default need not be said."""
    unit = wishes["unit"]["unit"]
    given = {
        **wishes["shape"],
        **wishes["recipe"],
        "dropout": wishes["dropout"],
        "weight-dropout": wishes.get("weight_dropout"),
        "minutes": wishes["minutes"],
        "steps": wishes["steps"],
        "seed": wishes["seed"],
        "unit": unit,
        "vocabulary": vocabulary if unit == "bpe" else None,
        "validation": wishes["validation"] if wishes["validation"] != 0.1 else None,
        "precision": wishes["precision"] if wishes["precision"] != "auto" else None,
    }
    return run_told.command("train text", sources, given)


def _sources(files: list[Path], out: Path) -> list[Path]:
    """The files behind names; of a folder in which `out` lies, without what runs write there.

    Raises InputError as `find_files`, and if nothing is left.
    """
    from nextstate.tasks.text import find_files

    place = out.resolve()

    def written(path: Path) -> bool:
        path = path.resolve()
        return path in own or any(folder in path.parents for folder in work)

    own, work = {place / name for name in RESULTS}, [place / name for name in WORK]
    found = [path for path in find_files(files) if path in files or not written(path)]
    if not found:
        refuse("train text", f"{', '.join(map(str, files))} hold nothing but files of a run")
    return found


def _summary(record: Record, pace: float, ratio: float) -> str:
    left = record.seconds * (1 - record.progress) / max(record.progress, 1e-9)
    shown = f"training {record.loss / ratio:.4f} nats a character"
    if record.evaluation is not None:
        nats = record.evaluation["nats_per_character"]
        shown += f", validation {nats:.4f} ({nats / math.log(2):.4f} bits)"
    return f"step {record.step}  {record.rate * pace:.0f} characters/s  {shown}  {left:.0f} s left"
