"""How many threads the CPU engine uses: as many as torch, unless said otherwise."""

from __future__ import annotations

import torch

from nextstate.checks import refuse

_chosen: int | None = None


def set_threads(count: int | None) -> None:
    """Set the number of threads of the CPU engine alone; None follows `torch.get_num_threads()` again.

    set_threads : int | None -> None

    Where torch's own share of the work is small, `torch.set_num_threads(1)` with more threads here keeps
    torch's waiting threads from taking the cores that the engine's need. Raises InputError below 1.

    >>> set_threads(2); threads()
    2
    >>> set_threads(None)
    """
    global _chosen
    if count is not None and (not isinstance(count, int) or count < 1):
        refuse("set_threads", f"count is {count!r}; expected an integer >= 1, or None to follow torch")
    _chosen = count


def threads() -> int:
    return torch.get_num_threads() if _chosen is None else _chosen
