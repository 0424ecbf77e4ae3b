"""Mean gradients along a path: closed forms, cost, and that every piece of the path counts once."""

import pytest
import torch

from nextstate.tasks.buzz import path_integral
from nextstate.tasks.buzz.path_integral import mean_gradient

START, END = [torch.zeros(3), torch.tensor([1.0])], [torch.ones(3), torch.tensor([3.0])]
WANTED = [torch.tensor([0.7, 0.1, 1.0]), torch.tensor([4.0])]


def value(xs):
    """Bent where the path has run three and nine tenths; the second part has the mean gradient 1 + 3."""
    x, y = xs
    return (x[0] - 0.3).relu() + (x[1] - 0.9).relu() + x[2] + y.square().sum()


def ends():
    return float(value(START)), float(value(END))


def test_closed_forms_and_what_is_kept():
    found = mean_gradient(value, START, END, ends(), within=1e-4)
    for one, other in zip(found, WANTED, strict=True):
        assert torch.allclose(one, other, atol=1e-3)
    kept = mean_gradient(value, START, END, ends(), within=1e-4, keep=lambda gs: [gs[0].sum()])
    assert float(kept[0]) == pytest.approx(1.8, abs=5e-4)


@pytest.mark.parametrize(("most", "within", "sums"), [(1, 0, 1), (2, 0, 1), (7, 0, 7), (31, 10, 1)])
def test_no_more_sums_than_asked_for_and_none_for_nothing(most, within, sums):
    calls = []

    def counted(xs):
        calls.append(torch.is_grad_enabled())
        return value(xs)

    mean_gradient(counted, START, END, ends(), within=within, most=most)
    assert sum(calls) == 8 * sums


def test_gradients_are_taken_where_they_are_switched_off():
    with torch.no_grad():
        found = mean_gradient(value, START, END, ends(), within=1e-4)
    assert torch.allclose(found[1], WANTED[1], atol=1e-4)


def test_a_piece_left_out_is_seen(monkeypatch):
    pushed = []
    push = path_integral.heapq.heappush
    monkeypatch.setattr(
        path_integral.heapq,
        "heappush",
        lambda heap, one: pushed.append(one) or len(pushed) == 2 or push(heap, one),
    )
    found = mean_gradient(value, START, END, ends(), within=1e-4)
    assert not torch.allclose(found[0], WANTED[0], atol=1e-2)
