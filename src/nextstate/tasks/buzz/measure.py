"""How right answers are: accuracy, precision, recall and F1 of every class, calibration."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nextstate.checks import describe, refuse
from nextstate.tasks.buzz.calibration import Bin, calibration_error, reliability


@dataclass(frozen=True, slots=True)
class ClassFigures:
    precision: float
    recall: float
    f1: float
    texts: int


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of one set of texts; `confusion[true][given]` counts."""

    texts: int
    accuracy: float
    macro_f1: float
    calibration_error: float
    classes: dict[str, ClassFigures]
    confusion: list[list[int]]
    bins: list[Bin]


def figures(probabilities: Tensor, labels: Tensor, names: tuple[str, ...]) -> Figures:
    """Figures of answers with probabilities [N, C] to texts with labels [N].

        F1 = 2 precision recall / (precision + recall);  macro F1 = their mean over the classes that occur

    >>> found = figures(torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.tensor([0, 0]), ("a", "b"))
    >>> found.accuracy, found.confusion, round(found.classes["a"].f1, 3)
    (0.5, [[1, 1], [0, 0]], 0.667)
    """
    if probabilities.shape != (len(labels), len(names)) or not len(labels):
        refuse("figures", f"probabilities {describe(probabilities)} for {len(labels)} texts, classes {names}")
    given, count = probabilities.argmax(-1), len(names)
    confusion = torch.bincount(labels * count + given, minlength=count**2).reshape(count, count)
    classes = {}
    for number, name in enumerate(names):
        right, of, called = confusion[number, number], confusion[number].sum(), confusion[:, number].sum()
        precision, recall = float(right / called.clamp(min=1)), float(right / of.clamp(min=1))
        f1 = 2 * precision * recall / max(1e-12, precision + recall)
        classes[name] = ClassFigures(precision, recall, f1, int(of))
    occurring = [found.f1 for found in classes.values() if found.texts]
    return Figures(
        texts=len(labels),
        accuracy=float((given == labels).double().mean()),
        macro_f1=sum(occurring) / len(occurring),
        calibration_error=calibration_error(probabilities, labels),
        classes=classes,
        confusion=confusion.tolist(),
        bins=reliability(probabilities, labels),
    )


def two_sided(probabilities: Tensor, labels: Tensor, keep: list[int]) -> tuple[Tensor, Tensor]:
    """Answers with two classes only, the others left out: probabilities [N, 2] that sum to 1, labels 0 or 1.

    >>> p, y = two_sided(torch.tensor([[0.3, 0.6, 0.1]]), torch.tensor([2]), keep=[0, 2])
    >>> p, y
    (tensor([[0.7500, 0.2500]]), tensor([1]))
    """
    kept = probabilities[:, keep]
    return kept / kept.sum(1, keepdim=True), (labels == keep[1]).long()
