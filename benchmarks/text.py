"""Seconds to the same loss beside the same network of torch.nn: `python benchmarks/text.py FILE --to 2`.

Both networks start with the same weights and take the same steps on the same chunks with the same
optimiser: a block of steps the one, a block the other, so that whatever else the machine does meets both.
Before anything is timed the two must agree on loss and gradients (see `gate`). The clock of each stops when
the mean of its last 20 losses falls below `--to`. Reading the text is outside both clocks. Seconds of the
processor stand beside those of the wall: on a busy machine, with one thread, they are the ones to read.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.networks import LanguageModel
from nextstate.recipes.text import Dropout, Recipe, frequencies_, optimiser_for, text_loss, text_network
from nextstate.recipes.text_plan import sized
from nextstate.states import leaves
from nextstate.tasks.text import TextChunk, TextStreams, prepare_corpus, read_pieces
from nextstate.training import warmup_cosine

BLOCK = 5
"""Steps that one network takes before the other takes as many."""

GATE = 1e-3
"""Largest relative difference of the loss and of each gradient at which the two count as the same network."""


class MogrifierLayer(nn.Module):
    """The loop that a user of torch.nn writes where it has no layer: products with h and u, then LSTMCell."""

    def __init__(self, inputs: int, hidden: int, rounds: int = 5) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(inputs, hidden)
        self.q = nn.Parameter(torch.empty((rounds + 1) // 2 * inputs, hidden))
        self.r = nn.Parameter(torch.empty(rounds // 2 * hidden, inputs))

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """In the order of `nextstate.MogrifierLSTM`."""
        return iter([*self.cell.parameters(), self.q, self.r])

    def forward(self, us: Tensor, s: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden = self.cell.hidden_size
        qs, rs = self.q.split(us.shape[-1]), self.r.split(hidden)
        h, c = s or (us.new_zeros(len(us), hidden), us.new_zeros(len(us), hidden))
        hs = []
        for u in us.unbind(1):
            for number in range(len(qs) + len(rs)):
                if number % 2 == 0:
                    u = 2 * torch.sigmoid(F.linear(h, qs[number // 2])) * u
                else:
                    h = 2 * torch.sigmoid(F.linear(u, rs[number // 2])) * h
            h, c = self.cell(u, (h, c))
            hs.append(h)
        return torch.stack(hs, 1), (h, c)


class Peer(nn.Module):
    """The network as a user of torch.nn writes it: Embedding, recurrent layer, Linear."""

    def __init__(self, model: LanguageModel, recipe: Recipe) -> None:
        super().__init__()
        shape = recipe.shape
        self.table = nn.Embedding(model.vocabulary, shape.features)
        if shape.cell == "MogrifierLSTM":
            assert shape.layers == 1
            self.layers: nn.Module = MogrifierLayer(shape.features, shape.hidden)
        else:
            layer = {"GRU": nn.GRU, "LSTM": nn.LSTM}[shape.cell]
            self.layers = layer(shape.features, shape.hidden, shape.layers, batch_first=True)
        self.readout = nn.Linear(shape.hidden, model.vocabulary)
        with torch.no_grad():
            for own, theirs in zip(self.in_order(), in_order(model), strict=True):
                own.copy_(theirs)

    def in_order(self) -> list[nn.Parameter]:
        return [self.table.weight, *self.layers.parameters(), self.readout.weight, self.readout.bias]

    def forward(self, ids: Tensor, s: object = None) -> tuple[Tensor, object]:
        vs, end = self.layers(self.table(ids), s)
        return self.readout(vs), end


def in_order(model: LanguageModel) -> list[nn.Parameter]:
    """Parameters in the order of `Peer.in_order`."""
    cells = [p for cell in model.cell.cell.cells for p in cell.parameters()]  # type: ignore[union-attr]
    return [model.cell.table, *cells, model.readout.weight, model.readout.bias]


class Runner:
    """One of the two networks in training: its own clock, its own losses."""

    def __init__(self, model: nn.Module, recipe: Recipe, loss: Callable[[TextChunk], Tensor]) -> None:
        self.model, self.recipe, self.loss = model, recipe, loss
        self.optimiser = optimiser_for(model, recipe)
        self.schedule = warmup_cosine(0.05)
        self.seconds, self.cpu, self.losses = 0.0, 0.0, list[float]()

    def step(self, chunk: TextChunk) -> None:
        began, used = time.perf_counter(), time.process_time()
        factor = self.schedule(len(self.losses) / self.recipe.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = factor * self.recipe.rate
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss(chunk)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.losses.append(float(loss.detach()))
        self.seconds += time.perf_counter() - began
        self.cpu += time.process_time() - used

    def mean(self) -> float:
        return sum(self.losses[-20:]) / len(self.losses[-20:]) if len(self.losses) >= 20 else float("inf")


def ours(model: LanguageModel) -> Callable[[TextChunk], Tensor]:
    carry: list[tuple[Tensor, ...] | None] = [None]

    def loss(chunk: TextChunk) -> Tensor:
        found = text_loss(model, chunk, carry[0])
        carry[0] = tuple(leaf.detach() for leaf in leaves(found.carry))
        return found.value

    return loss


def theirs(model: Peer) -> Callable[[TextChunk], Tensor]:
    state: list[object] = [None]

    def loss(chunk: TextChunk) -> Tensor:
        logits, end = model(chunk.ids, state[0])
        state[0] = end.detach() if isinstance(end, Tensor) else tuple(part.detach() for part in end)
        return F.cross_entropy(logits.flatten(0, 1), chunk.targets.flatten())

    return loss


def gate(model: LanguageModel, peer: Peer, chunk: TextChunk) -> float:
    """Largest relative difference of the loss and of any gradient on one chunk; ends the run above GATE."""
    found = []
    for loss, parameters in ((ours(model), in_order(model)), (theirs(peer), peer.in_order())):
        value = loss(chunk)
        found.append([value.detach(), *torch.autograd.grad(value, parameters)])
    worst = max(float((a - b).norm() / b.norm()) for a, b in zip(*found, strict=True))
    if not worst < GATE:
        raise SystemExit(f"the two networks differ by {worst:.2e} (relative); nothing was timed")
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="a text")
    parser.add_argument("--to", type=float, default=2.0, help="loss in nats a token at which the clocks stop")
    parser.add_argument(
        "--cell", choices=("GRU", "LSTM", "MogrifierLSTM"), help="as `train text` if not given"
    )
    parser.add_argument("--minutes", type=float, default=1.0, help="sizes as `train text --minutes`")
    parser.add_argument("--steps", type=int, default=2000, help="steps of the schedule, and at most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--broken", action="store_true", help="one bias of the peer off: must be refused")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare_corpus(read_pieces([options.file]), Path(folder))
        recipe = sized(options.minutes, corpus.training.tokens, options.cell)
        recipe = replace(recipe, steps=options.steps, dropout=Dropout())
        torch.manual_seed(0)
        model, plain = text_network(recipe, corpus.unit.size)
        frequencies_(plain.readout, corpus.ids("training"))
        peer = Peer(plain, recipe)
        if options.broken:
            nn.init.zeros_(peer.readout.bias)
        source = TextStreams(corpus.ids("training"), recipe.rows, recipe.length)
        chunks = [source.draw() for _ in range(options.steps)]
        error = gate(model, peer, chunks[0])
        runners = {
            "nextstate": Runner(model, recipe, ours(model)),
            "torch.nn": Runner(peer, recipe, theirs(peer)),
        }
        torch.set_num_threads(options.threads)
        for begin in range(0, options.steps, BLOCK):
            for runner in runners.values():
                for chunk in chunks[begin : begin + BLOCK]:
                    if runner.mean() > options.to:
                        runner.step(chunk)
            if all(runner.mean() <= options.to for runner in runners.values()):
                break
    row = {
        "shape": f"{recipe.shape.layers} x {recipe.shape.cell} of {recipe.shape.hidden}",
        "chunk": [recipe.rows, recipe.length],
        "threads": options.threads,
        "to": options.to,
        "gate": error,
        **{
            name: {
                "reached": runner.mean() <= options.to,
                "seconds": round(runner.seconds, 2),
                "processor seconds": round(runner.cpu, 2),
                "steps": len(runner.losses),
                "loss": round(runner.mean(), 4),
            }
            for name, runner in runners.items()
        },
        "times fewer seconds": round(runners["torch.nn"].seconds / runners["nextstate"].seconds, 2),
        "times fewer processor seconds": round(runners["torch.nn"].cpu / runners["nextstate"].cpu, 2),
    }
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
