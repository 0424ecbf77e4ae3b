"""Texts a second of a Buzzometer, beside torch.nn.GRU of the same size: `benchmarks/buzz.py --only speed`."""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import nextstate as ns
from nextstate.buzzometer import Buzzometer


class Plain(nn.Module):
    """What one would write with torch.nn: the same sizes, padded batches, the same pooling."""

    def __init__(self, table: torch.Tensor, features: int, hidden: int) -> None:
        super().__init__()
        self.table = nn.Parameter(table)
        self.combination = nn.Linear(2 * hidden + features, 2 * hidden)
        self.gru = nn.GRU(features, hidden, bidirectional=True, batch_first=True)
        self.readout = nn.Linear(4 * hidden, 3)

    @torch.no_grad()
    def forward(self, texts: list[np.ndarray]) -> torch.Tensor:
        lengths = torch.tensor([max(1, len(ids)) for ids in texts])
        ids = nn.utils.rnn.pad_sequence(
            [torch.from_numpy(t.astype(np.int64)) for t in texts], batch_first=True
        )
        us = nn.utils.rnn.pack_padded_sequence(
            F.embedding(ids, self.table), lengths, batch_first=True, enforce_sorted=False
        )
        both = us._replace(data=torch.cat([self.gru(us)[0].data, us.data], -1))
        zs = both._replace(data=self.combination(both.data).relu())
        zs, _ = nn.utils.rnn.pad_packed_sequence(zs, batch_first=True)  # zeros, no larger than any feature
        largest, mean = zs.amax(1), zs.sum(1) / lengths[:, None]
        return self.readout(torch.cat([largest, mean], -1))


def bench_speed(options: argparse.Namespace, texts: list[str]) -> dict[str, Any]:
    """Reviews a second, whole: words, pieces, network, answers; and the networks alone beside each other."""
    model = Buzzometer.load(options.model)
    threads = options.threads
    plain = Plain(model.network.table.detach(), model.shape.features, model.shape.hidden)
    ids = [np.array(model.words.ids(text), dtype=np.int32) for text in texts]
    order = np.argsort([len(t) for t in ids])
    found: dict[str, list[float]] = {"whole": [], "ours": [], "torch": [], "torch in order of length": []}
    for _ in range(options.passes):
        ns.set_threads(threads)
        torch.set_num_threads(1)
        found["whole"].append(_rate(lambda: model.score(texts), len(texts)))
        found["ours"].append(_rate(lambda: model.logits(ids), len(ids)))
        torch.set_num_threads(threads)
        part = list(range(0, len(texts), 5))
        as_found = [[ids[i] for i in part[b : b + 64]] for b in range(0, len(part), 64)]
        found["torch"].append(_rate(partial(_each, plain, as_found), len(part)))
        part = [int(i) for i in order[::5]]
        by_length = [[ids[i] for i in part[b : b + 64]] for b in range(0, len(part), 64)]
        found["torch in order of length"].append(_rate(partial(_each, plain, by_length), len(part)))
    rates = {name: round(float(np.median(values)), 1) for name, values in found.items()}
    return {"speed": rates | {"times torch": round(rates["ours"] / rates["torch"], 2)}}


def _each(network: nn.Module, batches: list[Any]) -> None:
    for batch in batches:
        network(batch)


def _rate(work: Any, count: int) -> float:
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)
