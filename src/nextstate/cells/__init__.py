"""The cells: one file each, the equations in the docstring and one step.

Every cell names its blocks in `gates`, in the order of the rows of its weights, and in `keeps` the gate
that holds on to the state, with the sign that makes it hold.
"""

from nextstate.cells.carrying import Carrying
from nextstate.cells.coupled_lstm import CoupledLSTM
from nextstate.cells.elman import Elman
from nextstate.cells.gru import GRU
from nextstate.cells.layer_norm_gru import LayerNormGRU
from nextstate.cells.layer_norm_lstm import LayerNormLSTM
from nextstate.cells.lstm import LSTM
from nextstate.cells.lstm_state import LSTMState
from nextstate.cells.min_gru import MinGRU
from nextstate.cells.mogrifier_lstm import MogrifierLSTM
from nextstate.cells.peephole_lstm import PeepholeLSTM
from nextstate.cells.projected_lstm import ProjectedLSTM
from nextstate.cells.reset_before_gru import ResetBeforeGRU
from nextstate.cells.stack_rnn import StackRNN, StackState

__all__ = [
    "GRU",
    "LSTM",
    "Carrying",
    "CoupledLSTM",
    "Elman",
    "LSTMState",
    "LayerNormGRU",
    "LayerNormLSTM",
    "MinGRU",
    "MogrifierLSTM",
    "PeepholeLSTM",
    "ProjectedLSTM",
    "ResetBeforeGRU",
    "StackRNN",
    "StackState",
]
