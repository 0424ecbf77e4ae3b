"""One training on several processes: torchrun starts them, Fabric joins them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy

Value = TypeVar("Value")


@lru_cache
def here(accelerator: str = "cpu", precision: str = "32-true") -> Fabric:
    """The Fabric of this process: alone, or one of those that torchrun started.

    here : (accelerator, precision) -> Fabric

    Several processes hold a copy of the model each and average their gradients (DDP: gloo on CPUs, NCCL on
    GPUs), so that a step is one on their batches joined, for losses that are means over as many elements
    in every process. The same Fabric is returned for the same arguments.

    >>> here().world_size
    1
    """
    if not TorchElasticEnvironment.detect():
        return Fabric(accelerator=accelerator, devices=1, precision=precision)  # type: ignore[arg-type]
    world, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    fabric = Fabric(
        accelerator=accelerator,
        devices=local,
        num_nodes=world // local,
        strategy=DDPStrategy(),
        precision=precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def of_first(fabric: Fabric, make: Callable[[], Value]) -> Value:
    """What `make` returns in the first process, in every one: it is called there alone.

    >>> of_first(here(), lambda: 3)
    3
    """
    value = make() if fabric.is_global_zero else None
    return fabric.broadcast(value) if fabric.world_size > 1 else value  # type: ignore[return-value]
