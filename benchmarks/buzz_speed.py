"""Texts a second of a Buzzometer, beside torch.nn.GRU of the same size: `benchmarks/buzz.py --only speed`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import nextstate as ns
from nextstate.buzzometer import Buzzometer
from nextstate.networks.document_classifier import DocumentClassifier, cut, join


class Plain(nn.Module):
    """What one would write with torch.nn: the same sizes and weights, packed sequences, the same pooling."""

    def __init__(self, network: DocumentClassifier) -> None:
        super().__init__()
        layer = network.layer
        self.table, self.combination, self.readout = network.table, network.combination, network.readout
        inputs, hidden = layer.forward_cell.weight_ih.shape[1], layer.forward_cell.weight_hh.shape[1]
        self.gru = nn.GRU(inputs, hidden, bidirectional=True)
        for cell, suffix in ((layer.forward_cell, "_l0"), (layer.backward_cell, "_l0_reverse")):
            for name, weight in cell.named_parameters():
                getattr(self.gru, name + suffix).data.copy_(weight)

    def read(self, texts: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The largest and the sum of every feature, and the lengths."""
        lengths = torch.tensor([max(1, len(ids)) for ids in texts])
        ids = nn.utils.rnn.pad_sequence([torch.from_numpy(t.astype(np.int64)) for t in texts])
        us = nn.utils.rnn.pack_padded_sequence(F.embedding(ids, self.table), lengths, enforce_sorted=False)
        both = us._replace(data=torch.cat([self.gru(us)[0].data, us.data], -1))
        zs = both._replace(data=self.combination(both.data).relu())
        zs, _ = nn.utils.rnn.pad_packed_sequence(zs)  # zeros, no larger than any feature
        return zs.amax(0), zs.sum(0), lengths

    @torch.no_grad()
    def forward(self, texts: Sequence[np.ndarray]) -> torch.Tensor:
        largest, total, lengths = self.read(texts)
        return self.readout(torch.cat([largest, total / lengths[:, None]], -1))

    @torch.no_grad()
    def in_pieces(self, texts: Sequence[np.ndarray], size: int, network: DocumentClassifier) -> torch.Tensor:
        """The same network on the pieces that ours reads, 256 of about equal length side by side."""
        pieces = cut(texts, size)
        width = self.combination.out_features
        largest, total = torch.empty(len(pieces.owner), width), torch.empty(len(pieces.owner), width)
        for rows in pieces.lengths.argsort(descending=True).split(256):
            columns = zip(pieces.ids[:, rows].T, pieces.lengths[rows].tolist(), strict=True)
            largest[rows], total[rows], _ = self.read([column[:n].numpy() for column, n in columns])
        return network.classify(join(largest, total, pieces))


def bench_speed(options: argparse.Namespace, texts: list[str]) -> dict[str, Any]:
    """Reviews a second, whole: words, pieces, network, n-grams, answers; and the networks alone beside each
    other, without n-grams, after they were seen to give the same logits."""
    model = Buzzometer.load(options.model)
    network, threads, piece = model.network, options.threads, model.shape.piece
    alone, plain = Buzzometer(network, model.words, model.shape), Plain(network)
    ids = [np.array(model.words.ids(text), dtype=np.int32) for text in texts]
    ns.set_threads(threads)
    torch.set_num_threads(threads)
    part = ids[::5]
    apart = float((alone.logits(part)[0] - plain.in_pieces(part, piece, network)).abs().max())
    if not apart <= 1e-3:
        raise SystemExit(f"the logits of the two networks are up to {apart} apart: nothing is timed")
    as_found = [part[b : b + 64] for b in range(0, len(part), 64)]
    ordered = sorted(part, key=len)
    by_length = [ordered[b : b + 64] for b in range(0, len(part), 64)]
    contenders = {
        "whole": (partial(model.score, texts), len(texts)),
        "ours": (partial(alone.logits, ids), len(texts)),
        "torch": (partial(_each, plain, as_found), len(part)),
        "torch in order of length": (partial(_each, plain, by_length), len(part)),
        "torch on the same pieces": (partial(plain.in_pieces, ids, piece, network), len(texts)),
    }
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.passes):
        for name, (work, count) in contenders.items():
            found[name].append(_rate(work, count))
    rates = {name: round(float(np.median(values)), 1) for name, values in found.items()}
    times = {f"times {name}": round(rates["ours"] / rates[name], 2) for name in rates if "torch" in name}
    return {"speed": rates | times | {"logits apart": apart}}


def _each(network: nn.Module, batches: list[Any]) -> None:
    for batch in batches:
        network(batch)


def _rate(work: Any, count: int) -> float:
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)
