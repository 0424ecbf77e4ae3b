"""A compiled machine: an ordinary cell, its report, and exact runs that refuse to drift."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nextstate.cell import Cell
from nextstate.checks import describe, refuse
from nextstate.machines.automata import DFA, Mealy, Moore
from nextstate.machines.compiling.blueprint import Blueprint
from nextstate.machines.compiling.bodies import Body
from nextstate.machines.counters import CounterMachine
from nextstate.machines.pushdown import PDA
from nextstate.machines.turing import TuringMachine
from nextstate.machines.words import Word, check_word
from nextstate.states import leaves

Machine = DFA | Moore | Mealy | CounterMachine | PDA | TuringMachine


class ExactnessLost(RuntimeError):
    """A compiled network left the range in which it is the machine.

    `step` is the step of the network at which it did; 0 if only a later state is known.
    """

    def __init__(self, step: int, why: str) -> None:
        super().__init__(f"step {step}: {why}" if step else f"on the way to this state {why}")
        self.step = step


@dataclass(frozen=True)
class Report:
    """What a compiled network is and how far it can be trusted.

    `exact_until` is the depth (of every stack) or count (of every counter) up to which it is exactly the
    machine, None if there is no bound. `slack` is the proven bound on the distance of a state from its code
    when a finite gain was asked for. `requires` lists the settings the exactness rests on.
    """

    machine: str
    cell: str
    activation: str
    memory: str
    dtype: str
    units: int
    inputs: int
    steps_per_symbol: int
    exact_until: int | None
    gain: float | None
    slack: float | None
    requires: tuple[str, ...]

    def __str__(self) -> str:
        exact = "always" if self.exact_until is None else f"until {self.exact_until}"
        return (
            f"{self.machine} in {self.cell} ({self.activation}, {self.memory}, {self.dtype}): "
            f"{self.units} units, {self.steps_per_symbol} steps a symbol, exact {exact}"
        )


@dataclass(frozen=True)
class Outcome:
    """A run: whether the word was accepted, the outputs, the last configuration, the network's steps.

    The outputs are those of the machine's `outputs_of`: one a letter, of a Moore machine one more.
    """

    accepted: bool
    outputs: list[Any]
    configuration: Any
    steps: int


class Shown(NamedTuple):
    """What the outputs of a step show."""

    accepted: bool
    output: Any


@dataclass(frozen=True)
class Compiled:
    """A machine compiled into a network.

    `cell` is an ordinary cell (None for exact rationals, which no tensor holds): one-hot letters in, units
    out; give it to any loop, and its outputs to `read`. `readout_weight` and `readout_bias` have one row for
    each of `blueprint.readouts`, which shows where it is above 1/2.
    """

    machine: Machine
    cell: Cell | None
    report: Report
    readout_weight: Tensor
    readout_bias: Tensor
    blueprint: Blueprint = field(repr=False)
    body: Body = field(repr=False)
    watch_weight: Tensor = field(repr=False)
    """A row that shows above 1/2, with `watch_bias`, where the exact range was left."""
    watch_bias: float = field(repr=False)

    def encode(self, word: Word) -> Tensor:
        """The input [T, 1, letters] that spells a word: one-hot rows, blanks between where moves take more.

        Machines with free moves need as many blanks as they make moves: `run` feeds them as they are needed.
        """
        if self.cell is None:
            refuse("encode", "exact rationals take no tensors; call run(word)")
        self._check_settings("encode")
        check_word(self.report.machine, word, self.blueprint.letters)
        period = self.blueprint.period
        steps = [a for letter in word for a in (letter, *[None] * (period - 1))]
        blank = self.body.input(None)  # type: ignore[attr-defined]
        if not steps:
            return blank.new_zeros(0, *blank.shape)
        return torch.stack([self.body.input(a) for a in steps])  # type: ignore[attr-defined]

    def start(self, configuration: Any = None) -> Any:
        """The state [1, ...] of a configuration; the zero state (the machine's start) if none is given."""
        if configuration is None:
            return self.body.start(None)
        if self.blueprint.encode is None:
            refuse("start", f"a {self.report.machine} starts in its start state; configuration must be None")
        return self.body.start(self.blueprint.encode(configuration))

    def decode(self, state: Any) -> Any:
        """The machine's configuration in a state [1, ...]; None where the state is no configuration.

        Raises ExactnessLost if the state says that the exact range was left on the way to it, InputError for
        settings under which states are not exact, and for what is no state [1, ...] of this network.
        """
        self._check_settings("decode")
        self._check_state(state)
        self._check_exact(state, 0)
        values = self.body.values(state)
        return None if values is None else self.blueprint.decode(values)

    def read(self, v: Tensor) -> list[Shown]:
        """What the outputs [B, units] of the cell show, row by row.

        Raises ExactnessLost if a row says that the exact range was left on the way to it, InputError for
        memories whose outputs are not the whole state ("grow" and "fraction": decode the state).
        """
        if self.report.memory in ("grow", "fraction"):
            refuse("read", f"outputs under memory={self.report.memory!r} do not show the stacks; use decode")
        width = self.readout_weight.shape[1]
        if v.dim() != 2 or v.shape[1] != width:
            refuse("read", f"v has shape {tuple(v.shape)}; expected [B, {width}], the outputs of one step")
        if self.blueprint.watch.units and not self._keeps_exact(v):
            raise ExactnessLost(0, self._why())
        return self.shown(v)

    def shown(self, v: Tensor) -> list[Shown]:
        """As `read`, without looking whether the network is still its machine: what it is itself."""
        on = v @ self.readout_weight.to(v).T + self.readout_bias.to(v) > 0.5
        return [self._shown(row) for row in on.tolist()]

    def run(self, word: Word = (), *, limit: int = 1_000_000) -> Outcome:
        """Run the network on a word (on the tape, for a Turing machine) until it has no move left.

        Raises ExactnessLost at the first step outside the exact range, InputError for settings under which
        it would not be exact or if it has not come to rest after `limit` moves.
        """
        state, steps = self._begin(word), 0
        writes = any(readout.label is not None for readout in self.blueprint.readouts)
        outputs = [self._output(state)] if isinstance(self.machine, Moore) else []
        for step, letter, reached in self.steps(word, limit=limit):
            steps, state = step, reached
            if letter is not None and writes:
                outputs.append(self._output(state))
        here = self.decode(state)
        return Outcome(self._accepts(here), outputs, here, steps)

    def steps(self, word: Word = (), *, limit: int = 1_000_000) -> Iterator[tuple[int, Hashable | None, Any]]:
        """The steps of a run, as (number, letter read, state after it)."""
        state, number = self._begin(word), 0
        settle = [None] if self.blueprint.moving.units else []
        letters = () if isinstance(self.machine, TuringMachine) else word
        for letter in (*settle, *(x for a in letters for x in (a, *settle))):
            for moves in count():
                path = self._move(state, letter, number)
                if path is None:
                    break
                if moves > limit:
                    refuse("run", f"{self.report.machine} is not at rest after limit={limit} moves")
                for phase, state in enumerate(path):
                    number += 1
                    yield number, letter if phase == 0 else None, state
                if letter is not None:
                    break

    def _begin(self, word: Word) -> Any:
        self._check_settings("run")
        if isinstance(self.machine, TuringMachine):
            return self.start(self.machine.initial(word))
        check_word(self.report.machine, word, self.blueprint.letters)
        return self.start()

    def _move(self, state: Any, letter: Hashable | None, number: int) -> list[Any] | None:
        """The states of one move of the machine; None if it was to move without a letter and cannot."""
        path: list[Any] = []
        for phase in range(self.blueprint.period):
            state = self.body.step(state, letter if phase == 0 else None)
            if letter is None and phase == 0 and not self.body.value(state, self.blueprint.moving):
                return None
            self._check_exact(state, number + phase + 1)
            path.append(state)
        return path

    def _shown(self, on: list[bool]) -> Shown:
        shown = [readout.label for readout, is_on in zip(self.blueprint.readouts, on, strict=True) if is_on]
        return Shown(None in shown, next((label for label in shown if label is not None), None))

    def _output(self, state: Any) -> Any:
        values = [self.body.value(state, readout.form) for readout in self.blueprint.readouts]
        return self._shown([value > 0.5 for value in values]).output

    def _accepts(self, configuration: Any) -> bool:
        machine = self.machine
        if isinstance(machine, DFA):
            return configuration in machine.accepting
        if configuration is None:
            return False
        if isinstance(machine, CounterMachine | PDA):
            return machine.accepts_in(configuration)
        return isinstance(machine, TuringMachine) and configuration.state in machine.accepting

    def _check_exact(self, state: Any, number: int) -> None:
        if self.blueprint.watch.units and self.body.value(state, self.blueprint.watch):
            raise ExactnessLost(number, self._why())

    def _keeps_exact(self, v: Tensor) -> bool:
        """Whether no row shows the alarm, by its own units alone: the others may be infinite."""
        mine = self.watch_weight.nonzero().flatten().tolist()
        return bool((v[:, mine] @ self.watch_weight[mine].to(v) + self.watch_bias <= 0.5).all())

    def _why(self) -> str:
        if self.report.memory == "grow":
            return f"a stack grew past the cells of a state that only run lengthens, in {self.report}"
        what = "count" if isinstance(self.machine, CounterMachine) else "stack"
        return f"a {what} went past {self.report.exact_until} in {self.report}"

    def _check_state(self, state: Any) -> None:
        """Refuse what is no state [1, ...] of this network; the depth of cells that grow is free."""
        like = self.body.start(None)
        fits = type(state) is type(like)
        if fits and self.cell is not None:
            free = 1 if self.report.memory == "grow" else 0
            parts = list(zip(leaves(state), leaves(like), strict=True))
            fits = all(
                x.dim() == y.dim() and x.shape[: x.dim() - free] == y.shape[: y.dim() - free]
                for x, y in parts
            )
        if not fits:
            found = describe(state) if self.cell is not None else type(state).__name__
            refuse("decode", f"the state is {found}; expected one state [1, ...] of {self.report}")

    def _check_settings(self, operation: str) -> None:
        if self.cell is None:
            return
        weight = next(self.cell.parameters())
        faults = []
        if f"{weight.dtype}" != f"torch.{self.report.dtype}":
            faults.append(f"the weights are now {weight.dtype}, compiled for {self.report.dtype}")
        if torch.is_autocast_enabled(weight.device.type):
            faults.append("autocast is on")
        if "no TF32" in self.report.requires:
            faults += _coarse_products(cuda=weight.is_cuda)
        if faults:
            refuse(operation, "settings under which the network is not exact: " + "; ".join(faults))


def _coarse_products(*, cuda: bool) -> list[str]:
    """The settings under which float32 products are rounded to fewer bits."""
    faults = []
    try:
        if torch.get_float32_matmul_precision() != "highest":
            faults.append("torch.set_float32_matmul_precision is below 'highest'")
        if cuda and (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32):
            faults.append("TF32 is allowed")
    except RuntimeError:  # torch answers neither question where one backend was set apart from the others
        faults.append("a precision of float32 is set through fp32_precision of torch.backends")
    return faults
