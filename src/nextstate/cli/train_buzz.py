"""`nextstate train buzz`: a sentiment model from your own labels."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextstate.checks import InputError, refuse
from nextstate.cli import run_note, run_told
from nextstate.cli.visible import visible
from nextstate.writing import folder_of, write_text

if TYPE_CHECKING:  # imported when training starts: the other commands must answer at once
    from lightning_fabric import Fabric

    from nextstate.training import Record

WORK = {"checkpoints": run_note.CHECKPOINTS, "checkpoints-reading": run_note.CHECKPOINTS}


def train_buzz(
    data: Annotated[Path, typer.Argument(help="CSV, TSV, JSONL or Parquet with a text and a label a row.")],
    text_column: Annotated[
        str | None, typer.Option(help="Column of the texts, also of --unlabelled if it has one of that name.")
    ] = None,
    label_column: Annotated[str, typer.Option(help="Column of the labels.")] = "label",
    group_column: Annotated[
        str | None,
        typer.Option(
            help="Column of what texts may have in common (a film, an author): such texts stay in one part."
        ),
    ] = None,
    unlabelled: Annotated[
        Path | None, typer.Option(help="More texts without labels (any format), to learn the language from.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for model, card, pictures, checkpoints.")] = Path(
        "runs/buzz"
    ),
    start: Annotated[
        str | None,
        typer.Option(
            help="'shipped' begins from the model of the package, 'scratch' from nothing; default shipped, "
            "with --unlabelled scratch."
        ),
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="About how long to train.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Times that every text is read, instead.")] = None,
    hidden: Annotated[int, typer.Option(min=1, help="Units a direction (from scratch).")] = 128,
    vocabulary: Annotated[int, typer.Option(min=100, help="Words that get a vector of their own.")] = 30000,
    held_back: Annotated[float, typer.Option(help="Share of texts for the temperature.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share of texts for the figures of the card.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Of split, weights, order and noise.")] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="A JSON object a record on stdout.")] = False,
) -> None:
    """Train on labelled texts: any labels, two classes or more.

    The texts are split by label into those trained on, those held back for the temperature, and those that
    the figures are measured on; equal texts stay together, and so do those of one group. A run that was
    interrupted goes on when the same command is given again; one that has finished is left as it is.
    """
    import numpy as np
    import torch

    from nextstate.buzzometer import SHIPPED, Buzzometer
    from nextstate.engines.threads import set_threads
    from nextstate.recipes.buzz import Recipe, as_ids, evaluate, planned_steps, prepare
    from nextstate.recipes.buzz_report import draw_calibration, draw_confusion, model_card
    from nextstate.tasks.buzz.examples import split
    from nextstate.tasks.buzz.words import build_words
    from nextstate.training import Checkpoints, here, of_first

    _check_shares(held_back, test)
    _check_length(minutes, epochs)
    start = _start(start, unlabelled)
    set_threads(torch.get_num_threads())  # torch keeps its own: the features before pooling are its products
    texts, given, groups = read_labelled("train buzz", data, text_column, label_column, group_column)
    counts = Counter(given)
    if len(counts) < 2 or min(counts.values()) < 3:
        refuse("train buzz", f"{data} has the labels {dict(counts)}; expected two or more, three texts each")
    more = [] if unlabelled is None else read_texts(unlabelled, text_column)
    labels = ordered_labels(given)
    numbers = [labels.index(label) for label in given]
    parts = split(texts, numbers, [held_back, test], seed, groups)
    _check_groups(parts, [held_back, test], group_column, len({*groups} - {""}))
    fabric = here()
    if fabric.is_global_zero:
        _show_split(parts, numbers, labels)
    taught = {numbers[place] for place in parts[0]}
    if len(taught) < len(labels):
        untaught = ", ".join(repr(label) for number, label in enumerate(labels) if number not in taught)
        refuse(
            "train buzz",
            f"--held-back {held_back} and --test {test} leave no text with the label {untaught} to train on; "
            "lower --held-back or --test",
        )
    recipe = replace(Recipe(), hidden=hidden)
    base = Buzzometer.load(SHIPPED) if start == "shipped" else None
    if base is not None:
        recipe = replace(recipe, features=base.shape.features, hidden=base.shape.hidden, rate=1e-3, epochs=4)
    mean = sum(map(len, texts)) / len(texts)
    recipe = replace(recipe, batch=64 if mean < 400 else 32, epochs=epochs or recipe.epochs)
    words = build_words([*(texts[place] for place in parts[0]), *more], vocabulary)
    if base is not None:  # what the package's model knows stays known
        known = set(words.words)
        words = type(words)([*words.words, *(w for w in base.words.words if w not in known)], words.buckets)
    train, held, tested = (
        as_ids(words, [texts[place] for place in part], [numbers[place] for place in part]) for part in parts
    )
    if not len(held):  # their share could not be fitted
        recipe = replace(recipe, ngrams=0)
    folder_of("train buzz", out)
    settings = {
        "data": str(data),
        "rows": len(texts),
        "digest": digest([*texts, *given, *(groups if group_column else ()), *more]),
        "labels": labels,
        "seed": seed,
        "minutes": minutes,
        "start": start,
        "unlabelled": None if unlabelled is None else str(unlabelled),
        "recipe": asdict(recipe),
        "shares": [held_back, test],
        "vocabulary": vocabulary,
    }
    if group_column is not None:
        settings["groups"] = group_column
    note = of_first(fabric, lambda: _begun(out, settings))
    if note["finished"]:
        return
    earlier = note.get("steps")
    if more:
        from nextstate.recipes.buzz_pretrain import prepare_reading

        every = [np.array(words.ids(text), dtype=np.int32) for text in more] + list(train.ids)
        reading = prepare_reading(
            recipe, words, every, len(labels), seed=seed, checkpoints=Checkpoints(out / "checkpoints-reading")
        )
        _follow(reading.records(), fabric, json_output)
        base = reading.start(labels)
    run = prepare(
        recipe,
        words,
        labels,
        train,
        held,
        seed=seed,
        steps=earlier,
        start=base,
        checkpoints=Checkpoints(out / "checkpoints", every=200),
    )
    if minutes is not None and earlier is None:
        planned = planned_steps(run, minutes)  # by every process: what it tries they do together
        run.plan = type(run.plan)(of_first(fabric, lambda: planned))
    of_first(fabric, lambda: run_note.write(out, settings, steps=run.plan.total))
    _follow(run.records(), fabric, json_output)
    if not fabric.is_global_zero:  # the first process writes and tells
        return
    buzzometer = run.buzzometer()
    buzzometer.save(out / "model.safetensors")
    buzzometer = Buzzometer.load(out / "model.safetensors")  # what is measured is what was written
    measured, written = {}, ["model.safetensors", "model.md"]
    if len(tested):
        figures = evaluate(buzzometer, tested)
        measured["Texts that training never saw"] = figures
        draw_confusion(figures, out / "confusion.png")
        draw_calibration(figures, out / "calibration.png")
        written += ["confusion.png", "calibration.png"]
        print(
            f"{figures.texts} unseen texts: accuracy {100 * figures.accuracy:.2f} %, macro F1 "
            f"{100 * figures.macro_f1:.2f} %, calibration error {100 * figures.calibration_error:.2f} %",
            file=sys.stderr,
        )
    options = {
        "text-column": text_column,
        "label-column": label_column,
        "group-column": group_column,
        "unlabelled": None if unlabelled is None else unlabelled.name,
        "start": start,
        "minutes": minutes,
        "epochs": epochs,
        "hidden": hidden if start == "scratch" else None,  # the package's model has its own
        "vocabulary": vocabulary,
        "held-back": held_back,
        "test": test,
        "seed": seed,
    }
    card = model_card(
        replace(recipe, epochs=float(f"{run.plan.total / run.epoch:.3g}")),
        title="A sentiment model",
        data=[f"{data.name}: {len(texts)} labelled texts; {len(train)} trained on, {len(held)} held back"],
        seed=seed,
        took=f"{run.state.step} steps in {run.state.seconds:.0f} seconds",
        measured=measured,
        command=run_told.command("train buzz", [data], options),
    )
    write_text(out / "model.md", card)
    run_note.write(out, settings, finished=True)
    run_note.remove_work(out, WORK)
    print(f"wrote {', '.join(written)} to {out}", file=sys.stderr)


def _check_shares(held_back: float, test: float) -> None:
    if not (held_back >= 0 and test >= 0 and held_back + test < 1):
        refuse(
            "train buzz",
            f"--held-back is {held_back} and --test {test}; expected shares of at least 0 whose sum is "
            "below 1",
        )


def _check_groups(parts: list[list[int]], shares: list[float], column: str | None, count: int) -> None:
    options = zip(("--held-back", "--test"), shares, parts[1:], strict=True)
    empty = [option for option, share, part in options if share and not part]
    if column is not None and empty:
        refuse(
            "train buzz",
            f"--group-column {column!r} has {count} groups, too few to leave one for "
            f"{' and '.join(empty)}; raise the share, set it to 0, or name another column",
        )


def _check_length(minutes: float | None, epochs: float | None) -> None:
    from nextstate.training import check_minutes

    check_minutes("train buzz", minutes)
    if minutes is not None and epochs is not None:
        refuse("train buzz", f"--minutes is {minutes} and --epochs {epochs}; give one of them")
    if epochs is not None and not 0 < epochs < 10_000:
        refuse("train buzz", f"--epochs is {epochs}; expected more than 0 and less than 10,000")


def _start(given: str | None, unlabelled: Path | None) -> str:
    """Where a run begins: as it was asked for, or else by whether it first reads texts without labels."""
    if given not in (None, "shipped", "scratch"):
        refuse("train buzz", f"--start is {given!r}; expected 'shipped' or 'scratch'")
    if given == "shipped" and unlabelled is not None:
        refuse(
            "train buzz",
            f"--start is 'shipped' and --unlabelled {unlabelled}; a run that reads texts without labels "
            "begins from scratch: give one of them",
        )
    return given or ("shipped" if unlabelled is None else "scratch")


def read_labelled(
    operation: str, path: Path, text_column: str | None, label_column: str, group_column: str | None = None
) -> tuple[list[str], list[str], list[str]]:
    """Texts, labels and groups ("" for none) of a table; rows without one of the first two are reported and
    left out."""
    from nextstate.tasks.buzz.tables import format_of, read_table

    if format_of(path) == "lines":
        refuse(operation, f"{path} has no columns; labels need CSV, TSV, JSONL or Parquet")
    also = [label_column] if group_column is None else [label_column, group_column]
    table = read_table(path, text_column, also=also)
    texts, labels, groups = [], [], []
    for row in table.rows:
        label = row.fields.get(label_column)
        if row.text is None or label is None or str(label).strip() == "":
            problem = row.problem or f"its {label_column!r} is empty"
            print(f"{operation}: row {row.number} is left out: {problem}", file=sys.stderr)
            continue
        texts.append(row.text)
        labels.append(str(label).strip())
        group = None if group_column is None else row.fields.get(group_column)
        groups.append("" if group is None else str(group).strip())
    if not texts:
        refuse(
            operation, f"{path} has no row with a text in {table.column!r} and a label in {label_column!r}"
        )
    return texts, labels, groups


def read_texts(path: Path, text_column: str | None) -> list[str]:
    """The texts of a table, from `text_column` if it has one of that name, else as if none were named.

    Raises InputError if the file cannot be read, does not say which column it is, or holds no text.
    """
    from nextstate.tasks.buzz.tables import read_table

    try:
        table = read_table(path, text_column)
    except InputError as error:
        try:
            table = read_table(path)
        except InputError:
            raise error from None  # it says what was asked for and what there is
    texts = [row.text for row in table.rows if row.text]
    if not any(map(str.strip, texts)):
        refuse("train buzz", f"--unlabelled is {path}, which holds no text; expected one a row or line")
    return texts


def digest(texts: list[str]) -> str:
    """SHA-256 of texts in order, each with its length before it."""
    sha = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        sha.update(b"%d " % len(encoded) + encoded)
    return sha.hexdigest()


def ordered_labels(given: list[str]) -> tuple[str, ...]:
    """The labels in order: negative, neutral, positive where they are those, else by name.

    >>> ordered_labels(["positive", "negative"]), ordered_labels(["b", "a", "b"])
    (('negative', 'positive'), ('a', 'b'))
    """
    from nextstate.buzzometer import POLARITY

    return tuple(sorted(set(given), key=lambda label: (POLARITY.get(label.lower(), 0), label)))


def _show_split(parts: list[list[int]], numbers: list[int], labels: tuple[str, ...]) -> None:
    for name, part in zip(("trained on", "held back", "measured on"), parts, strict=True):
        counts = Counter(numbers[place] for place in part)
        listed = ", ".join(f"{label} {counts[number]}" for number, label in enumerate(labels[:20]))
        print(f"{name}: {len(part)} texts ({visible(listed)})", file=sys.stderr)


def _begun(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The note of the run in `out`; if there is none, one begins."""
    run_note.check_work("train buzz", out, WORK)
    note = run_note.found("train buzz", out, settings)
    if note is None:
        run_note.remove_work(out, WORK)
        run_note.write(out, settings)
        return {"finished": False}
    if note["finished"]:
        run_note.tell_finished("train buzz", out)
        run_note.remove_work(out, WORK)  # a run may have been killed between its note and this
    return note


def _follow(records: Iterator[Record], fabric: Fabric, json_output: bool) -> None:
    """Show what happens; all processes train, the first one tells."""
    if not fabric.is_global_zero:
        list(records)
        return
    with run_told.shown(_summary, json_output) as show:
        for record in records:
            show(record)


def _summary(record: Record) -> str:
    left = record.seconds * (1 - record.progress) / max(record.progress, 1e-9)
    held = right = ""
    if "accuracy" in record.metrics:
        right = f"{100 * record.metrics['accuracy']:.1f} % right  "
    if record.evaluation:
        held = f"held back: {100 * record.evaluation['accuracy']:.2f} % right  "
    speed = f"step {record.step}  {record.rate:5.1f} steps/s  loss {record.loss:.3f}"
    return f"{speed}  {right}{held}{left:4.0f} s left"
