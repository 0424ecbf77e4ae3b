"""Algebra of finite automata: complete, reachable part, minimise, product, equivalence with a witness."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from nextstate.checks import refuse
from nextstate.machines.automata import DFA, Automaton, Mealy, Moore
from nextstate.machines.words import STUCK, State, Word


def complete(machine: DFA) -> DFA:
    """The same language with a transition for every pair: the missing ones lead to a new dead state.

    >>> a_star_b_star = DFA.table("ab", {0: [0, 1], 1: [None, 1]}, accepting=[0, 1])
    >>> len(complete(a_star_b_star).states)
    3
    """
    _is("complete", machine, DFA)
    if len(machine.transitions) == len(machine.states) * len(machine.alphabet):
        return machine
    dead = "dead"
    while dead in machine.states:
        dead += "'"
    states = (*machine.states, dead)
    table = {(q, a): machine.transitions.get((q, a), dead) for q in states for a in machine.alphabet}
    return DFA(machine.alphabet, states, machine.start, machine.accepting, table)


def reachable(machine: Automaton) -> list[State]:
    """The states some word leads to, in breadth-first order of shortest words (STUCK never listed).

    >>> reachable(DFA.table("a", {0: [1], 1: [1], 2: [0]}, accepting=[1]))
    [0, 1]
    """
    _is("reachable", machine, DFA, Moore, Mealy)
    seen, queue = {machine.start: None}, deque([machine.start])
    while queue:
        state = queue.popleft()
        for letter in machine.alphabet:
            target = machine.step(state, letter)
            if target is not STUCK and target not in seen:
                seen[target] = None
                queue.append(target)
    return list(seen)


def minimise(machine: DFA | Moore) -> DFA | Moore:
    """The smallest complete machine with the same behaviour, states 0..n-1 in breadth-first order.

    Two machines have the same behaviour if and only if their minimal machines are equal.
    Source: Moore's partition refinement, 1956 (n rounds at most).

    >>> twice = DFA.table("1", {0: [1], 1: [2], 2: [3], 3: [0]}, accepting=[0, 2])
    >>> minimise(twice) == DFA.table("1", {0: [1], 1: [0]}, accepting=[0])
    True
    """
    _is("minimise", machine, DFA, Moore)
    states: list[State] = reachable(machine)
    if any(machine.step(q, a) is STUCK for q in states for a in machine.alphabet):
        states.append(STUCK)
    block = _numbered({q: machine.label(q) for q in states})
    while True:
        finer = _numbered(
            {q: (block[q], *(block[_step(machine, q, a)] for a in machine.alphabet)) for q in states}
        )
        if len(set(finer.values())) == len(set(block.values())):
            break
        block = finer
    order: dict[int, int] = {}
    member = {}
    queue = deque([machine.start])
    while queue:
        state = queue.popleft()
        if block[state] in order:
            continue
        member[block[state]] = state
        order[block[state]] = len(order)
        queue.extend(_step(machine, state, a) for a in machine.alphabet)
    names = tuple(range(len(order)))
    table = {
        (order[b], a): order[block[_step(machine, q, a)]] for b, q in member.items() for a in machine.alphabet
    }
    if isinstance(machine, DFA):
        accepting = frozenset(order[b] for b, q in member.items() if machine.label(q))
        return DFA(machine.alphabet, names, 0, accepting, table)
    outputs = {order[b]: machine.label(q) for b, q in member.items()}
    return Moore(machine.alphabet, names, 0, outputs, table)


def product(left: DFA, right: DFA, keep: Callable[[bool, bool], bool]) -> DFA:
    """The machine that runs both and accepts where `keep(left accepts, right accepts)`.

    `bool.__and__` gives the intersection, `bool.__or__` the union, `bool.__xor__` the difference.

    >>> even = DFA.table("1", {0: [1], 1: [0]}, accepting=[0])
    >>> third = DFA.table("1", {0: [1], 1: [2], 2: [0]}, accepting=[0])
    >>> [n for n in range(13) if product(even, third, bool.__and__).accepts("1" * n)]
    [0, 6, 12]
    """
    _is("product", left, DFA)
    _is("product", right, DFA)
    _same_alphabet("product", left, right)
    left, right = complete(left), complete(right)
    start = (left.start, right.start)
    table: dict[Any, Any] = {}
    seen, queue = {start: None}, deque([start])
    while queue:
        pair = queue.popleft()
        for a in left.alphabet:
            target = (left.step(pair[0], a), right.step(pair[1], a))
            table[pair, a] = target
            if target not in seen:
                seen[target] = None
                queue.append(target)
    accepting = frozenset(p for p in seen if keep(left.label(p[0]), right.label(p[1])))
    return DFA(left.alphabet, tuple(seen), start, accepting, table)


def complement(machine: DFA) -> DFA:
    """The machine that accepts exactly the words this one refuses.

    >>> complement(DFA.table("a", {0: [None]}, accepting=[0])).accepts("a")
    True
    """
    _is("complement", machine, DFA)
    whole = complete(machine)
    refused = frozenset(whole.states) - frozenset(whole.accepting)
    return DFA(whole.alphabet, whole.states, whole.start, refused, whole.transitions)


def distinguishing_word(left: Automaton, right: Automaton) -> tuple[Any, ...] | None:
    """A shortest word on which two machines differ, None if there is none: the proof of equivalence.

    Acceptors and Moore machines differ in what they show after the word, Mealy machines in the output at
    its last letter. The search visits each reachable pair of states once (breadth first), so it ends.

    >>> odd = DFA.table("01", {0: [0, 1], 1: [1, 0]}, accepting=[1])
    >>> last = DFA.table("01", {0: [0, 1], 1: [0, 1]}, accepting=[1])
    >>> distinguishing_word(odd, last), distinguishing_word(odd, odd)
    (('1', '0'), None)
    """
    _is("distinguishing_word", left, DFA, Moore, Mealy)
    _is("distinguishing_word", right, DFA, Moore, Mealy)
    _same_alphabet("distinguishing_word", left, right)
    if isinstance(left, Mealy) != isinstance(right, Mealy):
        refuse("distinguishing_word", "a Mealy machine has outputs on letters, the other one in states")
    start = (left.start, right.start)
    seen: set[Any] = {start}
    queue: deque[tuple[Any, tuple[Any, ...]]] = deque([(start, ())])
    while queue:
        (p, q), word = queue.popleft()
        if not isinstance(left, Mealy) and left.label(p) != right.label(q):  # type: ignore[union-attr]
            return word
        for a in left.alphabet:
            if isinstance(left, Mealy) and _written(left, p, a) != _written(right, q, a):
                return (*word, a)
            pair = (_step(left, p, a), _step(right, q, a))
            if pair not in seen:
                seen.add(pair)
                queue.append((pair, (*word, a)))
    return None


def equivalent(left: Automaton, right: Automaton) -> bool:
    """Whether two machines show the same on every word; `distinguishing_word` gives the witness.

    >>> one = DFA.table("a", {0: [0]}, accepting=[0])
    >>> equivalent(one, DFA.table("a", {0: [1], 1: [0]}, accepting=[0, 1]))
    True
    """
    return distinguishing_word(left, right) is None


def accepted_count(machine: DFA, length: int) -> int:
    """How many words of at most this length a machine accepts.

    >>> accepted_count(DFA.table("01", {0: [0, 1], 1: [1, 0]}, accepting=[0]), 3)
    8
    """
    _is("accepted_count", machine, DFA)
    ways: dict[State, int] = {machine.start: 1}
    total = 0
    for n in range(length + 1):
        total += sum(count for state, count in ways.items() if machine.label(state))
        if n == length:
            break
        following: dict[State, int] = {}
        for state, count in ways.items():
            for a in machine.alphabet:
                target = machine.step(state, a)
                if target is not STUCK:
                    following[target] = following.get(target, 0) + count
        ways = following
    return total


def _step(machine: Any, state: State, letter: Any) -> State:
    return STUCK if state is STUCK else machine.step(state, letter)


def _written(machine: Any, state: State, letter: Any) -> Any:
    return machine.transitions.get((state, letter), (STUCK, None))[1]


def _numbered(labels: dict[State, Any]) -> dict[State, int]:
    numbers: dict[Any, int] = {}
    return {q: numbers.setdefault(label, len(numbers)) for q, label in labels.items()}


def _is(operation: str, machine: Any, *kinds: type) -> None:
    if not isinstance(machine, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        refuse(operation, f"the machine is a {type(machine).__name__}; expected a {expected}")


def _same_alphabet(operation: str, left: Any, right: Any) -> None:
    if set(left.alphabet) != set(right.alphabet):
        refuse(operation, f"the alphabets differ: {list(left.alphabet)} and {list(right.alphabet)}")


def word_text(word: Word) -> str:
    """A word for people: letters joined, the empty word as ε.

    >>> word_text(("a", "b")), word_text(())
    ('ab', 'ε')
    """
    letters = [str(a) for a in word]
    if not letters:
        return "ε"
    return ("" if all(len(a) == 1 for a in letters) else " ").join(letters)
