"""The cells inside a torch layer: our step, the layer's own parameters, nothing copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from nextstate.cell import Cell
from nextstate.cells import GRU, LSTM, Elman, ProjectedLSTM
from nextstate.checks import refuse

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu}
MODES = {f"RNN_{name.upper()}": activation for name, activation in ACTIVATIONS.items()}
BIASES = ("bias_ih", "bias_hh")

Known = WeakKeyDictionary[nn.Module, tuple[Cell, ...]]
RUN: Known = WeakKeyDictionary()
"""The cells that calls run: after a `functional_call` they hold what it brought, until the next call."""
GIVEN: Known = WeakKeyDictionary()
"""The cells that were handed out, which no call touches."""


def cells_of(layer: nn.RNNBase, known: Known = RUN) -> tuple[Cell, ...]:
    """One cell a layer and direction, in torch's order: l0, l0_reverse, l1, ...

    A cell holds the very tensors that the layer holds at the moment of the call, whoever put them there:
    an optimiser, `functional_call`, a parametrisation.
    """
    cells = _current(layer, known)
    if cells is None:
        widths = [getattr(layer, names[0]).shape[1] for names in layer._all_weights]
        cells = known[layer] = tuple(_view(layer, width) for width in widths)
    for cell, names in zip(cells, layer._all_weights, strict=True):
        for name in names:
            _hold(cell, name.split("_l")[0], layer, name)
    return cells


def cell_of(layer: nn.RNNCellBase, known: Known = RUN) -> Cell:
    """The cell of a torch cell, with its very parameters."""
    cells = _current(layer, known)
    if cells is None:
        cells = known[layer] = (_view(layer, layer.input_size),)
    for name in ("weight_ih", "weight_hh", *(BIASES if layer.bias else ())):
        _hold(cells[0], name, layer, name)
    return cells[0]


def activation_of(layer: Any) -> Callable[[Tensor], Tensor] | None:
    """What an Elman layer applies by the name that torch would read now; None if torch would refuse it."""
    return MODES.get(layer.mode) if isinstance(layer, nn.RNN) else ACTIVATIONS.get(layer.nonlinearity)


def _current(layer: nn.Module, known: Known) -> tuple[Cell, ...] | None:
    """The cells made before, unless they apply what the layer no longer does."""
    cells = known.get(layer)
    if cells and isinstance(cells[0], Elman) and cells[0].activation is not activation_of(layer):
        return None
    return cells


def _view(layer: Any, input_size: int) -> Cell:
    """A cell without parameters of its own; where the layer has no biases, they stay None."""
    sizes: dict[str, Any] = {"input_size": input_size, "hidden_size": layer.hidden_size}
    if isinstance(layer, nn.GRU | nn.GRUCell):
        return _bare(GRU, sizes)
    if isinstance(layer, nn.LSTM) and layer.proj_size:
        return _bare(ProjectedLSTM, sizes | {"projection_size": layer.proj_size}, "weight_hr")
    if isinstance(layer, nn.LSTM | nn.LSTMCell):
        return _bare(LSTM, sizes)
    activation = activation_of(layer)
    if activation is None:
        name = layer.mode if isinstance(layer, nn.RNN) else layer.nonlinearity
        refuse(type(layer).__name__, f"the nonlinearity is {name!r}; expected tanh or relu")
    return _bare(Elman, sizes | {"activation": activation})


def _bare(kind: type[Cell], attributes: dict[str, Any], *more: str) -> Cell:
    """A cell as its constructor leaves it, but for the parameters, which it neither makes nor draws."""
    cell = kind.__new__(kind)
    nn.Module.__init__(cell)
    for name, value in attributes.items():
        setattr(cell, name, value)
    for name in ("weight_ih", "weight_hh", *BIASES, *more):
        cell.register_parameter(name, None)
    return cell


def _hold(cell: Cell, name: str, layer: nn.Module, source: str) -> None:
    held = layer._parameters.get(source)
    if held is None:  # a parametrisation, a hook or a replica keeps it as an attribute
        held = getattr(layer, source)
    if cell._parameters[name] is not held:
        cell._parameters[name] = held
