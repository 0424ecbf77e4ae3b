"""Token ids as people hold them, [batch, time] with lengths, turned into what the loops take."""

from __future__ import annotations

import torch
from torch import Tensor

from nextstate.checks import describe, refuse
from nextstate.lengths import check_lengths, valid_steps


def time_first(operation: str, ids: Tensor, vocabulary: int, lengths: Tensor | None = None) -> Tensor:
    """The ids as [time, batch], padding set to 0, every id within 0..vocabulary-1.

    >>> time_first("read", torch.tensor([[1, 2, 0], [3, -1, -1]]), 4, torch.tensor([3, 1])).tolist()
    [[1, 3], [2, 0], [0, 0]]
    """
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.dtype not in (torch.int32, torch.int64):
        refuse(operation, f"the ids are {describe(ids)}; expected int64 or int32 [batch, time]")
    ids = ids.T
    steps, batch = ids.shape
    lengths = check_lengths(operation, lengths, steps, batch, ids.device)
    if lengths is not None:
        ids = ids.where(valid_steps(lengths, steps), 0)
    if ids.numel() and not ids.is_meta and not torch.compiler.is_compiling():
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= vocabulary:
            refuse(operation, f"the ids run from {low} to {high}; each must lie in 0..{vocabulary - 1}")
    return ids
