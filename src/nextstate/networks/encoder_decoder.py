"""Sequence to sequence through one vector: an encoder reads, a decoder writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.cell import Cell, FunctionCell
from nextstate.cells import GRU
from nextstate.cells.parameters import check_sizes
from nextstate.checks import describe, refuse
from nextstate.combine import Embedded, look_up
from nextstate.lengths import check_lengths, valid_steps
from nextstate.networks.ids import time_first
from nextstate.run import fold, scan, unfold
from nextstate.states import Tree, leaves


class DecoderState(NamedTuple):
    """State of a `Decoder`: that of its cell, and the summary, which every step hands on unchanged."""

    cell: Tree
    summary: Tensor


class Decoder(Cell):
    """A conditioned language model: reads the previous token and the summary, scores the next token.

    Decoder : (id, (s, summary)) -> (logits, (s', summary))

        x       = [table[id], summary]
        (v, s') = cell(x, s)
        logits  = A v + b

    Shapes: id [B], summary [B, S], logits [B, V]; table [V + 1, E], whose last row is the start symbol:
    it can be read but never written. The cell takes inputs [B, E + S] and gives outputs [B, H].
    """

    def __init__(
        self, cell: Cell, vocabulary: int, embedding_size: int, summary_size: int, output_size: int
    ) -> None:
        super().__init__()
        self.cell = cell
        self.summary_size = summary_size
        self.table = nn.Parameter(torch.randn(vocabulary + 1, embedding_size))
        self.readout = nn.Linear(output_size, vocabulary)

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> DecoderState:
        return DecoderState(
            self.cell.initial_state(batch_size, device=device, dtype=dtype),
            torch.zeros(batch_size, self.summary_size, device=device, dtype=dtype),
        )

    def forward(self, u: Tensor, s: DecoderState) -> tuple[Tensor, DecoderState]:
        x = torch.cat([look_up("Decoder", u, self.table), s.summary], -1)
        v, inner = self.cell(x, s.cell)
        return self.readout(v), DecoderState(inner, s.summary)


class EncoderDecoder(nn.Module):
    """Sequence to sequence through one summary vector, which is all that the decoder knows of the input.

    EncoderDecoder : (source ids, target ids) -> logits

        summary      = projection(last state of the encoder over the source)
        logits_t, s  = decoder((target_{t-1}, summary), s),   target_{-1} = start

    Shapes: source [batch, time] ids below `source_vocabulary`, target [batch, time'] ids below
    `target_vocabulary`, logits [batch, time', target_vocabulary]; lengths [batch], zeros allowed.
    The start symbol is the id `start` = target_vocabulary: an extra row of the decoder's table.

    `summary_size`: None hands over the whole last state of the encoder (its tensors side by side), a
    number a learned linear map of it. `cell(input_size, hidden_size)` makes the encoder's and the decoder's
    cell. Teacher forcing is a `scan`, generation an `unfold`; both start the decoder at its cell's own
    initial state.

    Raises InputError for ids that are not integers [batch, time] or out of range, and for bad lengths.
    Source: Cho et al. 2014 (arXiv 1406.1078), whose decoder also sees the summary at every step. It is not
    an attention model, and not Sutskever et al. 2014, where the summary is only the decoder's first state.

    >>> network = EncoderDecoder(source_vocabulary=10, target_vocabulary=7, hidden_size=16)
    >>> source, target = torch.randint(10, (3, 5)), torch.randint(7, (3, 4))
    >>> network(source, target).shape
    torch.Size([3, 4, 7])
    >>> network.generate(source, torch.tensor([5, 0, 2]), steps=6).shape
    torch.Size([3, 6])
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        hidden_size: int,
        *,
        embedding_size: int | None = None,
        summary_size: int | None = None,
        cell: Callable[[int, int], Cell] = GRU,
    ) -> None:
        super().__init__()
        embedding_size = hidden_size if embedding_size is None else embedding_size
        check_sizes("EncoderDecoder", source_vocabulary, target_vocabulary, hidden_size, embedding_size)
        if not callable(cell):
            refuse("EncoderDecoder", f"cell is {cell!r}; expected what makes one of two sizes, such as GRU")
        self.source_vocabulary, self.target_vocabulary = source_vocabulary, target_vocabulary
        self.encoder = Embedded(cell(embedding_size, hidden_size), source_vocabulary, embedding_size)
        width = sum(leaf[0].numel() for leaf in leaves(self.encoder.initial_state(1)))
        self.projection: nn.Module = nn.Identity()
        if summary_size is not None:
            check_sizes("EncoderDecoder", summary_size)
            self.projection = nn.Linear(width, summary_size)
        summary = width if summary_size is None else summary_size
        decoder = cell(embedding_size + summary, hidden_size)
        with torch.no_grad():
            v, _ = fold(decoder, torch.zeros(1, 1, embedding_size + summary), engine="reference")
        if not isinstance(v, Tensor):
            refuse("EncoderDecoder", f"the cell puts out {describe(v)}; expected one tensor [B, ...]")
        self.decoder = Decoder(decoder, target_vocabulary, embedding_size, summary, v.shape[-1])

    @property
    def start(self) -> int:
        """The id the decoder reads before its first output."""
        return self.target_vocabulary

    def summarise(self, source: Tensor, lengths: Tensor | None = None) -> Tensor:
        """summarise : (source ids [batch, time], lengths) -> summary [batch, S]."""
        ids = time_first("EncoderDecoder", source, self.source_vocabulary, lengths)
        _, state = fold(self.encoder, ids, lengths=lengths)
        return self.projection(torch.cat([leaf.flatten(1) for leaf in leaves(state)], -1))

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        lengths: Tensor | None = None,
        target_lengths: Tensor | None = None,
    ) -> Tensor:
        """Teacher forcing: the logits [batch, time', V] of each target token given those before it."""
        ids = time_first("EncoderDecoder", target, self.target_vocabulary, target_lengths)
        s0 = self._decoder_start(source, lengths)
        if len(target) != len(source):
            refuse(
                "EncoderDecoder",
                f"source {tuple(source.shape)} and target {tuple(target.shape)} differ in their batch",
            )
        first = ids.new_full((1, ids.shape[1]), self.start)
        previous = torch.cat([first, ids])[: ids.shape[0]]
        logits, _ = scan(self.decoder, previous, s0, lengths=target_lengths)
        return logits.transpose(0, 1)

    def loss(
        self,
        source: Tensor,
        target: Tensor,
        lengths: Tensor | None = None,
        target_lengths: Tensor | None = None,
    ) -> Tensor:
        """Cross-entropy in nats, the mean over the target tokens that are not padding; 0 if there are none.

        >>> network = EncoderDecoder(4, 4, 8)
        >>> network.loss(torch.tensor([[1, 0]]), torch.tensor([[0, 1]])).shape
        torch.Size([])
        """
        logits = self(source, target, lengths, target_lengths)
        target_lengths = check_lengths(
            "EncoderDecoder", target_lengths, target.shape[1], target.shape[0], target.device
        )
        target = target.long()
        if target_lengths is not None:
            target = target.where(valid_steps(target_lengths, target.shape[1]).T, -100)
        total = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-100, reduction="sum")
        return total / (target != -100).sum().clamp(min=1)

    @torch.no_grad()
    def generate(
        self,
        source: Tensor,
        lengths: Tensor | None = None,
        *,
        steps: int,
        choose: Callable[[Tensor], Tensor] = lambda logits: logits.argmax(-1),
    ) -> Tensor:
        """Write `steps` tokens, each fed back as the next input: ids [batch, steps].

        `choose` turns logits [batch, V] into ids [batch]: the most likely token unless said.
        """
        s0 = self._decoder_start(source, lengths)

        def write(u: Tensor, s: DecoderState) -> tuple[Tensor, DecoderState]:
            logits, s = self.decoder(u, s)
            return choose(logits), s

        first = torch.full((len(source),), self.start, device=source.device)
        writer = FunctionCell(write, self.decoder.initial_state)
        ids, _ = unfold(writer, s0, first, steps=steps, feed=lambda v: v)
        return ids.T

    def _decoder_start(self, source: Tensor, lengths: Tensor | None) -> DecoderState:
        summary = self.summarise(source, lengths)
        start = self.decoder.initial_state(len(summary), device=summary.device, dtype=summary.dtype)
        return start._replace(summary=summary)
