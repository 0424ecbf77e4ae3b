"""`nextstate eval buzz`: how right a sentiment model is on labelled texts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from nextstate.checks import refuse
from nextstate.writing import folder_of


def eval_buzz(
    data: Annotated[Path, typer.Argument(help="CSV, TSV, JSONL or Parquet with a text and a label a row.")],
    text_column: Annotated[str | None, typer.Option(help="Column of the texts.")] = None,
    label_column: Annotated[str, typer.Option(help="Column of the labels.")] = "label",
    model: Annotated[Path | None, typer.Option(help="A model of your own.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for a confusion matrix and calibration plot.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Accuracy, F1 of every class, calibration and confusion of a model on labelled texts.

    The labels must be the model's. Texts that are only negative or positive may be given to a model that
    also knows neutral: then the sign of the score decides, and is measured too.
    """
    from nextstate.buzzometer import POLARITY, Buzzometer
    from nextstate.cli.train_buzz import read_labelled
    from nextstate.recipes.buzz import as_ids
    from nextstate.recipes.buzz_report import draw_calibration, draw_confusion
    from nextstate.tasks.buzz.measure import figures, two_sided

    buzzometer = Buzzometer.load(model)
    texts, labels, _ = read_labelled("eval buzz", data, text_column, label_column)
    unknown = sorted(set(labels) - set(buzzometer.labels))
    if unknown:
        refuse("eval buzz", f"the model answers {buzzometer.labels}; the data also has {unknown}")
    examples = as_ids(buzzometer.words, texts, [buzzometer.labels.index(label) for label in labels])
    import torch

    logits, lengths = buzzometer.logits(examples.ids)
    probabilities, truth = buzzometer.probabilities(logits, lengths), torch.from_numpy(examples.labels)
    names, sides = buzzometer.labels, [POLARITY.get(label.lower(), 0) for label in buzzometer.labels]
    if len(names) > 2 and {sides[int(label)] for label in truth} == {-1, 1}:
        keep = [sides.index(-1), sides.index(1)]
        probabilities, truth = two_sided(probabilities, truth, keep)
        names = tuple(names[number] for number in keep)
    found = figures(probabilities, truth, names)
    if out is not None:
        folder_of("eval buzz", out)
        draw_confusion(found, out / "confusion.png")
        draw_calibration(found, out / "calibration.png")
    if json_output:
        print(json.dumps(asdict(found)))
        return
    print(
        f"{found.texts} texts  accuracy {100 * found.accuracy:.2f} %  macro F1 {100 * found.macro_f1:.2f} %  "
        f"expected calibration error {100 * found.calibration_error:.2f} %"
    )
    for name, of in found.classes.items():
        print(
            f"{name:>12}  texts {of.texts:6}  precision {100 * of.precision:6.2f}  "
            f"recall {100 * of.recall:6.2f}  F1 {100 * of.f1:6.2f}"
        )
