"""What an engine is, and what it is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from nextstate.cell import Cell
from nextstate.states import Tree


@dataclass(frozen=True, slots=True)
class Request:
    """One scan to run: inputs checked, s0 filled in, lengths int64 on the device of the input."""

    cell: Cell
    us: Tree
    s0: Tree
    lengths: Tensor | None
    steps: int
    batch: int
    named: bool = False
    """Whether the engine was asked for by name: `auto` takes one only where it is known to be faster."""
    memo: dict[str, object] = field(default_factory=dict, compare=False)
    """What an engine found out while deciding, for running."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an engine cannot run a request. `surprising` ones are worth a warning to the user."""

    reason: str
    surprising: bool = False


class Engine(Protocol):
    name: str

    def refusal(self, request: Request) -> Refusal | None:
        """None if this engine can run the request; decided before anything runs."""

    def quick(self, cell: Cell, us: Tree, s0: Tree, lengths: Tensor | None) -> tuple[Tree, Tree] | None:
        """The result of an unchecked call by a short cut, or None if there is none for it."""

    def scan(self, request: Request) -> tuple[Tree, Tree]: ...

    def fold(self, request: Request) -> tuple[Tree, Tree]: ...


@runtime_checkable
class ReadsBack(Protocol):
    """An engine that also reads rows from their own last step to their first, without a reversed copy.

    Every output stays at the step it is of; a fold keeps that of each row's first step.
    """

    def scan_back(self, request: Request) -> tuple[Tree, Tree]: ...

    def fold_back(self, request: Request) -> tuple[Tree, Tree]: ...
