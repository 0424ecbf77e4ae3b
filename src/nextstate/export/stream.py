"""Modules that can run step by step, as one cell: a read-out is part of the step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.accelerate import BEFORE, REPLACED, cell_of_it, plain
from nextstate.cell import Cell, FunctionCell
from nextstate.checks import check_sequence, describe, refuse
from nextstate.combine import Stacked
from nextstate.explain import guess
from nextstate.networks import Bidirectional, LanguageModel, Last, SequenceClassifier
from nextstate.networks.document_classifier import DocumentClassifier
from nextstate.nn.views import cells_of
from nextstate.states import Tree


def as_cell(operation: str, module: nn.Module) -> Cell:
    """as_cell : module -> Cell, whose outputs are those of the module after each step.

    A language model gives the logits of the next token, a classifier those of what it has read so far.
    Raises InputError for a module that must have read a sequence to its end.
    """
    if isinstance(module, Cell):
        return module
    if isinstance(module, LanguageModel):
        _check_network(operation, module, LanguageModel)
        return _read(module, module.cell)
    if isinstance(module, SequenceClassifier):
        _check_network(operation, module, SequenceClassifier)
        return _classifier(operation, module)
    if isinstance(module, nn.RNNBase) and not module.bidirectional:
        check_layer(operation, module)
        cells = cells_of(module)
        return cells[0] if len(cells) == 1 else Stacked(*cells)
    if isinstance(module, Bidirectional | DocumentClassifier | nn.RNNBase):
        refuse(operation, f"{type(module).__name__} reads from the end of the sequence too: it has no step")
    known = "a Cell, LanguageModel, SequenceClassifier or layer of torch.nn or nextstate.nn"
    return refuse(operation, f"the module is a {type(module).__name__}; expected {known}{cell_of_it(module)}")


def check_layer(operation: str, layer: nn.RNNBase) -> None:
    """A file is written from a layer's parameters, so nothing else may have a say in what it computes."""
    kind = plain(layer)
    if kind not in REPLACED and kind not in BEFORE:
        told = f"{kind.__qualname__} is a class of its own, derived from a torch layer"
        refuse(operation, f"{told}, whose code may compute anything: write it as a Cell")
    off = "nn.utils.remove_weight_norm, nn.utils.prune.remove, or remove() of what registered it"
    _check_hooks(operation, layer, kind, off)


def _check_network(operation: str, module: nn.Module, kind: type[nn.Module]) -> None:
    """The step is put together from the parts of a network, so its `forward` has to be that of its kind."""
    if type(module).forward is not kind.forward or "forward" in vars(module):
        refuse(
            operation,
            f"{type(module).__qualname__} has a forward of its own, and the step is written from a network's "
            f"parts, as {kind.__name__} joins them: put what it changes into a cell or the readout",
        )
    _check_hooks(operation, module, kind, "remove() of what registered them")


def _check_hooks(operation: str, module: nn.Module, kind: type[nn.Module], off: str) -> None:
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    if hooks:
        named = ", ".join(getattr(hook, "__qualname__", type(hook).__name__) for hook in hooks)
        refuse(operation, f"the {kind.__name__} has forward hooks ({named}); take them off first by {off}")


def _read(module: Any, cell: Cell) -> Cell:
    def step(u: Tree, s: Tree) -> tuple[Tensor, Tree]:
        v, s = cell(u, s)
        return module.readout(v), s

    return FunctionCell(step, cell.initial_state, module)


def _classifier(operation: str, module: SequenceClassifier) -> Cell:
    if not all(isinstance(layer, Cell) for layer in module.layers):
        refuse(operation, "a classifier of which a layer reads from the end of the sequence has no step")
    if type(module.pooling) is not Last:
        pooling = type(module.pooling).__name__
        refuse(operation, f"a classifier with the pooling {pooling} has no step; Last has")
    stack = Stacked(*(layer for layer in module.layers if isinstance(layer, Cell)))

    def step(u: Tensor, s: Tree) -> tuple[Tensor, Tree]:
        v, s = stack(u if module.table is None else F.embedding(u, module.table), s)
        return module.readout(v), s

    return FunctionCell(step, stack.initial_state, module)


def example_of(operation: str, cell: Cell, us: Tree | None) -> Tree:
    """The input [T, B, ...] that was given as an example, checked, or one that the step accepts."""
    if us is None:
        return guess(operation, cell)
    steps, rows = check_sequence(operation, us)
    if not steps or not rows:
        refuse(operation, f"the example us is {describe(us)}; expected one step and one row at least")
    return us


def input_of(module: nn.Module) -> Tree | None:
    """An example [1, 1, ...] of the input, where the kind of module says what it is."""
    if isinstance(module, LanguageModel) or getattr(module, "vocabulary", None) is not None:
        return torch.zeros(1, 1, dtype=torch.int64)
    if isinstance(module, SequenceClassifier):
        return torch.zeros(1, 1, module.inputs)
    if isinstance(module, nn.RNNBase):
        return torch.zeros(1, 1, module.input_size)
    return None
