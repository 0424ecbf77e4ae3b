"""Learning a machine from questions: L* with the counterexamples of Rivest and Schapire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nextstate.machines.automata import DFA, Moore
from nextstate.machines.extraction.questions import Ids, Questions

Machine = DFA | Moore


def lstar(
    questions: Questions,
    counterexample: Callable[[Machine], Ids | None],
    *,
    states: int = 1000,
    rounds: int = 1000,
) -> tuple[Machine, bool, int]:
    """Learn the machine of a network: the hypothesis, whether no counterexample is left, the rounds.

    lstar : (questions, hypothesis -> counterexample) -> (machine, done, rounds)

    It ends without being done when the hypothesis has more than `states` states or after `rounds` rounds.
    Source: Angluin 1987; Rivest and Schapire 1993 (one suffix a counterexample, found by binary search).

    >>> from nextstate.machines import DFA, compile, equivalent, distinguishing_word
    >>> from nextstate.machines.extraction.observed import observe
    >>> third = DFA.table("1", {0: [1], 1: [2], 2: [0]}, accepting=[0])
    >>> def oracle(guess):
    ...     word = distinguishing_word(guess, third)
    ...     return None if word is None else tuple(0 for _ in word)
    >>> machine, done, _ = lstar(Questions(observe(compile(third))), oracle)
    >>> done, equivalent(machine, third)
    (True, True)
    """
    letters = range(len(questions.network.alphabet))
    access: list[Ids] = [()]
    suffixes: list[Ids] = [()]
    for number in range(1, rounds + 1):
        rows = _close(questions, access, suffixes, states)
        machine = _hypothesis(questions, access, rows, suffixes)
        if len(access) > states:
            return machine, False, number
        word = counterexample(machine)
        if word is None:
            return machine, True, number
        suffixes.append(_suffix(questions, access, rows, suffixes, word, letters))
    return machine, False, rounds


def _close(questions: Questions, access: list[Ids], suffixes: list[Ids], limit: int) -> dict[Any, int]:
    """Add access words until every one-letter extension has the row of one of them."""
    letters = range(len(questions.network.alphabet))
    rows: dict[Any, int] = {}
    for q, row in enumerate(_rows(questions, access, suffixes)):
        rows.setdefault(row, q)
    at = 0
    while at < len(access) and len(access) <= limit:
        fresh = [(*word, a) for word in access[at:] for a in letters]
        at = len(access)
        for word, row in zip(fresh, _rows(questions, fresh, suffixes), strict=True):
            if row not in rows:
                rows[row] = len(access)
                access.append(word)
    return rows


def _rows(questions: Questions, words: list[Ids], suffixes: list[Ids]) -> list[tuple[Any, ...]]:
    answers = questions.ask(word + suffix for word in words for suffix in suffixes)
    n = len(suffixes)
    return [tuple(answers[i * n : i * n + n]) for i in range(len(words))]


def _hypothesis(
    questions: Questions, access: list[Ids], rows: dict[Any, int], suffixes: list[Ids]
) -> Machine:
    alphabet = questions.network.alphabet
    names = tuple(range(len(access)))
    extended = [(*word, a) for word in access for a in range(len(alphabet))]
    targets = [rows.get(row, 0) for row in _rows(questions, extended, suffixes)]
    keys = [(q, symbol) for q in names for symbol in alphabet]
    table = dict(zip(keys, targets, strict=True))
    labels = questions.ask(access)
    if all(isinstance(label, bool) for label in labels):
        return DFA(alphabet, names, 0, frozenset(q for q in names if labels[q]), table)
    return Moore(alphabet, names, 0, dict(enumerate(labels)), table)


def _suffix(
    questions: Questions,
    access: list[Ids],
    rows: dict[Any, int],
    suffixes: list[Ids],
    word: Ids,
    letters: range,
) -> Ids:
    """A suffix of a counterexample that tells two words apart which the table holds for one state."""
    extended = {(*w, a): row for w, a, row in _extensions(questions, access, suffixes, letters)}
    path = [0]
    for a in word:
        path.append(rows[extended[(*access[path[-1]], a)]])

    def through(i: int) -> Any:
        """The answer after the first i letters are replaced by the access word of the state they lead to."""
        return questions.ask([access[path[i]] + word[i:]])[0]

    low, high, first = 0, len(word), through(0)
    while high - low > 1:
        middle = (low + high) // 2
        if through(middle) == first:
            low = middle
        else:
            high = middle
    return word[high:]


def _extensions(
    questions: Questions, access: list[Ids], suffixes: list[Ids], letters: range
) -> list[tuple[Ids, int, Any]]:
    pairs = [(word, a) for word in access for a in letters]
    rows = _rows(questions, [(*word, a) for word, a in pairs], suffixes)
    return [(word, a, row) for (word, a), row in zip(pairs, rows, strict=True)]
