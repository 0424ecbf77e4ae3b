"""Extraction: learners, certificates and statuses."""

from __future__ import annotations

import importlib.util
import random
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from nextstate import GRU, LSTM, Elman, InputError
from nextstate.machines import (
    DFA,
    Recogniser,
    compile,
    complete,
    distinguishing_word,
    extract,
    minimise,
    regex,
)
from nextstate.machines.extraction.certify import certify
from nextstate.machines.extraction.intervals import Box, as_point, image
from nextstate.machines.extraction.lstar import lstar
from nextstate.machines.extraction.observed import observe
from nextstate.machines.extraction.questions import Questions
from nextstate.machines.library import random_dfa, tomita
from nextstate.states import Tree

AALPY = importlib.util.find_spec("aalpy") is not None
LEARNERS = [
    "lstar",
    pytest.param("kv", marks=pytest.mark.skipif(not AALPY, reason="AALpy is not installed (optional)")),
]


def answers(machine: DFA) -> Any:
    return lambda words: [machine.accepts(word) for word in words]


@pytest.mark.parametrize("seed", range(8))
def test_lstar_with_a_perfect_oracle_finds_the_minimal_machine(seed: int) -> None:
    truth = minimise(random_dfa(15, 2, seed=seed))
    questions = Questions(observe(answers(truth), "ab"))  # type: ignore[arg-type]

    def oracle(guess: Any) -> tuple[int, ...] | None:
        word = distinguishing_word(guess, truth)
        return None if word is None else tuple("ab".index(a) for a in word)

    machine, done, rounds = lstar(questions, oracle)
    assert done
    assert len(machine.states) == len(truth.states)
    assert minimise(machine) == truth
    assert rounds <= len(truth.states)


@pytest.mark.parametrize("method", LEARNERS)
@pytest.mark.parametrize("number", [1, 2, 3, 4, 7])
def test_learners_on_black_boxes(method: str, number: int) -> None:
    found = extract(answers(tomita(number)), "01", method=method, epsilon=0.01, delta=0.01)
    assert found.machine == minimise(tomita(number))
    assert found.status == "pac"
    assert (found.epsilon, found.delta) == (0.01, 0.01)
    assert found.questions > 0


def test_statuses_say_what_is_known() -> None:
    truth = regex("(ab|ba)*", "ab")
    assert extract(compile(truth)).status == "proved"
    assert extract(answers(truth), "ab", epsilon=None).status == "tested"
    assert extract(answers(random_dfa(30, 2, seed=1)), "ab", states=5).status == "budget"
    assert extract(answers(truth), "ab", method="reach").status == "budget"


def test_pac_draws_as_many_words_as_it_says() -> None:
    found = extract(answers(tomita(4)), "01", epsilon=0.02, delta=0.05)
    last = int(found.evidence.split("on ")[1].split()[0])
    expected = -(-(torch.log(torch.tensor(1 / 0.05)) + found.rounds * torch.log(torch.tensor(2.0))) // 0.02)
    assert abs(last - float(expected)) <= 1


def test_a_rare_difference_is_found_near_states_or_told_as_pac() -> None:
    """A function that is no regular language: the machine found must not be called proved."""

    def balanced(words: list[tuple[str, ...]]) -> list[bool]:
        return [word.count("a") == word.count("b") for word in words]

    found = extract(balanced, "ab", states=30, epsilon=0.05, longest=20)
    assert found.status in ("budget", "pac")


def test_what_cannot_be_extracted_is_refused() -> None:
    for network, alphabet in ((3, "ab"), (len, None), (compile(tomita(1)), "ab")):
        with pytest.raises(InputError, match="extract"):
            extract(network, alphabet)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="method"):
        extract(compile(tomita(1)), method="guess")


def batch(cell: Any, n: int, seed: int) -> tuple[torch.Tensor, Tree, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    u = torch.randn(n, 3, generator=draw)
    state = cell.initial_state(n)
    if isinstance(state, tuple):
        state = type(state)(*(torch.rand(x.shape, generator=draw) * 2 - 1 for x in state))
    else:
        state = torch.rand(state.shape, generator=draw) * 2 - 1
    return u, state, as_point(state)


@pytest.mark.parametrize("make", [Elman, GRU, LSTM])
def test_images_of_boxes_hold_the_images_of_their_points(make: Any) -> None:
    torch.manual_seed(1)
    cell = make(3, 5)
    step = image(cell)
    assert step is not None
    u, state, point = batch(cell, 200, 0)
    with torch.no_grad():
        box = step(u, Box(point, point))
        after = as_point(cell(u, state)[1])
        assert bool(((box.low <= after) & (after <= box.high)).all()), "a point box misses the rounded step"
        assert float((box.high - box.low).max()) < 1e-4
        wide = step(u, Box(point - 0.1, point + 0.1))
        for seed in range(20):
            shift = torch.rand(point.shape, generator=torch.Generator().manual_seed(seed)) * 0.2 - 0.1
            moved = (point + shift).float()
            inside = type(state)(*moved.chunk(2, -1)) if isinstance(state, tuple) else moved
            after = as_point(cell(u, inside)[1])
            assert bool(((wide.low - 1e-6 <= after) & (after <= wide.high + 1e-6)).all())
        # the oracle must reject a box that is too small
        narrow = step(u, Box(point, point))
        assert not bool(((narrow.low <= after) & (after <= narrow.high)).all())


def latched(machine: DFA, gain: float, cell: str) -> Recogniser:
    """A recogniser whose states lie apart but not at the ends of tanh: a compiled net of finite gain."""
    net = compile(machine, cell=cell, activation="tanh" if cell == "elman" else None, gain=gain)
    assert net.cell is not None
    network = Recogniser(net.cell, machine.alphabet)
    with torch.no_grad():
        network.readout.weight.copy_(net.readout_weight)
        network.readout.bias.copy_(net.readout_bias - 0.5)
    return network


@pytest.mark.parametrize("cell", ["elman", "gru"])
def test_certificates_prove_finite_gains_for_all_lengths(cell: str) -> None:
    machine = complete(minimise(tomita(7)))  # type: ignore[arg-type]
    network = latched(machine, 9.0, cell)
    proof = certify(network, machine, radii=(0.02, 0.005))
    assert proof is not None
    assert proof.margin > 0
    found = extract(network, method="lstar", epsilon=0.05)
    assert found.machine == minimise(machine)


def test_certificates_are_refused_for_wrong_machines_and_weak_gains() -> None:
    machine = complete(minimise(tomita(7)))  # type: ignore[arg-type]
    network = latched(machine, 9.0, "elman")
    wrong = DFA(
        machine.alphabet,
        machine.states,
        machine.start,
        {*machine.states} - {*machine.accepting},
        machine.transitions,
    )
    assert certify(network, wrong) is None
    for state in machine.states:
        other = {*machine.accepting} ^ {state}
        assert (
            certify(network, DFA(machine.alphabet, machine.states, machine.start, other, machine.transitions))
            is None
        )
    with torch.no_grad():
        for parameter in network.cell.parameters():
            parameter.mul_(0.3)
    assert certify(network, machine) is None


def test_recogniser_scores_ragged_words_as_single_ones() -> None:
    torch.manual_seed(0)
    network = Recogniser(LSTM(2, 6), "ab")
    draw = random.Random(0)
    words = ["".join(draw.choice("ab") for _ in range(n)) for n in (0, 5, 3, 1)]
    ids = torch.zeros(5, 4, dtype=torch.int64)
    for row, word in enumerate(words):
        ids[: len(word), row] = torch.tensor([int(a == "b") for a in word], dtype=torch.int64)
    together = network(ids, torch.tensor([len(w) for w in words]))
    alone = [network(ids[: len(w), i : i + 1], torch.tensor([len(w)])) for i, w in enumerate(words)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert F.binary_cross_entropy_with_logits(together, torch.ones(4)).isfinite()
