"""What an inspection found, in words a person can act on, and as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nextstate.dynamics.gates import Gate
from nextstate.dynamics.gradients import Reach
from nextstate.dynamics.lyapunov import Spectrum

SHARE = 0.01
"""A gradient has arrived where this share of it is left."""

GROWN = 100.0
"""A gradient explodes where it is more than this many times what it was."""


@dataclass(frozen=True)
class Part:
    """One recurrent loop of a model: what runs in it, and what its gradient does."""

    name: str
    cell: str
    """the kind of cell"""
    layers: tuple[str, ...]
    """the kinds of the cells inside, innermost only"""
    size: int
    """numbers of the state"""
    rows: int
    reach: Reach
    spectrum: Spectrum
    gates: tuple[Gate, ...]
    loss: Tensor | None
    """|dL/ds| [T, B] of the loss that was given; None without one, or if none of it comes here"""

    def findings(self) -> list[str]:
        """What was measured, one sentence each, and what may help."""
        return [*self._reaching(), *self._dynamics(), *self._gating(), *self._advice()]

    @property
    def vanishes(self) -> bool:
        return not self.reach.full(SHARE)

    @property
    def explodes(self) -> bool:
        return self.reach.most > GROWN

    def _reaching(self) -> list[str]:
        steps, longest = self.reach.steps(SHARE), self.reach.longest
        if self.vanishes:
            yet = [f"gradients reach {_steps(steps)} back; your sequences are {longest} long"]
        else:
            left = float(self.reach.curve[-1])
            yet = [f"gradients reach the start of your sequences, {_steps(longest)} back, times {left:.3g}"]
        if self.explodes:
            yet.append(f"on the way back gradients grow up to {self.reach.most:.3g} times")
        if self.loss is not None:
            mean = self.loss.square().mean(1).sqrt()
            largest = float(mean.max())
            if largest > 0:
                first = float(mean[0]) / largest
                yet.append(f"of your loss, the first state gets {first:.2g} of what the best-fed state gets")
        return yet

    def _dynamics(self) -> list[str]:
        found, error = self.spectrum, float(self.spectrum.errors[0])
        range_ = f"+- {error:.1g} nats a step" if math.isfinite(error) else "nats in the one step there is"
        said = f"largest Lyapunov exponent {found.largest:.3g} {range_}"
        if found.largest == -math.inf:
            return ["a step wipes out all memory of the state before it (Lyapunov exponents minus infinity)"]
        if found.largest - 2 * error > 0:
            return [f"{said}: chaotic, small differences grow {math.exp(found.largest):.3g} times a step"]
        if found.largest >= 0:
            return [f"{said}: as far as the error shows, small differences neither grow nor fall"]
        return [f"{said}: a small difference falls to 1/e in {_steps(found.horizon)}"]

    def _gating(self) -> list[str]:
        said = []
        for gate in self.gates:
            if gate.keeps:
                times = gate.forget_times
                sense = " where it is shut" if gate.keeps < 0 else ""
                said.append(
                    f"gate {gate.name} keeps the state{sense}: {gate.shut:.0%} of it shut, {gate.open:.0%} "
                    f"open; it forgets in {_steps(float(times.median()))} (median), "
                    f"{_steps(float(times.max()))} at most"
                )
            elif gate.kind == "sigmoid" and gate.shut + gate.open > 0.5:
                said.append(f"gate {gate.name}: {gate.shut:.0%} shut, {gate.open:.0%} open")
            elif gate.kind == "tanh" and gate.shut + gate.open > 0.5:
                share = gate.shut + gate.open
                said.append(f"{share:.0%} of {gate.name} is saturated; no gradient passes there")
        return said

    def _advice(self) -> list[str]:
        chrono, kinds = f"init.chrono_(cell, {max(3, self.reach.longest)})", set(self.layers)
        if self.explodes:
            return [
                "if training is unstable: clip the gradient (training.fit does, at norm 1), start with "
                "init.orthogonal_recurrent_, or take LayerNormGRU"
            ]
        if not self.vanishes:
            return []
        saturated = [g for g in self.gates if g.kind == "tanh" and g.shut + g.open > 0.5]
        helps = []
        if any(gate.keeps for gate in self.gates):
            helps.append(chrono)
        elif kinds & {"Elman"}:
            helps += ["init.orthogonal_recurrent_", f"a GRU or LSTM with {chrono}"]
        if saturated or not kinds & {"LayerNormGRU", "LayerNormLSTM"}:
            helps.append("LayerNormGRU")
        helps.append("dynamics.flossing_loss")
        return [f"if it does not learn what lies further back, try {', '.join(helps[:-1])} or {helps[-1]}"]

    def json(self) -> dict[str, Any]:
        """Figures and curves as JSON knows them; minus infinity and NaN are null."""
        kept = {
            gate.name: {
                "kind": gate.kind,
                "keeps": gate.keeps,
                "shut": gate.shut,
                "open": gate.open,
                "forget_times": _numbers(gate.forget_times) if gate.keeps else None,
            }
            for gate in self.gates
        }
        spectrum = self.spectrum
        return {
            "name": self.name,
            "cell": self.cell,
            "state_size": self.size,
            "rows": self.rows,
            "longest": self.reach.longest,
            "gradient_reach": self.reach.steps(SHARE),
            "gradient_rate": _number(self.reach.rate),
            "gradient_growth": _number(self.reach.most),
            "gradient_by_lag": _numbers(self.reach.curve),
            "loss_gradient": None if self.loss is None else _numbers(self.loss.square().mean(1).sqrt()),
            "lyapunov": {
                "exponents": _numbers(spectrum.exponents),
                "errors": _numbers(spectrum.errors),
                "steps": spectrum.steps,
                "sum_rule": spectrum.sum_rule,
                "horizon": _number(spectrum.horizon),
                "entropy": _number(spectrum.entropy),
                "dimension": spectrum.dimension,
            },
            "gates": kept,
            "findings": self.findings(),
        }


@dataclass(frozen=True)
class Report:
    """The parts of a model that are recurrent. `print` it, take its `json()`, or `draw` it.

    >>> import nextstate as ns, torch
    >>> report = ns.inspect(ns.Elman(3, 16), torch.randn(50, 4, 3))
    >>> report.parts[0].reach.steps() < 30
    True
    """

    parts: tuple[Part, ...]

    def __str__(self) -> str:
        lines = []
        for part in self.parts:
            numbers, rows = _count(part.size, "number"), _count(part.rows, "sequence")
            lines.append(f"{part.name}: {part.cell}, {numbers} of state, {rows}")
            lines += [f"  - {finding}" for finding in part.findings()]
        return "\n".join(lines)

    def json(self) -> dict[str, Any]:
        return {"share": SHARE, "parts": [part.json() for part in self.parts]}

    def draw(self, folder: str | Path) -> list[Path]:
        """Pictures of every part, as PNG files in a folder: gradient by lag, exponents, gates over time."""
        from nextstate.dynamics.plots import draw_part

        return [draw_part(part, Path(folder)) for part in self.parts]


def _steps(count: float) -> str:
    if math.isinf(count):
        return "infinitely many steps"
    if count == int(count):
        return _count(int(count), "step")
    return f"{count:.0f} steps" if count >= 10 else f"{count:.1f} steps"


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _numbers(values: Tensor) -> list[float | None]:
    return [_number(value) for value in values.tolist()]
