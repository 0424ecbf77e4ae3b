"""Every recurrent layer inside a model, made to run on this library's engines in place."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from nextstate import nn as ours
from nextstate.checks import FallbackWarning, refuse
from nextstate.nn.layers import COMPILED, MARK

REPLACED: dict[type[nn.Module], type[nn.Module]] = {
    nn.RNN: ours.RNN,
    nn.LSTM: ours.LSTM,
    nn.GRU: ours.GRU,
    nn.RNNCell: ours.RNNCell,
    nn.LSTMCell: ours.LSTMCell,
    nn.GRUCell: ours.GRUCell,
}
BEFORE = {new: old for old, new in REPLACED.items()}

Model = TypeVar("Model", bound=nn.Module)


class Acceleration:
    """What `accelerate` has done to a model, read off the model as it stands: a report, and the way back.

    Acceleration : model -> changed, left, idle

    `changed`, `left` and `idle` are dictionaries by the names of the modules: the kind of every changed
    layer; why a recurrent layer is as it was; why torch's own code still runs in a changed one, and what
    would have to be otherwise. Layers made as `nextstate.nn` appear in none of them.

    Raises InputError if the model is no module.

    >>> model = accelerate(nn.Sequential(nn.LSTM(3, 4), nn.GRU(4, 4, dtype=torch.float64)))
    >>> report = Acceleration(model)
    >>> report.changed
    {'0': 'LSTM', '1': 'GRU'}
    >>> print(report)
    0: LSTM
    1: GRU, but torch's own code runs: its parameters are float64, the compiled engine takes float32
    >>> type(report.undo()[0]).__module__
    'torch.nn.modules.rnn'
    """

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, nn.Module):
            refuse("Acceleration", f"expected a torch.nn.Module, got a {type(model).__name__}")
        self.model = model
        self.changed: dict[str, str] = {}
        self.left: dict[str, str] = {}
        self.idle: dict[str, str] = {}
        for name, module in model.named_modules():
            if MARK in vars(module):
                self.changed[name] = BEFORE[plain(module)].__name__
                why = _idle(module)
                if why is not None:
                    self.idle[name] = why
            elif (why := _reason(module)) is not None:
                self.left[name] = why

    def undo(self) -> nn.Module:
        """Every changed layer is what it was; parameters keep the values they have now. Gives the model."""
        for module in self.model.modules():
            if MARK in vars(module):
                _restore(module)
        return self.model

    def __str__(self) -> str:
        lines = []
        for name, kind in self.changed.items():
            but = ", but with gradients torch's own code runs: one step" if kind.endswith("Cell") else ""
            if name in self.idle:
                but = f", but torch's own code runs: {self.idle[name]}"
            lines.append(f"{name or '(the model)'}: {kind}{but}")
        lines += [f"{name or '(the model)'}: left, {why}" for name, why in self.left.items()]
        return "\n".join(lines) or "no recurrent layers of torch.nn"


def accelerate(model: Model) -> Model:
    """Make every recurrent layer of `torch.nn` inside a model run on this library's engines.

    accelerate : model -> the same model

    A layer stays the same object with the same parameters, buffers, hooks, mode, device and name; only its
    class becomes the one of the same name in `nextstate.nn`, a subclass of what it was. So optimisers,
    shared parameters, parametrisations, references from elsewhere and checkpoints are untouched.
    `Acceleration(model)` says what was changed and what was left and why; its `undo()` is exact.

    A class of one's own derived from a torch layer is left, since its own code decides what it computes; so
    are TorchScript and quantised layers. One FallbackWarning names what was left. A single step with
    gradients, which is every call of a cell and that of a layer on one step, stays with torch's own code.

    Raises InputError if the model is no module.

    >>> model = nn.Sequential(nn.Embedding(10, 4), nn.GRU(4, 8))
    >>> model = accelerate(model)
    >>> print(Acceleration(model))
    1: GRU
    >>> type(model[1]).__module__, isinstance(model[1], nn.GRU)
    ('nextstate.nn.layers', True)
    """
    if not isinstance(model, nn.Module):
        refuse("accelerate", f"expected a torch.nn.Module, got a {type(model).__name__}")
    left = {name: why for name, module in model.named_modules() if (why := _reason(module)) is not None}
    _change(model)
    if left:
        named = "; ".join(f"{name or 'the model'} ({why})" for name, why in left.items())
        warnings.warn(f"accelerate left {named}", FallbackWarning, stacklevel=2)
    return model


@contextmanager
def accelerated(model: nn.Module) -> Iterator[None]:
    """A model accelerated while a block runs; what was so before stays so."""
    changed = _change(model)
    try:
        yield
    finally:
        for module in changed:
            _restore(module)


def _change(model: nn.Module) -> list[nn.Module]:
    found = [module for module in model.modules() if plain(module) in REPLACED]
    for module in found:
        _turn(module, REPLACED[plain(module)])
        vars(module)[MARK] = True
    return found


def _restore(module: nn.Module) -> None:
    del vars(module)[MARK]
    _turn(module, BEFORE[plain(module)])


def plain(module: nn.Module) -> type[nn.Module]:
    """A module's class; of a parametrised one the class it had before."""
    kind = type(module)
    return kind.__bases__[0] if nn.utils.parametrize.is_parametrized(module) else kind


def cell_of_it(module: object) -> str:
    """What makes a `Cell` of a layer or cell of `torch.nn`, as the end of a refusal; "" for anything else."""
    if not isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return ""
    kind = plain(module)
    if kind not in REPLACED and kind not in BEFORE:
        return ""
    it = "it" if kind in BEFORE else "nextstate.accelerate(it)"
    if isinstance(module, nn.RNNCellBase):
        return f"; {it}.cell() is one"
    if module.bidirectional:
        return ", which a layer that reads backward too is not"
    one = f"{it}.cells()[0]" if module.num_layers == 1 else f"nextstate.Stacked(*{it}.cells())"
    return f"; {one} is one"


def _turn(module: nn.Module, to: type[nn.Module]) -> None:
    """Another class; of a parametrised module (a class torch made for it alone) another base."""
    kind = type(module)
    if kind is not plain(module):
        own = {name: x for name, x in vars(kind).items() if name not in ("__dict__", "__weakref__")}
        to = type(kind.__name__, (to,), own)
    module.__class__ = to


def _reason(module: nn.Module) -> str | None:
    """Why `accelerate` leaves a module that is recurrent; None for any other."""
    kind = plain(module)
    if kind in BEFORE or kind in REPLACED:
        return None
    if isinstance(module, tuple(REPLACED)):
        return f"{kind.__module__}.{kind.__qualname__} is a class of its own, derived from a torch layer"
    original = getattr(module, "original_name", kind.__name__)
    names = {replaced.__name__ for replaced in REPLACED}
    if original in names and kind.__module__.startswith("torch"):
        return f"it is a {kind.__module__}.{kind.__qualname__}, which runs code of its own"
    return None


def _idle(module: nn.Module) -> str | None:
    """Why the compiled engine does not take a layer as its parameters stand, if so."""
    if not COMPILED:
        return "the compiled extension is not installed"
    example = getattr(module, "weight_ih" if isinstance(module, nn.RNNCellBase) else "weight_ih_l0")
    if example.dtype is not torch.float32:
        return f"its parameters are {str(example.dtype)[6:]}, the compiled engine takes float32"
    if not example.is_cpu:
        return f"its parameters are on {example.device.type}, the compiled engine runs on the CPU"
    return None
