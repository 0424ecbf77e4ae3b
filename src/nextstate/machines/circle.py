"""The circle: a machine taught to a network, found again inside it, and compiled back into weights."""

from __future__ import annotations

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
from nextstate.run import scan


@dataclass(frozen=True)
class Lesson:
    """A moment of the training: the loss of the batch, the share of held-out prefixes answered right."""

    step: int
    loss: float
    right: float
    seconds: float


@dataclass(frozen=True)
class Circle:
    """What became of a machine on its way round.

    `trained` answers like the truth on the held-out words; `found` is the machine extracted from it;
    `again` is that machine compiled; `proof` the machine extracted from `again`, whose status is "proved".
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
    seconds: float = 40.0,
    seed: int = 0,
) -> Iterator[tuple[Lesson, Recogniser]]:
    """Train a network on random words, the machine's answer asked after every letter; yields its progress.

    Half of the words have uniform letters; the other half takes only letters after which the machine can
    still accept, since in a language such as that of brackets nearly all uniform words are lost at once.
    The cell must hand out its state as its output, as GRU and LSTM do. Words grow from 6 letters to `length`
    over the first steps, and the rate halves every 800. It ends when all prefixes of held-out words of the
    full length are answered right three times in a row, or after `steps` or `seconds`.
    """
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    network = Recogniser(cell(len(machine.alphabet), hidden), machine.alphabet)
    torch.random.set_rng_state(torch_state)
    draw = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.5 ** (1 / 800))
    held = _words(machine, length, 500, draw)
    answers = _answers(machine, held)
    began, perfect = time.monotonic(), 0
    for step in range(1, steps + 1):
        short = min(length, 6 + step // 10)
        ids = _words(machine, short, batch, draw)
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
            perfect = perfect + 1 if right == 1 else 0
            yield Lesson(step, loss.item(), right, time.monotonic() - began), network
            if perfect == 3 or late:
                return


def circle(machine: DFA, *, seed: int = 0, seconds: float = 40.0) -> Circle:
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
    """Letters [length, count] of random words, the second half of them kept where acceptance is possible."""
    table, accepting = _table(machine)
    live = accepting
    for _ in machine.states:
        live = live | live[table].any(1)
    chances = torch.stack([torch.ones_like(table), live[table] + ~live[table].any(1, keepdim=True)]).double()
    kept = (torch.arange(count) >= count // 2).long()
    here, letters = torch.zeros(count, dtype=torch.int64) + machine.states.index(machine.start), []
    for _ in range(length):
        letters.append(torch.multinomial(chances[kept, here], 1, generator=draw).squeeze(1))
        here = table[here, letters[-1]]
    return torch.stack(letters)


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
