"""A network beside its machine."""

from __future__ import annotations

import random
from typing import Any

import torch

from nextstate.machines import (
    Compiled,
)

FLOATS = (torch.float16, torch.float32, torch.float64)


def lockstep(net: Compiled, word: Any, configurations: list[Any]) -> None:
    """After every move the state of the network decodes to the configuration of the machine."""
    assert net.decode(net.start()) == configurations[0]
    period = net.blueprint.period
    reached = [net.decode(state) for number, _, state in net.steps(word) if number % period == 0]
    assert reached == configurations[1:]


def random_word(alphabet: Any, length: int, seed: int) -> list[Any]:
    draw = random.Random(seed)
    return [draw.choice(list(alphabet)) for _ in range(length)]
