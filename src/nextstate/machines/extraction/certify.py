"""A proof for all words: finitely many boxes of states that every letter maps into one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from nextstate.machines.automata import DFA
from nextstate.machines.extraction.intervals import Box, as_point, image
from nextstate.machines.extraction.observed import Recogniser


@dataclass(frozen=True)
class Certificate:
    """The proof: `boxes` of states, each belonging to a state of the machine, closed under every letter.

    `margin` is the least distance of a score from 0 on all of them.
    """

    boxes: int
    radius: float
    margin: float


def certify(
    network: Recogniser,
    machine: DFA,
    *,
    radii: tuple[float, ...] = (0.3, 0.1, 0.03, 0.01),
    limit: int = 2000,
) -> Certificate | None:
    """Prove that a network accepts the words a complete machine accepts, at every length; None if it fails.

    From the start state on, the image of every box under every letter must lie in a box of the machine's
    next state; where none holds it, a box of the image widened by `radius` is added. If this ends, induction
    over the letters shows that every reachable state lies in a box of its machine state, and the sign of the
    score on the boxes is the machine's answer. It ends for networks that forget small deviations.

    The steps are enclosed in interval arithmetic, float rounding included. Every radius is given up after
    `limit` boxes. Failing proves nothing.
    """
    step = image(network.cell)
    if step is None:
        return None
    with torch.no_grad():
        return next(
            (proof for radius in radii if (proof := _closed(network, machine, step, radius, limit))), None
        )


def _closed(network: Recogniser, machine: DFA, step: Any, radius: float, limit: int) -> Certificate | None:
    start = as_point(network.start())
    letters = torch.eye(len(machine.alphabet), dtype=torch.float64)
    queue = [(machine.start, start, start)]
    cover = {machine.start: Box(start, start)}
    boxes, margin = 0, float("inf")
    while queue:
        boxes += len(queue)
        margin = min(margin, *(_margin(network, Box(low, high), machine.label(q)) for q, low, high in queue))
        if margin <= 0 or boxes > limit:
            return None
        states = [q for q, _, _ in queue]
        box = Box(torch.cat([low for _, low, _ in queue]), torch.cat([high for _, _, high in queue]))
        queue = []
        for a, letter in enumerate(machine.alphabet):
            after = step(letters[a].expand(len(states), -1), box)
            for state, low, high in zip(states, after.low, after.high, strict=True):
                target = machine.step(state, letter)
                held = cover.get(target, Box(start[:0], start[:0]))
                if not bool(((held.low <= low) & (high <= held.high)).all(-1).any()):
                    grown = ((low - radius)[None], (high + radius)[None])
                    cover[target] = Box(torch.cat([held.low, grown[0]]), torch.cat([held.high, grown[1]]))
                    queue.append((target, *grown))
    return Certificate(boxes, radius, margin)


def _margin(network: Recogniser, box: Box, accepted: bool) -> float:
    width = network.readout.weight.shape[1]
    weight, bias = network.readout.weight.double()[0], network.readout.bias.double()[0]
    low, high = box.low[:, :width], box.high[:, :width]
    centre, radius = (low + high) / 2 @ weight + bias, (high - low) / 2 @ weight.abs()
    slack = torch.finfo(network.readout.weight.dtype).eps * (width + 4) * (weight.abs().sum() + bias.abs())
    signed = centre if accepted else -centre
    return float((signed - radius - slack).min())
