"""The laws of recurrent functions, each a check of one runner on one cell that raises AssertionError."""

from __future__ import annotations

import torch
from torch import Tensor

import nextstate as ns
from agreement import Outcome, Runner, assert_agree, on, outcome
from nextstate.lengths import valid_steps
from nextstate.states import Tree, leaves, tree_map


def concatenation(run: Runner, cell: ns.Cell, us: Tree, s0: Tree) -> None:
    """A scan of two parts, the second from the carried state, is the scan of the whole."""
    for cut in {1, leaves(us)[0].shape[0] // 2}:

        def in_parts(cell: ns.Cell, us: Tree, s0: Tree, lengths: Tensor | None, cut: int = cut):
            first, s = run(cell, tree_map(lambda u: u[:cut], us), s0, None)
            second, s = run(cell, tree_map(lambda u: u[cut:], us), s, None)
            return tree_map(lambda a, b: torch.cat([a, b]), first, second), s

        assert_agree(outcome(in_parts, cell, us, s0), outcome(run, cell, us, s0))


def rows_alone(run: Runner, cell: ns.Cell, us: Tree, s0: Tree, lengths: Tensor | None) -> None:
    """A ragged batch is its rows run one by one, each cut to its own length, zeros after it.

    A row without steps is the plain loop's, whatever runs the others: not every engine runs nothing.
    """

    def one_by_one(cell: ns.Cell, us: Tree, s0: Tree, lengths: Tensor | None):
        steps, batch = leaves(us)[0].shape[:2]
        rows = []
        for b in range(batch):
            end = steps if lengths is None else int(lengths[b])
            start = tree_map(lambda s: s[b : b + 1], s0)  # noqa: B023  (called at once)
            row = tree_map(lambda u: u[:end, b : b + 1], us)  # noqa: B023
            vs, s = (run if end else on("reference"))(cell, row, start, None)
            rows.append((tree_map(lambda v: pad(v, steps), vs), s))
        vs = tree_map(lambda *parts: torch.cat(parts, 1), *(vs for vs, _ in rows))
        return vs, tree_map(lambda *parts: torch.cat(parts), *(s for _, s in rows))

    assert_agree(outcome(run, cell, us, s0, lengths), outcome(one_by_one, cell, us, s0, lengths))


def pad(v: Tensor, steps: int) -> Tensor:
    return torch.cat([v, v.new_zeros(steps - v.shape[0], *v.shape[1:])])


def padding(run: Runner, cell: ns.Cell, us: Tree, s0: Tree, lengths: Tensor) -> None:
    """What stands after a row's end, NaN and ids out of range included, changes nothing."""
    valid = valid_steps(lengths, leaves(us)[0].shape[0])

    def spoil(u: Tensor) -> Tensor:
        worst = {torch.bool: True}.get(u.dtype, torch.nan if u.is_floating_point() else -(10**6))
        return u.where(valid.reshape(*valid.shape, *[1] * (u.dim() - 2)), worst)

    spoilt = outcome(run, cell, tree_map(spoil, us), s0, lengths)
    assert_agree(spoilt, outcome(run, cell, us, s0, lengths), 1e-30)


def last_of_scan(engine: str, run: Runner, cell: ns.Cell, us: Tree, s0: Tree, lengths: Tensor) -> None:
    """Fold is the output of each row's last step, zeros without one."""

    def folded(cell: ns.Cell, us: Tree, s0: Tree, lengths: Tensor | None):
        return ns.fold(cell, us, s0, lengths=lengths, engine=engine)

    def scanned(cell: ns.Cell, us: Tree, s0: Tree, lengths: Tensor | None):
        vs, s = run(cell, us, s0, lengths)

        def last(v: Tensor) -> Tensor:
            ends = [v.shape[0]] * v.shape[1] if lengths is None else lengths.tolist()
            return torch.stack([v[n - 1, b] if n else torch.zeros_like(v[0, b]) for b, n in enumerate(ends)])

        return tree_map(last, vs), s

    expected = outcome(scanned, cell, us, s0, lengths)
    assert_agree(outcome(folded, cell, us, s0, lengths), expected)


def batched(run: Runner, cell: ns.Cell, us: Tree, s0: Tree) -> None:
    """Rows do not see each other."""
    rows_alone(run, cell, us, s0, None)


def teacher_forcing(run: Runner, cell: ns.Cell, us: Tree, s0: Tree) -> None:
    """An unfold whose feed hands out the given inputs is the scan of them."""

    def unfolded(cell: ns.Cell, us: Tree, s0: Tree, lengths: Tensor | None):
        steps = leaves(us)[0].shape[0]
        given = iter([tree_map(lambda u: u[t], us) for t in range(1, steps)])  # noqa: B023  (called at once)
        first = tree_map(lambda u: u[0], us)
        return ns.unfold(cell, s0, first, steps=steps, feed=lambda v: next(given, first))

    assert_agree(outcome(unfolded, cell, us, s0), outcome(run, cell, us, s0))


def plain_loop(run: Runner, cell: ns.Cell, us: Tree, s0: Tree, tolerance: float | None = None) -> Outcome:
    """A scan is the loop anybody would write."""

    def loop(cell: ns.Cell, us: Tree, s: Tree, lengths: Tensor | None):
        vs = []
        for t in range(leaves(us)[0].shape[0]):
            v, s = cell(tree_map(lambda u: u[t], us), s)  # noqa: B023  (called at once)
            vs.append(v)
        return tree_map(lambda *parts: torch.stack(parts), *vs), s

    expected = outcome(loop, cell, us, s0)
    assert_agree(outcome(run, cell, us, s0), expected, tolerance)
    return expected
