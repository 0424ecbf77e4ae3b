"""NextState: write one recurrent step, get every recurrent network."""

from nextstate.cell import Cell, FunctionCell
from nextstate.cells import GRU
from nextstate.checks import EngineError, FallbackWarning, InputError
from nextstate.run import engine, fold, scan, unfold

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "Cell",
    "EngineError",
    "FallbackWarning",
    "FunctionCell",
    "InputError",
    "engine",
    "fold",
    "scan",
    "unfold",
]
