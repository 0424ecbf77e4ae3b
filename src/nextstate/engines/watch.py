"""Notice cheaply that a cell is still what it was when its step was compiled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

MODULE_ATTRIBUTES = frozenset(nn.Module().__dict__) - {"training"}

PLAIN = (bool, int, float, str, type(None), type(lambda: 0), type(torch.tanh), type, torch.dtype)
"""Attributes of these types change only by assignment, which the identity of the value shows."""


class Watch:
    """What a traced step was specialised on, besides shapes: kinds, modes and attributes of every module.

    `fingerprint` is compared by value; `unchanged()` is the fast way to know that it is still the same. A
    cell with mutable attributes of its own kind can only be watched by its fingerprint.
    """

    def __init__(self, cell: nn.Module) -> None:
        modules = list(cell.modules())  # not kept: the watch must not keep its cell alive
        self.fingerprint = fingerprint(modules)
        self.parameters: list[Tensor] = [*cell.parameters(), *cell.buffers()]
        self.kinds = [p.dtype for p in self.parameters]
        self.problem = _problem(modules, self.parameters)
        self.parts: list[tuple[Any, ...]] = []
        self.volatile = self.problem is not None
        for module in modules:
            own = [(k, v) for k, v in module.__dict__.items() if k not in MODULE_ATTRIBUTES]
            self.volatile |= any(not isinstance(v, PLAIN) for _, v in own)
            held = [(d, list(d.items())) for d in (module._parameters, module._buffers, module._modules)]
            self.parts.append((module.__dict__, len(module.__dict__), own, held))

    def unchanged(self) -> bool:
        if self.volatile:
            return False
        for attributes, count, own, held in self.parts:
            if len(attributes) != count or attributes["_forward_hooks"] or attributes["_forward_pre_hooks"]:
                return False
            for name, value in own:
                if attributes.get(name) is not value:
                    return False
            for table, items in held:
                if len(table) != len(items):
                    return False
                for name, value in items:
                    if table.get(name) is not value:
                        return False
        for parameter, kind in zip(self.parameters, self.kinds, strict=True):
            if parameter.dtype is not kind or not parameter.is_cpu:
                return False
        return True


def _problem(modules: list[nn.Module], parameters: list[Tensor]) -> str | None:
    """Why the kernels cannot run this cell, whatever its step is."""
    for module in modules:
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{type(module).__name__} has hooks, which must run at every step"
    return next((found for p in parameters if (found := unfit(p)) is not None), None)


def unfit(x: Tensor) -> str | None:
    """Why the kernels cannot read a tensor, if they cannot."""
    if not x.is_cpu:
        return f"a tensor is on {x.device}"
    if x.is_floating_point() and x.dtype != torch.float32:
        return f"a tensor is {str(x.dtype).removeprefix('torch.')}; the kernels are float32"
    return None


class Same:
    """A thing that equals only itself, and lives as long as the key that holds it."""

    __slots__ = ("thing",)

    def __init__(self, thing: object) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.thing is other.thing

    def __hash__(self) -> int:
        return id(self.thing)


def fingerprint(modules: list[nn.Module]) -> tuple[Any, ...]:
    """The modules of a cell by value: two cells with the same fingerprint trace to the same step."""
    found: list[Any] = []
    for module in modules:
        found.append(type(module))
        for name, value in module.__dict__.items():
            if name not in MODULE_ATTRIBUTES:
                found.append((name, _identity(value)))
    return tuple(found)


def _identity(value: object) -> object:
    """Numbers, text and containers of them by value, everything else (functions, tensors) by itself."""
    if value is None or isinstance(value, bool | int | float | str):
        return type(value), value
    if isinstance(value, list | tuple):
        return type(value), *map(_identity, value)
    if isinstance(value, dict):
        return type(value), *((_identity(k), _identity(v)) for k, v in value.items())
    return Same(value)
