"""One vector from the outputs of a sequence of any length. Rows without steps give zeros.

Every pooling raises InputError for outputs that are not [T, B, ...] and for lengths that are not theirs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nextstate.checks import check_sequence, refuse
from nextstate.lengths import check_lengths, last_valid, valid_steps, zero_padding


def _checked(pooling: str, vs: Tensor, lengths: Tensor | None) -> Tensor | None:
    """The lengths, if they are those of the rows of `vs`."""
    steps, batch = check_sequence(pooling, vs)
    return check_lengths(pooling, lengths, steps, batch, vs.device)


class Last(nn.Module):
    """The output of each row's last step.

    Last : ([v], lengths) -> v;  vs [T, B, F] -> [B, F]

    >>> Last()(torch.tensor([[[1.0]], [[2.0]], [[9.0]]]), torch.tensor([2]))
    tensor([[2.]])
    """

    def forward(self, vs: Tensor, lengths: Tensor | None = None) -> Tensor:
        return last_valid(vs, _checked("Last", vs, lengths))


class Ends(nn.Module):
    """For a `Bidirectional` layer of two equal widths: where each direction has read everything.

    Ends : ([v], lengths) -> [first half at the last step, second half at the first step]

    Shapes: vs [T, B, 2F] -> [B, 2F]. Raises InputError if the width is odd.

    >>> Ends()(torch.tensor([[[1.0, 10.0]], [[2.0, 20.0]]]))
    tensor([[ 2., 10.]])
    """

    def forward(self, vs: Tensor, lengths: Tensor | None = None) -> Tensor:
        lengths = _checked("Ends", vs, lengths)
        if vs.shape[-1] % 2:
            refuse("Ends", f"outputs {tuple(vs.shape)} cannot be halved into two directions")
        forward, backward = vs.chunk(2, -1)
        if vs.shape[0] == 0:
            return vs.new_zeros(vs.shape[1:])
        first = zero_padding(backward, lengths)[0]
        return torch.cat([last_valid(forward, lengths), first], -1)


class Mean(nn.Module):
    """The mean over each row's own steps.

    Mean : ([v], lengths) -> v;  vs [T, B, F] -> [B, F]

    >>> Mean()(torch.tensor([[[1.0]], [[2.0]], [[9.0]]]), torch.tensor([2]))
    tensor([[1.5000]])
    """

    def forward(self, vs: Tensor, lengths: Tensor | None = None) -> Tensor:
        lengths = _checked("Mean", vs, lengths)
        total = zero_padding(vs, lengths).sum(0)
        if lengths is None:
            return total / max(1, vs.shape[0])
        return total / lengths.clamp(min=1).to(vs).unsqueeze(-1)


class Max(nn.Module):
    """The largest value of each unit over each row's own steps.

    Max : ([v], lengths) -> v;  vs [T, B, F] -> [B, F]

    >>> Max()(torch.tensor([[[-3.0]], [[-2.0]], [[9.0]]]), torch.tensor([2]))
    tensor([[-2.]])
    """

    def forward(self, vs: Tensor, lengths: Tensor | None = None) -> Tensor:
        lengths = _checked("Max", vs, lengths)
        if vs.shape[0] == 0:
            return vs.new_zeros(vs.shape[1:])
        if lengths is None:
            return vs.amax(0)
        valid = valid_steps(lengths, vs.shape[0]).unsqueeze(-1)
        return vs.masked_fill(~valid, -torch.inf).amax(0).where(valid[0], 0)


class Concatenation(nn.Module):
    """Several poolings side by side.

    Concatenation : ([v], lengths) -> [v1, v2, ...];  vs [T, B, F] -> [B, F1 + F2 + ...]

    >>> Concatenation(Max(), Mean())(torch.tensor([[[1.0]], [[2.0]]]))
    tensor([[2.0000, 1.5000]])
    """

    def __init__(self, *poolings: nn.Module) -> None:
        super().__init__()
        if not poolings or not all(isinstance(pooling, nn.Module) for pooling in poolings):
            given = ", ".join(map(repr, poolings)) or "none"
            refuse("Concatenation", f"expected one or more poolings, got {given}")
        self.poolings = nn.ModuleList(poolings)

    def forward(self, vs: Tensor, lengths: Tensor | None = None) -> Tensor:
        return torch.cat([pooling(vs, lengths) for pooling in self.poolings], -1)
