"""Laws keep what they promise; batches are functions of their number; scores count what they say."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextstate import InputError
from nextstate.tasks.sort import LAWS, Score, TrainingLists, evaluate, score
from nextstate.tasks.sort.laws import mixed, nearly_equal


@pytest.mark.parametrize("law", [*LAWS.values(), mixed, nearly_equal], ids=[*LAWS, "mixed", "nearly equal"])
@given(length=st.integers(0, 40), largest=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_every_law_keeps_shape_and_range(law, length, largest, seed):
    lists = law(np.random.default_rng(seed), 7, length, largest)
    assert lists.shape == (7, length)
    assert lists.dtype == np.int64
    assert length == 0 or (lists.min() >= 1 and lists.max() <= largest)
    assert np.array_equal(lists, law(np.random.default_rng(seed), 7, length, largest))


def draw(name, count=500, length=32, largest=32):
    return LAWS[name](np.random.default_rng(0), count, length, largest)


def distinct(lists):
    return np.array([len(set(row)) for row in lists.tolist()])


def test_laws_are_what_their_names_say():
    assert (distinct(draw("permutation")) == 32).all()
    assert (distinct(draw("permutation", length=40)) == 32).all()
    assert (np.diff(draw("sorted")) >= 0).all()
    assert (np.diff(draw("reversed")) <= 0).all()
    assert (distinct(draw("all equal")) == 1).all()
    assert (distinct(draw("one different")) == 2).all()
    counts = [sorted(np.unique(row, return_counts=True)[1].tolist()) for row in draw("one different")]
    assert all(c == [1, 31] for c in counts)
    assert (np.ptp(draw("clumped"), axis=1) < 20).all()
    for kinds in (2, 4, 8, 16):
        assert distinct(draw(f"{kinds} distinct")).max() == kinds
    shares = np.bincount(draw("zipf").ravel(), minlength=33)[1:] / 16000
    assert shares[0] / shares[3] == pytest.approx(4, rel=0.15)
    shares = np.bincount(draw("uniform").ravel(), minlength=33)[1:] / 16000
    assert abs(shares - 1 / 32).max() < 0.006


def test_the_training_law_reaches_the_hard_corners():
    lists = mixed(np.random.default_rng(0), 4000, 32, 32)
    kinds = distinct(lists)
    for few in (1, 2, 3, 4):
        assert (kinds == few).mean() > 0.03
    most = np.array([np.bincount(row).max() for row in lists])
    assert ((kinds >= 10) & (most >= 8)).mean() > 0.03  # many numbers, one of them often
    assert ((most == 31) & (kinds == 2)).mean() > 0.005
    assert np.bincount(lists.ravel(), minlength=33)[1:].min() > 0.02 * lists.size / 2


def test_batches_are_functions_of_seed_and_number():
    lists = TrainingLists(largest=32, longest=40, size=64, full=0.5, plain=0.5, seed=3)
    a, again, b = lists(5), lists(5), lists(6)
    assert all(torch.equal(x, y) for x, y in zip(a, again, strict=True))
    assert a.source.shape != b.source.shape or not torch.equal(a.source, b.source)
    other = TrainingLists(largest=32, longest=40, size=64, full=0.5, plain=0.5, seed=4)(5)
    assert not torch.equal(a.lengths, other.lengths)


def test_a_batch_holds_lists_and_their_order_within_their_length():
    lists = TrainingLists(largest=32, longest=40, size=500, full=0.25, plain=0.5)
    batch = lists(0)
    for source, target, n in zip(*(part.tolist() for part in batch), strict=True):
        assert sorted(source[:n]) == target[:n]
        assert not any(source[n:])
        assert not any(target[n:])
        assert 1 <= n <= 40
    assert 0.3 < (batch.lengths >= 35).float().mean() < 0.43  # without `full`: 0.15
    assert (batch.lengths == 1).any()
    with pytest.raises(InputError, match="largest=0"):
        TrainingLists(largest=0, longest=1, size=1)


def test_a_share_of_the_lists_comes_in_order():
    batch = TrainingLists(largest=32, longest=20, size=2000, full=0.2, ordered=0.5)(0)
    kinds = {"rising": 0, "falling": 0}
    for source, target, n in zip(*(part.tolist() for part in batch), strict=True):
        assert sorted(source[:n]) == target[:n]
        assert not any(source[n:])
        if n > 5:
            kinds["rising"] += source[:n] == target[:n]
            kinds["falling"] += source[:n] == target[:n][::-1]
    long = int((batch.lengths > 5).sum())
    assert kinds["rising"] / long == pytest.approx(0.25, abs=0.04)
    assert kinds["falling"] / long == pytest.approx(0.25, abs=0.04)


def test_scores_by_hand():
    lists = torch.tensor([[3, 1, 2], [2, 2, 1], [1, 1, 1], [5, 4, 3]])
    answers = torch.tensor([[1, 2, 3], [1, 2, 1], [1, 1, 1], [3, 4, 6]])
    assert score(lists, answers) == Score(lists=4, numbers=12, elements=10, exact=2, ordered=3)
    assert score(lists[:, :1], lists[:, :1]).ordered == 4
    with pytest.raises(InputError, match="differ in shape"):
        score(lists, answers[:, :2])


def test_evaluation_finds_the_one_law_a_sorter_fails_on():
    def forgets_repeats(lists):
        answers = lists.sort(1).values
        repeated = (answers.diff(dim=1) == 0).all(1)
        answers[repeated, -1] += 1
        return answers

    cells = list(evaluate(forgets_repeats, largest=8, lengths=[2, 5], lists=300))
    assert len(cells) == 2 * len(LAWS)
    shares = {(cell.law, cell.length): cell.score.shares() for cell in cells}
    assert shares["all equal", 5]["lists_right"] == 0
    assert shares["all equal", 5]["elements_right"] == pytest.approx(0.8)
    assert shares["permutation", 5]["lists_right"] == 1
    assert shares["all equal", 5]["never_decreasing"] == 1


def test_the_lists_of_an_entry_do_not_depend_on_the_others():
    seen = []

    def watch(lists):
        seen.append(lists.clone())
        return lists

    uniform = {"uniform": LAWS["uniform"]}
    list(evaluate(watch, largest=8, lengths=[3, 5], lists=9))
    list(evaluate(watch, largest=8, lengths=[5], lists=9, laws=uniform))
    assert torch.equal(seen[1], seen[-1])
