"""NextState: write one recurrent step, get every recurrent network."""

from importlib import import_module
from typing import Any

from nextstate import init, nn
from nextstate.accelerate import Acceleration, accelerate
from nextstate.cell import Cell, FunctionCell
from nextstate.cells import (
    GRU,
    LSTM,
    CoupledLSTM,
    Elman,
    LayerNormGRU,
    LayerNormLSTM,
    LSTMState,
    MinGRU,
    MogrifierLSTM,
    PeepholeLSTM,
    ProjectedLSTM,
    ResetBeforeGRU,
    StackRNN,
    StackState,
)
from nextstate.checkpointing import checkpointed, truncated
from nextstate.checks import EngineError, FallbackWarning, InputError
from nextstate.combine import (
    Dropped,
    Embedded,
    LearnedStart,
    Quantised,
    ResetWhen,
    Residual,
    Stacked,
    WeightDropped,
    WithState,
    Zoneout,
)
from nextstate.engines.threads import set_threads
from nextstate.explain import Explanation, explain
from nextstate.networks import Bidirectional, EncoderDecoder, LanguageModel, SequenceClassifier
from nextstate.run import engine, fold, scan, unfold
from nextstate.session import Session
from nextstate.streams import Streams

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "Acceleration",
    "Bidirectional",
    "Cell",
    "CoupledLSTM",
    "Dropped",
    "Elman",
    "Embedded",
    "EncoderDecoder",
    "EngineError",
    "Explanation",
    "FallbackWarning",
    "FunctionCell",
    "InputError",
    "LSTMState",
    "LanguageModel",
    "LayerNormGRU",
    "LayerNormLSTM",
    "LearnedStart",
    "MinGRU",
    "MogrifierLSTM",
    "PeepholeLSTM",
    "ProjectedLSTM",
    "Quantised",
    "ResetBeforeGRU",
    "ResetWhen",
    "Residual",
    "SequenceClassifier",
    "Session",
    "StackRNN",
    "StackState",
    "Stacked",
    "Streams",
    "WeightDropped",
    "WithState",
    "Zoneout",
    "accelerate",
    "checkpointed",
    "engine",
    "explain",
    "fold",
    "init",
    "inspect",
    "nn",
    "scan",
    "set_threads",
    "truncated",
    "unfold",
]


def __getattr__(name: str) -> Any:
    """Rooms that are loaded when they are first asked for, so that the rest starts at once."""
    if name in ("dynamics", "export", "machines"):
        return import_module(f"nextstate.{name}")
    if name == "inspect":
        return import_module("nextstate.dynamics").inspect
    if name == "Buzzometer":
        return import_module("nextstate.buzzometer").Buzzometer
    raise AttributeError(f"module 'nextstate' has no attribute {name!r}")
