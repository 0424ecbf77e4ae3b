"""Training: one step, a loop that yields what happened, schedules, averages, checkpoints.

Nothing here prints, plots or knows a task; `nextstate.recipes` joins training with networks and tasks.
"""

from nextstate.training.average import Average
from nextstate.training.checkpoint import Checkpoints
from nextstate.training.fit import Evaluation, Record, fit, no_improvement
from nextstate.training.interrupt import Interrupted, stoppable
from nextstate.training.muon import Muon
from nextstate.training.processes import here, of_first
from nextstate.training.schedule import Seconds, Steps, check_minutes, constant, warmup_cosine
from nextstate.training.source import Chunk, Chunks, Indexed, Source
from nextstate.training.step import Loss, NonFiniteGradient, TrainState, carried, skip, stop, train_step
from nextstate.training.watch import GradientWarning, GradientWatch, Measurement

__all__ = [
    "Average",
    "Checkpoints",
    "Chunk",
    "Chunks",
    "Evaluation",
    "GradientWarning",
    "GradientWatch",
    "Indexed",
    "Interrupted",
    "Loss",
    "Measurement",
    "Muon",
    "NonFiniteGradient",
    "Record",
    "Seconds",
    "Source",
    "Steps",
    "TrainState",
    "carried",
    "check_minutes",
    "constant",
    "fit",
    "here",
    "no_improvement",
    "of_first",
    "skip",
    "stop",
    "stoppable",
    "train_step",
    "warmup_cosine",
]
