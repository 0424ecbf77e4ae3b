"""Both directions over a sequence, right for every row's own length."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nextstate.cell import Cell
from nextstate.checks import check_sequence, describe, refuse
from nextstate.lengths import check_lengths
from nextstate.run import scan, scan_back
from nextstate.states import Tree, leaves, tree_map


class Bidirectional(nn.Module):
    """One cell reads forward, one backward; their outputs stand side by side.

    Bidirectional : ([u], (s0f, s0b)) -> ([v], (sTf, sTb))

        vs_f, sTf = scan(forward, us, s0f)
        vs_b, sTb = scan(backward, reverse(us), s0b)
        v_t       = [vs_f at t, reverse(vs_b) at t]

    Shapes: us [T, B, ...] (time first), v [T, B, F + G] for outputs [B, F] and [B, G]. `lengths` [B] as in
    `scan`: the backward cell starts at each row's own last step, and padding stays zero.

    Raises InputError as `scan`, and for a start that is not a pair. Source: Schuster and Paliwal 1997.

    >>> from nextstate import GRU
    >>> layer = Bidirectional(GRU(3, 4), GRU(3, 5))
    >>> vs, (forward, backward) = layer(torch.ones(7, 2, 3), lengths=torch.tensor([7, 0]))
    >>> vs.shape, backward.shape
    (torch.Size([7, 2, 9]), torch.Size([2, 5]))
    """

    def __init__(self, forward_cell: Cell, backward_cell: Cell) -> None:
        super().__init__()
        for cell in (forward_cell, backward_cell):
            if not isinstance(cell, Cell):
                refuse("Bidirectional", f"expected two cells, got a {type(cell).__name__}")
        self.forward_cell, self.backward_cell = forward_cell, backward_cell

    def forward(
        self, us: Tree, s0: tuple[Tree, Tree] | None = None, lengths: Tensor | None = None
    ) -> tuple[Tree, tuple[Tree, Tree]]:
        steps, batch = check_sequence("Bidirectional", us)
        lengths = check_lengths("Bidirectional", lengths, steps, batch, leaves(us)[0].device)
        if s0 is None:
            s0 = (None, None)
        elif not isinstance(s0, tuple) or len(s0) != 2:
            refuse("Bidirectional", f"s0 is a {type(s0).__name__}; expected a pair, one start a direction")
        vs_f, end_f = scan(self.forward_cell, us, s0[0], lengths=lengths)
        vs_b, end_b = scan_back(self.backward_cell, us, s0[1], lengths=lengths)
        if [v.shape[:-1] for v in leaves(vs_f)] != [v.shape[:-1] for v in leaves(vs_b)]:
            told = f"the cells put out {describe(vs_f)} and {describe(vs_b)}"
            refuse("Bidirectional", f"{told}; they may differ in their last dimension only")
        vs = tree_map(lambda f, b: torch.cat([f, b], -1), vs_f, vs_b)
        return vs, (end_f, end_b)
