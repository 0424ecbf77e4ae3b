"""The engines of this installation, in the order in which `auto` asks them."""

from __future__ import annotations

import torch
from torch import Tensor

from nextstate.cell import Cell
from nextstate.engines.base import Engine, Refusal, Request
from nextstate.engines.newton import NewtonEngine
from nextstate.engines.parallel import ScanEngine
from nextstate.engines.reference import ReferenceEngine
from nextstate.engines.torch_fused import TorchEngine
from nextstate.states import Tree


class MissingCpuEngine:
    """Stands in for the CPU engine where the compiled extension is not installed."""

    name = "cpu"

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def refusal(self, request: Request) -> Refusal | None:
        return Refusal(self.reason, surprising=True)

    def quick(self, cell: Cell, us: Tree, s0: Tree, lengths: Tensor | None) -> tuple[Tree, Tree] | None:
        return None

    def scan(self, request: Request) -> tuple[Tree, Tree]:
        raise NotImplementedError(self.reason)

    def fold(self, request: Request) -> tuple[Tree, Tree]:
        raise NotImplementedError(self.reason)


def cpu_engine() -> Engine:
    try:
        from nextstate.engines.cpu import CpuEngine
    except ImportError as error:
        return MissingCpuEngine(f"the compiled extension nextstate._engine is not installed ({error})")
    return CpuEngine()


def engines() -> dict[str, Engine]:
    newton = NewtonEngine("newton", dense=True), NewtonEngine("quasi-newton", dense=False)
    found: list[Engine] = [cpu_engine(), TorchEngine(), ScanEngine(), *newton, ReferenceEngine()]
    return {engine.name: engine for engine in found}


def usable(found: dict[str, Engine]) -> list[str]:
    """The names of the engines that can run something on this machine, in the same order."""
    unfit: list[type] = [MissingCpuEngine] if torch.cuda.is_available() else [MissingCpuEngine, TorchEngine]
    return [name for name, engine in found.items() if type(engine) not in unfit]


def has_bf16() -> bool:
    """Whether the CPU engine is installed and this processor multiplies in bfloat16."""
    try:
        from nextstate.engines.cpu import HAS_BF16
    except ImportError:
        return False
    return HAS_BF16
