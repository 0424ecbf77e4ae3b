"""Cells from cells: every wrapper here takes cells, is a cell, and combines with the others."""

from nextstate.combine.dropout import Dropped, DroppedState, Masks, Zoneout, redrawn
from nextstate.combine.inputs import Embedded, ResetWhen, look_up
from nextstate.combine.quantised import Quantised
from nextstate.combine.structure import LearnedStart, Residual, Stacked, WithState
from nextstate.combine.weight_dropout import WeightDropped

__all__ = [
    "Dropped",
    "DroppedState",
    "Embedded",
    "LearnedStart",
    "Masks",
    "Quantised",
    "ResetWhen",
    "Residual",
    "Stacked",
    "WeightDropped",
    "WithState",
    "Zoneout",
    "look_up",
    "redrawn",
]
