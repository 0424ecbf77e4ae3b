"""The cells: one file each, the equations in the docstring and one step."""

from nextstate.cells.gru import GRU

__all__ = ["GRU"]
