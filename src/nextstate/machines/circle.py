"""The circle: a machine taught to a network, found again inside it, and compiled back into weights."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nextstate.cell import Cell
from nextstate.cells import GRU
from nextstate.machines.algebra import complete, distinguishing_word, minimise
from nextstate.machines.automata import DFA
from nextstate.machines.compiling.compiled import Compiled
from nextstate.machines.compiling.compiler import compile
from nextstate.machines.extraction.extract import Extraction, extract
from nextstate.machines.extraction.observed import Recogniser
from nextstate.machines.extraction.questions import compare, near_states
from nextstate.run import scan


@dataclass(frozen=True)
class Lesson:
    """A moment of the training: the loss of the batch, the share of held-out prefixes answered right.

    `passed`: the acceptance test has been passed as often as is asked for, and the training ends here.
    """

    step: int
    loss: float
    right: float
    seconds: float
    passed: bool = False


@dataclass(frozen=True)
class Circle:
    """What became of a machine on its way round.

    `taught` says whether the training ended with its acceptance test passed (see `teach`), and not because
    steps or seconds ran out. `found` is the machine extracted from `trained`; `again` is that machine
    compiled; `proof` the machine extracted from `again`, whose status is "proved".
    `difference` is a shortest word on which truth and found machine differ, None if they are equal.
    """

    truth: DFA
    lessons: tuple[Lesson, ...]
    trained: Recogniser
    found: Extraction
    again: Compiled
    proof: Extraction
    difference: tuple[object, ...] | None

    @property
    def taught(self) -> bool:
        """Whether the acceptance test of the training was passed."""
        return self.lessons[-1].passed

    @property
    def closed(self) -> bool:
        """Whether the machine came back equal, and the compiled network is proved to be it."""
        return (
            self.difference is None
            and self.proof.status == "proved"
            and distinguishing_word(self.proof.machine, self.truth) is None
        )


def teach(
    machine: DFA,
    *,
    cell: Callable[[int, int], Cell] = GRU,
    hidden: int = 32,
    length: int = 48,
    batch: int = 64,
    steps: int = 3000,
    rate: float = 1e-2,
    seconds: float = 600.0,
    seed: int = 0,
) -> Iterator[tuple[Lesson, Recogniser]]:
    """Train a network on random words, the machine's answer asked after every letter; yields its progress.

    A third of the words have free letters, each word with frequencies of its own. The others are led: they
    take letters after which the machine could still accept, and now and then go on as if it were in some
    other state. So they are words of the language with a few faults in them; in a language such as that of
    brackets free words are lost at once, and teach nothing about faults in good ones. Words grow from 6
    letters to `length` over the first steps, and the rate halves every 800. The cell must hand out its state
    as its output, as GRU and LSTM do.

    Acceptance test: all prefixes of held-out words of the full length are answered right; so are all of
    2000 fresh ones, and of fresh words that take every letter out of every state of the machine, 200 of each
    with up to 12 random letters after it; and the machine that L* learns from the network is the one taught.
    A word answered wrongly there is repeated in the batches from then on. The training ends when the test is
    passed twice in a row, 50 steps apart; or without it after `steps` or `seconds`, and then the last lesson
    has not `passed`.
    """
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    network = Recogniser(cell(len(machine.alphabet), hidden), machine.alphabet)
    torch.random.set_rng_state(torch_state)
    draw, tests = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.5 ** (1 / 800))
    held = _words(machine, length, 500, draw)
    answers = _answers(machine, held)
    began, perfect = time.monotonic(), 0
    lapses: list[tuple[int, ...]] = []
    for step in range(1, steps + 1):
        short = min(length, 6 + step // 10)
        ids = _words(machine, short, batch, draw)
        if lapses:
            ids = torch.cat([ids, _repeated(lapses, short, machine, draw)], 1)
        loss = F.binary_cross_entropy_with_logits(_scores(network, ids), _answers(machine, ids).float())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        decay.step()
        late = time.monotonic() - began > seconds
        if step % 50 == 0 or late:
            with torch.no_grad():
                right = float(((_scores(network, held) > 0) == answers).double().mean())
            done, wrong = _examined(network, machine, length, tests) if right == 1 else (False, [])
            lapses += wrong
            perfect = perfect + 1 if done else 0
            passed = perfect == 2
            yield Lesson(step, loss.item(), right, time.monotonic() - began, passed), network
            if passed or late:
                return


def circle(machine: DFA, *, seed: int = 0, seconds: float = 600.0) -> Circle:
    """Teach a machine to a GRU, extract it, compare with the truth, compile it and prove it equal.

    circle : machine -> (network, machine found, network compiled, proof)
    """
    truth = complete(machine)
    *_, (_, network) = taught = list(teach(truth, seed=seed, seconds=seconds))
    lessons = tuple(lesson for lesson, _ in taught)
    found = extract(network, method="lstar", states=50 + 4 * len(truth.states), seed=seed)
    difference = distinguishing_word(found.machine, truth)
    assert isinstance(found.machine, DFA)
    again = compile(found.machine)
    return Circle(minimise(truth), lessons, network, found, again, extract(again), difference)  # type: ignore[arg-type]


def _scores(network: Recogniser, ids: Tensor) -> Tensor:
    """The scores [T + 1, B] before, between and after the letters."""
    vs, _ = scan(network.cell, network.spelled(ids))
    start = network.score(network.cell.initial_state(ids.shape[1], dtype=vs.dtype))
    return torch.cat([start[None], network.score(vs)])


def _words(machine: DFA, length: int, count: int, draw: torch.Generator) -> Tensor:
    """Letters [length, count] of random words: a third free, the others led along words of the language."""
    table, accepting = _table(machine)
    live = accepting
    for _ in machine.states:
        live = live | live[table].any(1)
    keeps = live[table] + ~live[table].any(1, keepdim=True)
    free = torch.arange(count)[:, None] % 3 == 0
    likings = torch.empty(count, len(machine.alphabet)).exponential_(generator=draw)
    jumps = torch.rand(length, count, generator=draw) < 2 / length * torch.rand(count, generator=draw)
    targets = torch.randint(len(machine.states), (length, count), generator=draw)
    led, letters = torch.full((count,), machine.states.index(machine.start)), []
    for jump, target in zip(jumps, targets, strict=True):
        led = torch.where(jump, target, led)
        letters.append(torch.multinomial(likings * (keeps[led] + free), 1, generator=draw).squeeze(1))
        led = table[led, letters[-1]]
    return torch.stack(letters)


def _examined(
    network: Recogniser, machine: DFA, length: int, draw: torch.Generator
) -> tuple[bool, list[tuple[int, ...]]]:
    """The acceptance test that `teach` describes: whether it is passed, and words answered wrongly in it."""
    seed = int(torch.randint(2**31, (), generator=draw))
    led = [tuple(word) for word in _words(machine, length, 2000, draw).T.tolist()]
    for words in (near_states(machine, 200, 12, random.Random(seed)), led):
        wrong = compare(network, machine, words)
        if wrong is not None:
            return False, [wrong]
    found = extract(network, method="lstar", states=len(machine.states), boxes=0, seed=seed)
    difference = distinguishing_word(found.machine, machine)
    doubtful = [*found.counterexamples, *([] if difference is None else [difference])]
    number = {letter: i for i, letter in enumerate(machine.alphabet)}
    lapses = [word for word in doubtful if network.accepts(word) != machine.accepts(word)]
    passed = difference is None and found.status != "budget" and not lapses
    return passed, [tuple(number[letter] for letter in word) for word in lapses]


def _repeated(lapses: list[tuple[int, ...]], length: int, machine: DFA, draw: torch.Generator) -> Tensor:
    """Letters [length, count] of the latest 16 words answered wrongly, with random letters after them."""
    rows = torch.randint(len(machine.alphabet), (min(len(lapses), 16), length), generator=draw)
    for row, word in zip(rows, lapses[-16:], strict=False):
        kept = word[:length]
        row[: len(kept)] = torch.tensor(kept, dtype=torch.int64)
    return rows.T


def _table(machine: DFA) -> tuple[Tensor, Tensor]:
    """The next state [states, letters] and whether a state accepts, by numbers."""
    number = {q: i for i, q in enumerate(machine.states)}
    table = torch.tensor([[number[machine.step(q, a)] for a in machine.alphabet] for q in machine.states])
    return table, torch.tensor([machine.label(q) for q in machine.states])


def _answers(machine: DFA, ids: Tensor) -> Tensor:
    """Whether the machine accepts [T + 1, B] before, between and after the letters."""
    table, accepting = _table(machine)
    path = [torch.full((ids.shape[1],), machine.states.index(machine.start))]
    for letters in ids:
        path.append(table[path[-1], letters])
    return accepting[torch.stack(path)]
