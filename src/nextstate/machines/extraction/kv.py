"""Kearns and Vazirani's learner from AALpy, asking our questions. AALpy is optional."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nextstate.checks import refuse
from nextstate.machines.automata import DFA
from nextstate.machines.extraction.observed import Observed
from nextstate.machines.extraction.questions import Ids, Questions


def kearns_vazirani(
    network: Observed, counterexample: Callable[[DFA], Ids | None], rounds: int
) -> tuple[DFA, bool, int, int]:
    """The machine learned, whether no counterexample is left, the rounds and the questions asked.

    Raises InputError if AALpy is not installed or the network does not accept or refuse.
    Source: Kearns and Vazirani 1994; AALpy: Muskardin et al. 2022.
    """
    try:
        from aalpy.base import SUL, Oracle
        from aalpy.learning_algs import run_KV
    except ImportError:
        refuse("extract", "method='kv' needs AALpy: pip install aalpy; method='lstar' needs nothing")
    questions = Questions(network)
    letters = list(range(len(network.alphabet)))
    last: dict[str, Any] = {"done": False}

    class Asked(SUL):
        """The network as AALpy's system under learning."""

        def pre(self) -> None:
            self.word: Ids = ()

        def post(self) -> None:
            pass

        def step(self, letter: int | None) -> bool:
            if letter is not None:
                self.word = (*self.word, letter)
            (label,) = questions.ask([self.word])
            if not isinstance(label, bool):
                refuse("extract", f"method='kv' learns acceptors; the network shows {label!r}")
            return label

    class Checked(Oracle):
        """Our search for counterexamples as AALpy's equivalence oracle."""

        def find_cex(self, hypothesis: Any) -> list[int] | None:
            last["machine"] = _dfa(hypothesis, network.alphabet)
            word = counterexample(last["machine"])
            last["done"] = word is None
            return None if word is None else list(word)

    system = Asked()
    _, data = run_KV(
        letters,
        system,
        Checked(letters, system),
        automaton_type="dfa",
        max_learning_rounds=rounds,
        print_level=0,
        return_data=True,
    )
    return last["machine"], last["done"], int(data["learning_rounds"]), questions.count


def _dfa(hypothesis: Any, alphabet: tuple[Any, ...]) -> DFA:
    number = {state.state_id: i for i, state in enumerate(hypothesis.states)}
    table = {
        (number[state.state_id], alphabet[a]): number[target.state_id]
        for state in hypothesis.states
        for a, target in state.transitions.items()
    }
    accepting = {number[state.state_id] for state in hypothesis.states if state.is_accepting}
    start = number[hypothesis.initial_state.state_id]
    return DFA(alphabet, tuple(number.values()), start, accepting, table)
