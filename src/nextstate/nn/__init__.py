"""The recurrent layers and cells of `torch.nn`, to the letter, on this library's engines.

Every class is a subclass of the one of the same name in `torch.nn`: it has its constructor, parameters,
checks and error texts, and code that asks `isinstance(m, torch.nn.LSTM)` goes on working.
"""

from nextstate.nn.cells import GRUCell, LSTMCell, RNNCell
from nextstate.nn.layers import GRU, LSTM, RNN

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"]
