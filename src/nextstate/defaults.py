"""torch's own defaults, whatever a user has made of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def usual_defaults() -> Iterator[None]:
    """Within the block torch makes what it is not told otherwise as float32 on the CPU.

    The type is that of the whole process while the block runs: torch keeps one for all threads.

    >>> torch.set_default_dtype(torch.float64)
    >>> with usual_defaults():
    ...     print(torch.zeros(1).dtype)
    torch.float32
    >>> torch.zeros(1).dtype
    torch.float64
    >>> torch.set_default_dtype(torch.float32)
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)
