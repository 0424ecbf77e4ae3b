"""NextState: write one recurrent step, get every recurrent network."""

from nextstate.cell import Cell, FunctionCell
from nextstate.cells import GRU, LSTM, Elman, LSTMState
from nextstate.checks import EngineError, FallbackWarning, InputError
from nextstate.combine import Embedded
from nextstate.networks import EncoderDecoder
from nextstate.run import engine, fold, scan, unfold

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "Cell",
    "Elman",
    "Embedded",
    "EncoderDecoder",
    "EngineError",
    "FallbackWarning",
    "FunctionCell",
    "InputError",
    "LSTMState",
    "engine",
    "fold",
    "scan",
    "unfold",
]
