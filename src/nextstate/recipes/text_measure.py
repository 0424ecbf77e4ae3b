"""How well a model predicts a text that lies on disk: in many rows at once, in memory of constant size."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

CONTEXT = 256
"""Tokens read before the first that counts, where a text is measured in several rows at once."""


@torch.no_grad()
def mean_nats(model: nn.Module, ids: np.ndarray, before: np.ndarray, rows: int = 32) -> float:
    """Mean of -log p over all tokens of `ids`, read in `rows` rows at once.

    mean_nats : (model, [id], [id]) -> nats

    Every row first reads the `CONTEXT` tokens before its first one, so that what it is measured by starts
    from a state as if the whole text had been read; `before` is the text before `ids`. Both may be mapped
    from disk: a chunk is read when its turn comes.
    """
    rows = max(1, min(rows, len(ids) // CONTEXT))
    head = np.asarray(before[-CONTEXT - 1 :])
    lead, each = len(head), -(-len(ids) // rows)
    starts = np.arange(rows)[:, None] * each
    total, s = 0.0, None
    for begin in range(0, lead + each - 1, CONTEXT):
        end = min(begin + CONTEXT, lead + each - 1)
        places = starts + np.arange(begin, end + 1) - lead  # within `ids`; below 0 in what comes before
        inside = np.clip(places, 0, len(ids) - 1)
        text = np.where(places < 0, head[np.minimum(places, -1) + lead], ids[inside])
        chunk = torch.from_numpy(text.astype(np.int64))
        logits, s = model(chunk[:, :-1], s)
        scores = F.cross_entropy(logits.float().flatten(0, 1), chunk[:, 1:].flatten(), reduction="none")
        own = np.arange(begin + 1, end + 1) >= lead  # what is read before a row's first token is not its own
        counts = torch.from_numpy(own & (places[:, 1:] < len(ids)))
        total += float(scores.reshape(rows, -1)[counts].double().sum())
    return total / len(ids)
