"""One label for a sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.cell import Cell
from nextstate.cells.parameters import check_sizes
from nextstate.checks import describe, refuse
from nextstate.lengths import check_lengths
from nextstate.networks.bidirectional import Bidirectional
from nextstate.networks.ids import time_first
from nextstate.networks.pooling import Last
from nextstate.run import scan


class SequenceClassifier(nn.Module):
    """Layers of recurrent cells, a pooling over each row's own steps, a linear read-out.

    SequenceClassifier : ([x], lengths) -> logits

        us     = table[ids], or the features as they are
        us     = layer(us)                    for each layer: a Cell or a `Bidirectional`
        logits = A pooling(us) + b

    Shapes: ids [batch, time] below `vocabulary` and a table [vocabulary, inputs]; or, where `vocabulary` is
    None, features [batch, time, inputs]. lengths [batch], zeros allowed: a row without steps pools to zeros,
    so its logits are b. logits [batch, classes].

    `layers` is one layer or several, the first of which takes [B, inputs]; `pooling` a module
    ([T, B, F], lengths) -> [B, F'] from `nextstate.networks`: Last, Ends, Max, Mean, Concatenation.

    Raises InputError for inputs that are not as above or ids outside the vocabulary.

    >>> from nextstate import GRU, Bidirectional
    >>> network = SequenceClassifier(Bidirectional(GRU(8, 6), GRU(8, 6)), inputs=8, classes=2, vocabulary=50)
    >>> network(torch.randint(50, (3, 7)), torch.tensor([7, 0, 4])).shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        layers: Cell | Bidirectional | Sequence[Cell | Bidirectional],
        *,
        inputs: int,
        classes: int,
        vocabulary: int | None = None,
        pooling: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_sizes("SequenceClassifier", inputs, classes, *([] if vocabulary is None else [vocabulary]))
        self.inputs, self.vocabulary = inputs, vocabulary
        self.table = None if vocabulary is None else nn.Parameter(torch.randn(vocabulary, inputs))
        each = list(layers) if isinstance(layers, Sequence | nn.ModuleList) else [layers]
        if not all(isinstance(layer, Cell | Bidirectional) for layer in each):
            given = ", ".join(type(layer).__name__ for layer in each)
            refuse("SequenceClassifier", f"layers are {given}; expected Cells and Bidirectionals")
        pooling = Last() if pooling is None else pooling
        if not isinstance(pooling, nn.Module):
            refuse("SequenceClassifier", f"pooling is {pooling!r}; expected a module, such as networks.Max()")
        self.layers, self.pooling = nn.ModuleList(each), pooling
        with torch.no_grad():
            example = next(iter(self.layers.parameters()), torch.zeros(()))
            width = self._pooled(example.new_zeros(1, 1, inputs), None).shape[-1]
        self.readout = nn.Linear(width, classes)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if self.table is not None and self.vocabulary is not None:
            us = F.embedding(time_first("SequenceClassifier", x, self.vocabulary, lengths), self.table)
        else:
            if not isinstance(x, Tensor) or x.dim() != 3 or x.shape[-1] != self.inputs:
                refuse(
                    "SequenceClassifier",
                    f"the features are {describe(x)}; expected [batch, time, {self.inputs}]",
                )
            us = x.transpose(0, 1)
        lengths = check_lengths("SequenceClassifier", lengths, us.shape[0], us.shape[1], us.device)
        return self.readout(self._pooled(us, lengths))

    def _pooled(self, us: Tensor, lengths: Tensor | None) -> Tensor:
        for layer in self.layers:
            if isinstance(layer, Cell):
                us, _ = scan(layer, us, lengths=lengths)
            else:
                us, _ = layer(us, lengths=lengths)
        return self.pooling(us, lengths)
