"""Pictures of what an inspection found."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nextstate.dynamics.report import SHARE, Part
from nextstate.writing import whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNITS = 64
"""Units of a gate that a heat map shows at most."""


def draw_part(part: Part, folder: Path) -> Path:
    """Gradient by lag, Lyapunov exponents and every gate over time, in one PNG; its path."""
    from matplotlib.figure import Figure  # slow to import

    shown = [gate for gate in part.gates if gate.kind == "sigmoid"] or list(part.gates)
    rows = 1 + -(-len(shown) // 2)
    figure = Figure(figsize=(11, 3.4 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False)
    _by_lag(axes[0, 0], part)
    _exponents(axes[0, 1], part)
    for place in range(2 * (rows - 1)):
        axis = axes[1 + place // 2, place % 2]
        if place >= len(shown):
            axis.set_axis_off()
            continue
        gate = shown[place]
        row = 0 if gate.valid is None else int(gate.valid.sum(0).argmax())
        steps = len(gate.values) if gate.valid is None else int(gate.valid[:, row].sum())
        values = gate.values[:steps, row].float()
        values = values[:, values.mean(0).argsort()]
        width = values.shape[1]
        values = values[:, torch.linspace(0, width - 1, min(UNITS, width), device="cpu").long()]
        low = 0 if gate.kind == "sigmoid" else -1
        image = axis.imshow(
            values.T.numpy(), aspect="auto", vmin=low, vmax=1, cmap="RdBu", interpolation="nearest"
        )
        axis.set(
            title=f"{gate.name}: {gate.shut:.0%} shut, {gate.open:.0%} open" + " (keeps)" * bool(gate.keeps),
            xlabel="step",
            ylabel="units, by their mean",
        )
        figure.colorbar(image, ax=axis)
    figure.suptitle(f"{part.name}: {part.cell}, {part.size} numbers of state")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', part.name)}.png"
    save_png(figure, path)
    return path


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure, aside first and then renamed."""
    with whole("draw", path) as aside:
        figure.savefig(aside, dpi=110, format="png")


def _by_lag(axis: Any, part: Part) -> None:
    curve, lags = part.reach.curve.clamp(min=1e-12), range(len(part.reach.curve))
    finite = curve[curve.isfinite()]  # an axis has no end at infinity
    axis.plot(lags, curve, label="gradient of the last state")
    if part.loss is not None:
        mean = part.loss.square().mean(1).sqrt()
        scaled = (mean / mean.max().clamp(min=1e-300)).clamp(min=1e-12).flip(0)
        axis.plot(range(1, len(scaled) + 1), scaled, label="gradient of the loss (largest = 1)")
    axis.axhline(SHARE, color="grey", linewidth=0.8, linestyle="--", label=f"{SHARE:.0%}")
    axis.set(
        yscale="log",
        xlabel="steps back",
        ylabel="gradient left",
        title=f"reach {part.reach.steps(SHARE)} of {part.reach.longest} steps",
        ylim=(max(1e-12, min(SHARE / 2, float(finite.min()) / 2)), 2 * max(1.0, float(finite.max()))),
    )
    axis.legend()


def _exponents(axis: Any, part: Part) -> None:
    found = part.spectrum
    finite = found.exponents.isfinite()
    places = finite.nonzero()[:, 0] + 1
    axis.errorbar(places, found.exponents[finite], found.errors[finite], fmt=".", markersize=4)
    axis.axhline(0, color="grey", linewidth=0.8)
    lost = int((~finite).sum())
    axis.set(
        xlabel="direction",
        ylabel="nats a step",
        title="Lyapunov exponents" + (f", {lost} of them minus infinity" if lost else ""),
    )
