"""Finite machines: interpreters, algebra, regular expressions, refusals."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from nextstate import InputError
from nextstate.machines import (
    DFA,
    STUCK,
    Mealy,
    Moore,
    accepted_count,
    complement,
    complete,
    distinguishing_word,
    equivalent,
    minimise,
    product,
    reachable,
    regex,
)
from nextstate.machines.library import (
    binary_addition,
    dyck,
    equal_blocks,
    marked_palindromes,
    modular,
    random_dfa,
    tomita,
)


def words(alphabet: str, longest: int) -> list[str]:
    return ["".join(w) for n in range(longest + 1) for w in itertools.product(alphabet, repeat=n)]


def test_tomita_languages_have_the_known_sizes_and_counts() -> None:
    assert [len(tomita(n).states) for n in range(1, 8)] == [2, 3, 5, 4, 4, 3, 5]
    counts = [accepted_count(tomita(n), 13) for n in range(1, 8)]
    assert counts == [14, 7, 3271, 6871, 2731, 5461, 1470]


TOMITA = {
    1: lambda w: "0" not in w,
    2: lambda w: w == "10" * (len(w) // 2),
    4: lambda w: "000" not in w,
    5: lambda w: w.count("0") % 2 == 0 == w.count("1") % 2,
    6: lambda w: (w.count("0") - w.count("1")) % 3 == 0,
    7: lambda w: re.fullmatch("0*1*0*1*", w) is not None,
}


@pytest.mark.parametrize("number", TOMITA)
def test_tomita_machines_against_the_definitions(number: int) -> None:
    assert all(tomita(number).accepts(w) == TOMITA[number](w) for w in words("01", 11))


def test_tomita_3_against_runs() -> None:
    def bad(word: str) -> bool:
        runs = [(sign, len(list(group))) for sign, group in itertools.groupby(word)]
        odd_ones = [i for i, (sign, n) in enumerate(runs) if sign == "1" and n % 2]
        return any(sign == "0" and n % 2 and odd_ones and odd_ones[0] < i for i, (sign, n) in enumerate(runs))

    assert all(tomita(3).accepts(w) != bad(w) for w in words("01", 11))


@pytest.mark.parametrize(
    "pattern", ["", "a", "(a|b)*abb", "a*b*", "(ab?)+", "[ab]c|.", "[^a]+", "(a(b|c))*|c+", "a??", r"(|a)b"]
)
def test_regex_against_the_standard_library(pattern: str) -> None:
    machine = regex(pattern, "abc")
    plain = pattern.replace("??", "?")
    assert all(machine.accepts(w) == (re.fullmatch(plain, w) is not None) for w in words("abc", 6))


@pytest.mark.parametrize("pattern", ["(", "a)", "*a", "[a", "d", "a|*"])
def test_regex_refuses_at_the_place(pattern: str) -> None:
    with pytest.raises(InputError, match="at position"):
        regex(pattern, "abc")


def test_minimise_keeps_the_language_and_is_canonical() -> None:
    for seed in range(30):
        machine = random_dfa(12, 2, missing=0.2 * (seed % 2), seed=seed)
        small = minimise(machine)
        assert equivalent(small, machine)
        assert len(small.states) <= len(reachable(machine)) + 1
        assert minimise(complement(complement(machine))) == small
        assert all(
            distinguishing_word(
                small, DFA(small.alphabet, small.states, q, small.accepting, small.transitions)
            )
            is not None
            for q in small.states[1:]
        ), "two states of a minimal machine show the same"


def test_distinguishing_word_is_a_shortest_one() -> None:
    for seed in range(20):
        left, right = random_dfa(5, 2, seed=seed), random_dfa(5, 2, seed=seed + 100)
        word = distinguishing_word(left, right)
        shorter = next((w for w in words("ab", 7) if left.accepts(w) != right.accepts(w)), None)
        assert (None if word is None else len(word)) == (None if shorter is None else len(shorter))


def test_product_and_complement() -> None:
    even, third = modular(2), modular(3)
    both = product(even, third, bool.__and__)
    either = product(even, third, bool.__or__)
    assert equivalent(both, modular(6))
    assert equivalent(complement(either), product(complement(even), complement(third), bool.__and__))


def test_partial_machines_get_stuck_and_stay_so() -> None:
    machine = DFA.table("ab", {0: [0, 1], 1: [None, 1]}, accepting=[0, 1])
    assert machine.trace("abab") == [0, 0, 1, STUCK, STUCK]
    assert not machine.accepts("aba")
    assert equivalent(machine, complete(machine))
    assert all(machine.accepts(w) == complete(machine).accepts(w) for w in words("ab", 6))


def test_moore_and_mealy() -> None:
    adder, draw = binary_addition(), random.Random(0)
    for _ in range(50):
        a, b = draw.randrange(2**40), draw.randrange(2**40)
        pairs = [f"{a >> i & 1}{b >> i & 1}" for i in range(42)]
        assert sum(int(d) << i for i, d in enumerate(adder.outputs_of(pairs))) == a + b
    parity = Moore.table("01", {0: [0, 1], 1: [1, 0]}, outputs={0: "even", 1: "odd"})
    assert parity.outputs_of("110") == ["even", "odd", "even", "even"]
    other = Mealy("01", (0, 1), 0, {(q, a): (q, "x") for q in (0, 1) for a in "01"})
    changed = Mealy("01", (0, 1), 0, {**other.transitions, (0, "1"): (1, "x"), (1, "0"): (1, "y")})
    assert distinguishing_word(other, changed) == ("1", "0")


def test_counters_brackets_and_palindromes() -> None:
    blocks = equal_blocks()
    assert all(
        blocks.accepts(w) == (w == "a" * n + "b" * n + "c" * n)
        for w in words("abc", 8)
        for n in [len(w) // 3]
    )
    depth3 = dyck(3)
    for w in words("()", 10):
        heights = list(itertools.accumulate((1 if a == "(" else -1 for a in w), initial=0))
        assert depth3.accepts(w) == (min(heights) >= 0 and max(heights) <= 3 and heights[-1] == 0)
    mirror = marked_palindromes()
    assert all(
        mirror.accepts(w) == (w.count("#") == 1 and w == w[::-1])
        for w in words("ab#", 6)
        if w.find("#") in (-1, len(w) // 2)
    )


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InputError) as error:
        DFA("aa", (0, 0), 5, {7}, {(0, "b"): 9, (3, "a"): 0})
    text = str(error.value)
    assert "faults" in text
    for part in ("letter 'a'", "state 0", "state 5", "state 7", "'b'", "state 9", "state 3"):
        assert part in text, part


def test_words_outside_the_alphabet_are_refused() -> None:
    with pytest.raises(InputError, match="'2'"):
        tomita(1).accepts("12")


def test_machines_are_frozen_and_can_be_hashed() -> None:
    machine = tomita(4)
    assert hash(machine) == hash(tomita(4))
    with pytest.raises(AttributeError):
        machine.start = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        machine.transitions[0, "0"] = 1  # type: ignore[index]
