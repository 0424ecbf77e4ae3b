"""Every recurrent layer inside a model, made to run on this library's engines in place."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from nextstate import nn as ours
from nextstate.checks import refuse

REPLACED: dict[type[nn.Module], type[nn.Module]] = {
    nn.RNN: ours.RNN,
    nn.LSTM: ours.LSTM,
    nn.GRU: ours.GRU,
    nn.RNNCell: ours.RNNCell,
    nn.LSTMCell: ours.LSTMCell,
    nn.GRUCell: ours.GRUCell,
}


@dataclass(frozen=True)
class Acceleration:
    """What `accelerate` did to a model: `changed` and `left` by the names of the modules; `undo` it.

    >>> accelerate(nn.Sequential(nn.LSTM(3, 4), nn.LazyLinear(2))).changed
    {'0': 'LSTM'}
    """

    model: nn.Module
    changed: dict[str, str]
    """name -> kind of layer"""
    left: dict[str, str]
    """name -> why it was left as it is"""
    _before: dict[nn.Module, type[nn.Module]] = field(repr=False)

    def undo(self) -> nn.Module:
        """Every changed layer is what it was; parameters keep the values they have now."""
        for module, kind in self._before.items():
            if REPLACED.get(kind) is type(module):
                module.__class__ = kind
        return self.model

    def __str__(self) -> str:
        lines = [f"{name or '(the model)'}: {kind}" for name, kind in self.changed.items()]
        lines += [f"{name or '(the model)'}: left, {why}" for name, why in self.left.items()]
        return "\n".join(lines) or "no recurrent layers"


def accelerate(model: nn.Module) -> Acceleration:
    """Make every recurrent layer of `torch.nn` inside a model run on this library's engines.

    accelerate : model -> Acceleration(model, changed, left)

    A layer stays the same object with the same parameters, buffers, hooks, mode, device and name; only its
    class becomes the one of the same name in `nextstate.nn`, a subclass of what it was. So optimisers,
    shared parameters, references from elsewhere and checkpoints are untouched, and `undo()` is exact.

    A class derived from a torch layer is left, since its own code decides what it computes (a parametrised
    layer too: parametrise after accelerating); so are TorchScript and quantised layers. `left` says why.

    Raises InputError if the model is no module.

    >>> model = nn.Sequential(nn.Embedding(10, 4), nn.GRU(4, 8))
    >>> done = accelerate(model)
    >>> print(done)
    1: GRU
    >>> type(model[1]).__module__, isinstance(model[1], nn.GRU)
    ('nextstate.nn.layers', True)
    >>> type(done.undo()[1]).__module__
    'torch.nn.modules.rnn'
    """
    if not isinstance(model, nn.Module):
        refuse("accelerate", f"expected a torch.nn.Module, got a {type(model).__name__}")
    changed, left, before = {}, {}, {}
    for name, module in model.named_modules():
        kind = type(module)
        if kind in REPLACED:
            before[module] = kind
            module.__class__ = REPLACED[kind]
            changed[name] = kind.__name__
        else:
            why = _reason(module)
            if why is not None:
                left[name] = why
    return Acceleration(model, changed, left, before)


def _reason(module: nn.Module) -> str | None:
    """Why a module that is recurrent is left; None for any other, and for one that is ours already."""
    kind = type(module)
    if kind in REPLACED.values():
        return None
    if hasattr(module, "parametrizations") and isinstance(module, tuple(REPLACED)):
        return f"it is parametrised ({kind.__name__}): accelerate first, parametrise then"
    if isinstance(module, tuple(REPLACED)):
        return f"{kind.__module__}.{kind.__qualname__} is a class of its own, derived from a torch layer"
    original = getattr(module, "original_name", kind.__name__)
    names = {replaced.__name__ for replaced in REPLACED}
    if original in names and kind.__module__.startswith("torch"):
        return f"it is a {kind.__module__}.{kind.__qualname__}, which runs code of its own"
    return None
