"""extract: the machine inside a network, and how much is known of the likeness."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nextstate.checks import refuse
from nextstate.machines.algebra import minimise
from nextstate.machines.automata import DFA, Moore
from nextstate.machines.compiling.compiled import Compiled
from nextstate.machines.extraction.certify import Certificate, certify
from nextstate.machines.extraction.lstar import lstar
from nextstate.machines.extraction.observed import Observed, Recogniser, observe
from nextstate.machines.extraction.questions import Ids, Questions, compare, near_states, random_words
from nextstate.machines.extraction.reach import reach


@dataclass(frozen=True)
class Extraction:
    """A machine and what is known of its likeness to the network it was found in.

    `status`
        "proved"   they agree on every word of every length
        "pac"      with confidence 1 - `delta` they differ on at most a share `epsilon` of the random words
        "tested"   they agreed on the `tested` words; no statement beyond them was asked for
        "budget"   the search was cut off: the machine is the last hypothesis, known to be wrong or unfinished
    `evidence` says in words what was done. `counterexamples` are the words that corrected a hypothesis.
    """

    machine: DFA | Moore
    status: str
    evidence: str
    counterexamples: tuple[tuple[Any, ...], ...] = ()
    questions: int = 0
    tested: int = 0
    rounds: int = 0
    epsilon: float | None = None
    delta: float | None = None
    certificate: Certificate | None = None


def extract(
    network: Recogniser | Compiled | Observed | Callable[[list[tuple[Any, ...]]], Sequence[Any]],
    alphabet: Sequence[Any] | None = None,
    *,
    method: str = "auto",
    epsilon: float | None = 0.001,
    delta: float = 0.001,
    longest: int = 40,
    near: int = 100,
    states: int = 500,
    rounds: int = 100,
    boxes: int = 2000,
    seed: int = 0,
) -> Extraction:
    """The finite machine inside a network.

    extract : (network, alphabet) -> (machine, status, evidence)

    `network` is a `Recogniser` (a cell with a linear score), a compiled machine, or any function from a list
    of words to the labels of them, which needs the `alphabet`.
    `method`
        "reach"   all reachable states, told apart by their bits: a proof, if they are finitely many
        "lstar"   learned from questions and random words, then tried to be proved with boxes of states
        "kv"      as "lstar", with the learner of Kearns and Vazirani from AALpy (pip install aalpy)
        "auto"    reach for a compiled network; else a short reach, then lstar
    Hypotheses are checked on `near` random words from every transition, and on random words of length up to
    `longest`: (ln 1/delta + r ln 2) / epsilon of them in round r, or 1000 where epsilon is None.
    A proof may take up to `boxes` boxes (its time grows with their square).
    The machine returned is minimal. Never take it for the network where the status is not "proved".

    Raises InputError for an unknown method or one whose library is missing, and for numbers out of range.
    Source: Angluin 1987; Rivest and Schapire 1993; Weiss, Goldberg and Yahav 2018.

    >>> from nextstate.machines import compile, regex, equivalent
    >>> truth = regex("(ab)*", "ab")
    >>> found = extract(compile(truth, cell="lstm"))
    >>> found.status, equivalent(found.machine, truth)
    ('proved', True)
    >>> extract(lambda words: [word.count("a") % 3 == 0 for word in words], "ab").machine.states
    (0, 1, 2)
    """
    methods = ("auto", "reach", "lstar", "kv")
    if method not in methods:
        refuse("extract", f"method={method!r}; there are {methods}")
    _check(epsilon, delta, longest=longest, near=near, states=states, rounds=rounds, boxes=boxes)
    seen = observe(network, alphabet)
    if method in ("auto", "reach"):
        limit = 20_000 if method == "reach" or isinstance(network, Compiled) else 200
        exact = reach(seen, limit=limit)
        if exact is not None:
            told = f"all {len(exact.states)} reachable states found, told apart by their bits"
            return Extraction(minimise(exact), "proved", told)
        if method == "reach":
            machine, _, _ = lstar(Questions(seen), lambda _: None, rounds=1)
            return Extraction(machine, "budget", f"more than {limit} reachable states")
    oracle = _Oracle(seen, epsilon, delta, longest, near, seed)
    if method == "kv":
        from nextstate.machines.extraction.kv import kearns_vazirani

        machine, done, used, asked = kearns_vazirani(seen, oracle, rounds)
    else:
        questions = Questions(seen)
        machine, done, used = lstar(questions, oracle, states=states, rounds=rounds)
        asked = questions.count
    found = minimise(machine)
    proof = None
    if done and isinstance(network, Recogniser) and isinstance(found, DFA):
        proof = certify(network, found, limit=boxes)
    if proof is not None:
        status, told = "proved", f"{proof.boxes} boxes of states closed under every letter"
    elif not done:
        status, told = "budget", f"stopped at {len(machine.states)} states after {used} rounds"
    elif epsilon is None:
        status, told = "tested", f"no difference on the last {oracle.last} words"
    else:
        status = "pac"
        told = f"no difference on {oracle.last} words drawn in round {used}, lengths 0..{longest} uniform"
    return Extraction(
        found,
        status,
        told,
        tuple(tuple(seen.alphabet[a] for a in word) for word in oracle.found),
        asked,
        oracle.tested,
        used,
        epsilon if status == "pac" else None,
        delta if status == "pac" else None,
        proof,
    )


def _check(epsilon: float | None, delta: float, **counts: int) -> None:
    """Refuse numbers that no search can be run with."""
    faults = [
        f"{name}={share!r}; expected more than 0 and at most 1"
        for name, share in (("epsilon", epsilon), ("delta", delta))
        if share is not None and not 0 < share <= 1
    ]
    least = {"near": 1, "states": 1, "rounds": 1}
    faults += [
        f"{name}={count!r}; expected a whole number >= {least.get(name, 0)}"
        for name, count in counts.items()
        if not isinstance(count, int) or count < least.get(name, 0)
    ]
    if faults:
        refuse("extract", "; ".join(faults))


class _Oracle:
    """Looks for a word on which network and hypothesis differ."""

    def __init__(
        self, network: Observed, epsilon: float | None, delta: float, longest: int, near: int, seed: int
    ) -> None:
        self.network, self.epsilon, self.delta = network, epsilon, delta
        self.longest, self.near, self.draw = longest, near, random.Random(seed)
        self.found: list[Ids] = []
        self.tested = self.last = self.round = 0

    def __call__(self, machine: DFA | Moore) -> Ids | None:
        self.round += 1
        each = max(1, min(self.near, 20_000 // (len(machine.states) * len(machine.alphabet))))
        word = self._compare(machine, near_states(machine, each, 6, self.draw))
        if word is None:
            self.last = 1000
            if self.epsilon is not None:
                self.last = math.ceil((math.log(1 / self.delta) + self.round * math.log(2)) / self.epsilon)
            word = self._compare(
                machine, random_words(len(machine.alphabet), self.last, self.longest, self.draw)
            )
        if word is not None:
            self.found.append(word)
        return word

    def _compare(self, machine: DFA | Moore, words: list[Ids]) -> Ids | None:
        for at in range(0, len(words), 2000):
            chunk = words[at : at + 2000]
            walk = compare(self.network, machine, chunk)
            self.tested += len(chunk)
            if walk is not None:
                return walk
        return None
