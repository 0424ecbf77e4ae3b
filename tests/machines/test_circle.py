"""The circle: taught until an acceptance test is passed, found again, and proved when compiled."""

from __future__ import annotations

import torch

from nextstate.machines import DFA, Recogniser, complete, equivalent, extract
from nextstate.machines.circle import _examined, circle, teach
from nextstate.machines.library import dyck, tomita


def test_the_circle_closes_on_a_trained_network() -> None:
    done = circle(tomita(4), seed=0)
    assert done.taught
    assert done.closed
    assert done.found.status in ("pac", "proved")
    assert done.lessons[-1].right == 1
    assert equivalent(done.proof.machine, tomita(4))


def test_brackets_are_taught_until_the_machine_comes_back() -> None:
    """With this seed the network is right on every held-out word long before it is a bracket machine."""
    done = circle(dyck(3), seed=1)
    assert [lesson.passed for lesson in done.lessons] == [False] * (len(done.lessons) - 1) + [True]
    assert sum(lesson.right == 1 for lesson in done.lessons) >= 2
    assert done.closed


def test_an_untrained_network_does_not_close_it() -> None:
    *_, (lesson, network) = teach(tomita(4), steps=50, rate=1e-6)
    assert lesson.right < 1
    assert not lesson.passed
    found = extract(network, method="lstar", epsilon=0.05)
    assert not equivalent(found.machine, tomita(4))


def taught(machine: DFA) -> Recogniser:
    *_, (lesson, network) = teach(machine, seed=0)
    assert lesson.passed
    return network


def test_the_acceptance_test_sees_a_fault_far_from_the_start() -> None:
    """A network for 1*, examined as one for 1* up to 20 letters: the lapse is a word answered wrongly."""
    network = taught(complete(tomita(1)))
    table = {n: [21, min(n + 1, 21)] for n in range(22)}
    short = DFA.table("01", table, accepting=range(21))
    tests = torch.Generator().manual_seed(0)
    assert _examined(network, complete(tomita(1)), 48, tests) == (True, [])
    passed, lapses = _examined(network, short, 48, tests)
    assert not passed
    assert lapses
    for word in lapses:
        spelled = "".join(map(str, word))
        assert network.accepts(spelled) != short.accepts(spelled)
