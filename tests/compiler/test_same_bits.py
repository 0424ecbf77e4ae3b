"""A row has the same bits whatever else is in the batch, however the sequence is cut, and on any threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from steps import HIDDEN, INPUT, STEPS, Step
from torch import Tensor

import nextstate as ns
from agreement import assert_close
from catalogue import ROWS, Row, random_state, randomise_
from nextstate.compiler.classify import op_name
from nextstate.compiler.compiling import compile_step
from nextstate.states import Tree, leaves, tree_map

rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
USERS = [
    "chunked gates",
    "layer norm",
    "attention over parts",
    "two in a row",
    "einsum heads",
    "antisymmetric",
]
LARGE = [(ns.GRU, 33, 70, 24, 37), (ns.LSTM, 16, 64, 40, 29), (ns.LayerNormGRU, 20, 48, 17, 31)]
"""Cell, input size, hidden size, steps, batch: enough work for two threads and several blocks of rows."""


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bits(x: Tensor) -> Tensor:
    return x.detach().contiguous().view(torch.int32) if x.dtype is torch.float32 else x


def same(one: Tree, other: Tree) -> None:
    for a, b in zip(leaves(one), leaves(other), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), f"{a.shape} {a.dtype}, {b.shape} {b.dtype}"
        equal = torch.equal(bits(a), bits(b))
        assert equal, f"differs by {float((a - b).detach().abs().max()):.1e}"


@pytest.mark.parametrize(
    "other", [torch.tensor([0.0, 1.0]), torch.tensor([[-0.0, 1.0]]), torch.tensor([-0.0, 1.0]).double()],
    ids=["sign of zero", "shape", "dtype"],
)  # fmt: skip
def test_other_bits_shapes_and_dtypes_are_rejected(other: Tensor) -> None:
    one = torch.tensor([-0.0, 1.0])
    assert bool((one == other).all())
    same(one, one.clone())
    with pytest.raises(AssertionError):
        same(one, other)


OUTSIDE = {"MinGRU", "Decoder", "two lambdas without memory"}
"""Rows with a product before or after the loop that only torch can do: its bits depend on how many rows there
are, so for these cells the promise is agreement to rounding. So it is for ids, which are looked up in a table
that torch makes if there are many of them, and multiplied if there are few."""


def products_by_torch(cell: ns.Cell, us: Tree, s0: Tree) -> bool:
    step = compile_step(cell, tree_map(lambda u: u[0], us), s0, gather=False, keep_outputs=True)
    return any(op_name(node) in ("mm", "addmm") for node in (*step.split.before, *step.split.after))


def alike(row: Row, one: Tree, other: Tree) -> None:
    """The same bits, or rounding where torch multiplies."""
    (assert_close if row.name in OUTSIDE or row.inputs == "ids" else same)(one, other)


@rows
def test_who_multiplies(row: Row) -> None:
    assert products_by_torch(*made(row)) == (row.name in OUTSIDE)


def cpu(cell: ns.Cell, us: Tree, s0: Tree, lengths: Tensor | None = None) -> tuple[Tree, Tree]:
    return ns.scan(cell, us, s0, lengths=lengths, engine="cpu")


def made(row: Row, steps: int = 9, batch: int = 5) -> tuple[ns.Cell, Tree, Tree]:
    cell = row.cell(dtype=torch.float32)
    return cell, row.us(steps, batch, dtype=torch.float32), random_state(cell, batch, torch.float32)


def check_rows(run, cell: ns.Cell, us: Tree, s0: Tree, lengths: Tensor | None, same=same) -> None:
    together_v, together_s = run(cell, us, s0, lengths)
    steps, batch = leaves(us)[0].shape[:2]
    for b in range(batch):
        end = steps if lengths is None else int(lengths[b])
        if not end:
            continue
        alone_v, alone_s = run(
            cell,
            tree_map(lambda u: u[:end, b : b + 1], us),  # noqa: B023  (called at once)
            tree_map(lambda s: s[b : b + 1], s0),  # noqa: B023
            None,
        )
        same(tree_map(lambda v: v[:end, b : b + 1], together_v), alone_v)  # noqa: B023
        same(tree_map(lambda s: s[b : b + 1], together_s), alone_s)  # noqa: B023


@rows
@pytest.mark.parametrize("lengths", [None, torch.tensor([4, 0, 9, 1, 7])], ids=["full", "ragged"])
def test_a_row_alone(row: Row, lengths: Tensor | None) -> None:
    check_rows(cpu, *made(row), lengths, partial(alike, row))


@pytest.mark.parametrize("name", USERS)
def test_a_row_of_a_users_cell_alone(name: str) -> None:
    check_rows(cpu, Step(STEPS[name]), torch.randn(5, 6, INPUT), torch.randn(6, HIDDEN), None)


def test_a_row_that_hears_the_batch_is_rejected() -> None:
    def leaking(cell: ns.Cell, us: Tree, s0: Tree, lengths: Tensor | None) -> tuple[Tree, Tree]:
        vs, s = cpu(cell, us, s0, lengths)
        return vs * (1 + 1e-7 * us.shape[1]), s

    with pytest.raises(AssertionError, match="differs by"):
        check_rows(leaking, ns.GRU(3, 5), torch.randn(4, 3, 3), torch.randn(3, 5), None)


@rows
def test_cut_in_time(row: Row) -> None:
    cell, us, s0 = made(row)
    whole_v, whole_s = cpu(cell, us, s0)
    for cut in (1, 4, 8):
        first, s = cpu(cell, tree_map(lambda u: u[:cut], us), s0)  # noqa: B023  (called at once)
        second, s = cpu(cell, tree_map(lambda u: u[cut:], us), s)  # noqa: B023
        alike(row, tree_map(lambda a, b: torch.cat([a, b]), first, second), whole_v)
        alike(row, s, whole_s)


def gradients(cell: ns.Cell, us: Tensor, s0: Tree, lengths: Tensor | None) -> tuple[Tensor, ...]:
    us, s0 = us.clone().requires_grad_(), tree_map(lambda s: s.clone().requires_grad_(), s0)
    vs, sT = cpu(cell, us, s0, lengths)
    total = sum((x.sin() * (1 + k)).sum() for k, x in enumerate((*leaves(vs), *leaves(sT))))
    wanted = [us, *leaves(s0), *cell.parameters()]
    return (*leaves(vs), *leaves(sT), *torch.autograd.grad(total, wanted))


@pytest.mark.parametrize("large", LARGE, ids=lambda large: large[0].__name__)
@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
def test_threads_and_repetition(large, ragged: bool) -> None:
    """Outputs and every gradient, those of the weights included."""
    kind, inputs, hidden, steps, batch = large
    cell = randomise_(kind(inputs, hidden), 0.2)
    us, s0 = torch.randn(steps, batch, inputs), random_state(cell, batch, torch.float32)
    lengths = torch.randint(0, steps + 1, (batch,)) if ragged else None
    with threads(1):
        expected = gradients(cell, us, s0, lengths)
        same(gradients(cell, us, s0, lengths), expected)
    with threads(2):
        same(gradients(cell, us, s0, lengths), expected)
        same(gradients(cell, us, s0, lengths), expected)
        check_rows(cpu, cell, us[:, :5], tree_map(lambda s: s[:5], s0), None)


@rows
def test_outputs_do_not_depend_on_gradients_being_wanted(row: Row) -> None:
    cell, us, s0 = made(row)
    trained = cpu(cell, us, s0)
    with torch.no_grad():
        same(cpu(cell, us, s0), trained)
        same(cpu(cell, us, s0), trained)
