"""The cells: one file each, the equations in the docstring and one step."""

from nextstate.cells.elman import Elman
from nextstate.cells.gru import GRU
from nextstate.cells.lstm import LSTM, LSTMState

__all__ = ["GRU", "LSTM", "Elman", "LSTMState"]
