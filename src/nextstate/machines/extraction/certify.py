"""A proof for all words: finitely many boxes of states that every letter maps into one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
    limit: int = 20_000,
) -> Certificate | None:
    """Prove that a network accepts the words a complete machine accepts, at every length; None if it fails.

    From the start state on, the image of every box under every letter must lie in a box of the machine's
    next state; where none holds it, a box of the image widened by `radius` is added. If this ends, induction
    over the letters shows that every reachable state lies in a box of its machine state, and the sign of the
    score on the boxes is the machine's answer. It ends for networks that forget small deviations.

    The steps are enclosed in interval arithmetic, float rounding included. Failing proves nothing.
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
    cover: dict[Any, Box] = {}
    least = float("inf")
    count = 0
    letters = torch.eye(len(machine.alphabet), dtype=torch.float64)
    queue: list[tuple[Any, Box]] = [(machine.start, Box(start, start))]
    while queue:
        fresh: list[tuple[Any, Tensor, Tensor]] = []
        for state, box in queue:
            margin = _margin(network, box, machine.label(state))
            if margin <= 0:
                return None
            least = min(least, margin)
            count += len(box.low)
            kept = cover.get(state, Box(box.low[:0], box.high[:0]))
            cover[state] = Box(torch.cat([kept.low, box.low]), torch.cat([kept.high, box.high]))
        if count > limit:
            return None
        for state, box in queue:
            for a, letter in enumerate(machine.alphabet):
                after = step(letters[a].expand(len(box.low), -1), box)
                target = machine.step(state, letter)
                fresh += [(target, low, high) for low, high in zip(after.low, after.high, strict=True)]
        queue = []
        for target, low, high in fresh:
            held = cover.get(target)
            if held is not None and bool(((held.low <= low) & (high <= held.high)).all(-1).any()):
                continue
            grown = Box((low - radius)[None], (high + radius)[None])
            kept = cover.get(target, Box(low[None][:0], high[None][:0]))
            cover[target] = Box(torch.cat([kept.low, grown.low]), torch.cat([kept.high, grown.high]))
            queue.append((target, grown))
            if len(queue) > limit:
                return None
    return Certificate(count, radius, least)


def _margin(network: Recogniser, box: Box, accepted: bool) -> float:
    width = network.readout.weight.shape[1]
    weight, bias = network.readout.weight.double()[0], network.readout.bias.double()[0]
    low, high = box.low[:, :width], box.high[:, :width]
    centre, radius = (low + high) / 2 @ weight + bias, (high - low) / 2 @ weight.abs()
    slack = torch.finfo(network.readout.weight.dtype).eps * (width + 4) * (weight.abs().sum() + bias.abs())
    signed = centre if accepted else -centre
    return float((signed - radius - slack).min())
