"""The sorter that comes with the package: small, described, and as right as its card says."""

import pytest
import torch

from nextstate.recipes.sorter import SHIPPED, load_sorter
from nextstate.tasks.sort import LAWS, Score, evaluate

CARD = SHIPPED.with_suffix(".md").read_text()


def stated():
    """Share of whole lists right by law, as the card has it."""
    rows = [line.strip("| ").split(" | ") for line in CARD.splitlines() if line.startswith("| ")]
    return {row[0]: float(row[3]) / 100 for row in rows[1:]}


@pytest.fixture(scope="module")
def shipped():
    return load_sorter()


def test_it_is_small_and_its_card_names_every_law():
    assert SHIPPED.stat().st_size <= 1_000_000
    assert set(stated()) == set(LAWS)


def test_uniform_lists_of_32_come_out_in_order(shipped):
    lists = torch.randint(1, 33, (2000, 32), generator=torch.Generator().manual_seed(7))
    right = (shipped(lists) == lists.sort(1).values).all(1)
    assert right.float().mean() >= 0.999


@pytest.mark.parametrize("law", LAWS)
def test_the_card_is_true(shipped, law):
    """Measured anew on other lists: within four standard errors of the share stated, or above it."""
    lengths = range(shipped.range.shortest, shipped.range.longest + 1)
    only = {law: LAWS[law]}
    entries = evaluate(shipped, largest=shipped.range.largest, lengths=lengths, lists=25, laws=only, seed=11)
    total = sum((entry.score for entry in entries), Score())
    share = stated()[law]
    error = (max(share * (1 - share), 1e-3) / total.lists) ** 0.5
    assert total.shares()["lists_right"] >= share - 4 * error
