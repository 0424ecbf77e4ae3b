"""compile: a machine to an ordinary recurrent cell that is that machine, with a report of how long."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch

from nextstate.checks import refuse
from nextstate.machines.automata import DFA, Mealy, Moore
from nextstate.machines.compiling.blueprint import Blueprint, exact_depth, largest_sum, unit
from nextstate.machines.compiling.bodies import Body, RationalBody, TensorBody
from nextstate.machines.compiling.compiled import Compiled, Machine, Report
from nextstate.machines.compiling.counting import counter_blueprint
from nextstate.machines.compiling.finite import finite_blueprint
from nextstate.machines.compiling.grow import LOST, GrowingBody, GrowingStacks, read_cells, write_cells
from nextstate.machines.compiling.limbs import LimbStore
from nextstate.machines.compiling.lowering import CARRIES, certified_slack, load, lower, smallest_gain
from nextstate.machines.compiling.program import Program, program_of
from nextstate.machines.compiling.stacked import decoder, encoder, stack_blueprint
from nextstate.machines.compiling.stores import CantorStore, DigitalStore
from nextstate.machines.counters import CounterMachine
from nextstate.machines.pushdown import PDA
from nextstate.machines.turing import TuringMachine

_FORMATS = {torch.float16: (11, -24), torch.float32: (24, -126), torch.float64: (53, -1022)}
"""Significand bits, and the exponent of the smallest number that no flushing of subnormals loses."""
_LARGEST = 20_000
"""Units of a network at most: its recurrent weights alone are this number squared."""
_COARSE = 100
"""Codes a unit may sum when products are rounded to 8 bits: the error is below half of the margin."""
MEMORIES = ("grow", "digital", "limbs", "cantor", "fraction")


def compile(
    machine: Machine,
    *,
    cell: str = "elman",
    activation: str | None = None,
    memory: str | None = None,
    dtype: torch.dtype = torch.float32,
    gain: float | None = None,
    depth: int | None = None,
) -> Compiled:
    """A recurrent network that is the machine, made without training.

    compile : machine -> (cell, report, readout)

    `cell` "elman", "gru" or "lstm"; `activation`, of an Elman network: "heaviside", "saturated" (clip to
    [0, 1]), "relu" or "tanh"; the one of fewest units unless said. Finite machines and digital stacks go into
    all of these, with states of 0 and 1, or of -1 and 1 under tanh: there `gain` may ask for a finite slope,
    which is refused unless it is proved that the states stay apart for ever. Counters need "relu".
    `memory`, of the stacks of a PDA or Turing machine:
        "grow"      cells that lengthen on demand, fixed weights, no bound
        "digital"   `depth` cells (64 unless said)
        "limbs"     several numbers a stack, each of as many digits as are exact; `depth` (64) symbols
        "cantor"    one number a stack, exact to a number of digits proved from the weights
        "fraction"  the same network in exact rationals, no bound, no tensors
    `depth` also lowers the limit of "cantor" and of counters.

    Every network starts from the zero state. A run that leaves the exact range raises ExactnessLost.
    Raises InputError for choices that do not fit the machine, or take more than 20,000 units.

    >>> from nextstate.machines import DFA
    >>> even = DFA.table("01", {"even": ["even", "odd"], "odd": ["odd", "even"]}, accepting=["even"])
    >>> net = compile(even, cell="gru")
    >>> print(net.report)
    DFA in gru (tanh, states, float32): 5 units, 1 steps a symbol, exact always
    >>> net.run("0110").accepted, net.run("01").configuration
    (True, 'odd')
    """
    finite = isinstance(machine, DFA | Moore | Mealy)
    stacked = isinstance(machine, PDA | TuringMachine)
    if not (finite or stacked or isinstance(machine, CounterMachine)):
        refuse("compile", f"machine is a {type(machine).__name__}; expected one of nextstate.machines")
    if stacked and memory is None:
        memory = "grow"
    _check(machine, cell, activation, memory, dtype, gain, depth)
    if memory == "grow":
        return _growing(machine, dtype)  # type: ignore[arg-type]
    blueprint = _blueprint(machine, memory, dtype, depth, doubled=activation == "relu")
    carriers = CARRIES[blueprint.kind] if cell == "elman" else ("tanh",)
    if blueprint.kind != "threshold" and cell != "elman":
        refuse("compile", f"{cell!r} holds 0 or 1 in a unit, not a {'count' if not stacked else 'fraction'}")
    if memory == "fraction":
        activation = "saturated"
    elif activation is None:
        activation = "relu" if "relu" in carriers and blueprint.kind != "saturated" else carriers[0]
    if activation not in carriers:
        refuse("compile", f"activation={activation!r} does not carry this machine; {carriers} do")
    if gain is not None and activation != "tanh":
        refuse("compile", f"gain={gain} is of tanh; activation is {activation!r}")
    slack = None
    if gain is not None:
        most = torch.finfo(dtype).max / (8 * (load(blueprint) + 4))
        if gain > most:
            refuse(
                "compile", f"gain={gain} makes weights that {dtype} does not hold; take at most {most:.6g}"
            )
        slack = certified_slack(blueprint, gain, dtype)
        if slack is None:
            least = smallest_gain(load(blueprint))
            refuse("compile", f"gain={gain} cannot be proved to latch in {dtype}; above {least:.3f} it can")
    if memory == "fraction":
        body: Body = RationalBody(blueprint)
        return _compiled(machine, None, blueprint, body, "exact", activation, memory, "rational", None, None)
    carried = lower(blueprint, cell, activation, dtype, gain, slack or 0.0)
    body = TensorBody(carried.cell, blueprint.letters, carried.code)
    kept = memory or ("counts" if isinstance(machine, CounterMachine) else "states")
    shown = [carried.shown(readout.form) for readout in blueprint.readouts]
    return _compiled(
        machine,
        carried.cell,
        blueprint,
        body,
        cell,
        activation,
        kept,
        str(dtype).removeprefix("torch."),
        gain,
        slack,
        shown,
        carried.shown(blueprint.watch),
    )


def _growing(machine: PDA | TuringMachine, dtype: torch.dtype) -> Compiled:
    program = program_of(machine)
    blueprint = stack_blueprint(program, DigitalStore(program, 4), None)
    blueprint = Blueprint(
        "threshold",
        blueprint.letters,
        blueprint.units,
        blueprint.rows,
        blueprint.readouts,
        decoder(program, read_cells),
        encoder(program, write_cells),
        period=2,
        watch=unit(LOST),
        moving=blueprint.moving,
    )
    cell = GrowingStacks(program, blueprint, dtype)
    body = GrowingBody(cell, program)
    name = str(dtype).removeprefix("torch.")
    return _compiled(machine, cell, blueprint, body, "growing stacks", "relu", "grow", name, None, None)


def _compiled(
    machine: Machine,
    cell: Any,
    blueprint: Blueprint,
    body: Body,
    cell_name: str,
    activation: str,
    memory: str,
    dtype: str,
    gain: float | None,
    slack: float | None,
    shown: list[tuple[list[float], float]] | None = None,
    watched: tuple[list[float], float] | None = None,
) -> Compiled:
    requires: tuple[str, ...] = () if cell is None else ("no autocast", f"{dtype} weights")
    # codes of -1 and 1 at their full gain bear coarser products, unless very many are summed
    coarse = blueprint.kind == "threshold" and gain is None
    coarse = coarse and (activation != "tanh" or load(blueprint) <= _COARSE)
    if cell is not None and not coarse and dtype == "float32":
        requires += ("float32 matmul precision 'highest'", "no TF32")
    width = len(blueprint.rows)
    if cell is not None:
        width = len(cell.names) if isinstance(cell, GrowingStacks) else cell.hidden_size
    report = Report(
        type(machine).__name__,
        cell_name,
        activation,
        memory,
        dtype,
        width,
        max(len(blueprint.letters), 1),
        blueprint.period,
        blueprint.limit,
        gain,
        slack,
        requires,
    )
    weight = torch.tensor([row for row, _ in shown or []], dtype=torch.float64).reshape(-1, width)
    bias = torch.tensor([constant for _, constant in shown or []], dtype=torch.float64)
    row, constant = watched or ([], 0.0)
    watch = torch.tensor(row, dtype=torch.float64)
    return Compiled(machine, cell, report, weight, bias, blueprint, body, watch, constant)


def _blueprint(
    machine: Machine, memory: str | None, dtype: torch.dtype, depth: int | None, *, doubled: bool
) -> Blueprint:
    if isinstance(machine, DFA | Moore | Mealy):
        return finite_blueprint(machine)
    significand, smallest = _FORMATS[dtype]
    if isinstance(machine, CounterMachine):
        _check_size(sum(2 ** tests.count("+") for _, _, tests in machine.transitions), "tests of counters")
        return counter_blueprint(machine, _limit(depth, _largest_count(machine, significand), dtype))
    program = program_of(machine)
    if memory in ("digital", "limbs"):
        places = (depth or 64) // (1 if memory == "digital" else significand)
        _check_size(places * program.stacks * max(program.symbols, 1), "symbols of depth")
    if memory == "digital":
        return stack_blueprint(program, DigitalStore(program, depth or 64), depth or 64)
    if memory == "fraction":
        return stack_blueprint(program, CantorStore(program, None), None)
    if memory == "limbs":
        return _limbed(program, depth or 64, significand, smallest, doubled)
    limit = _limit(depth, None, dtype)
    while True:  # the counters of the depth are part of the network that is proved exact
        blueprint = stack_blueprint(program, CantorStore(program, limit), limit)
        proved = exact_depth(blueprint, significand, smallest, doubled=doubled)
        if proved >= limit:
            return blueprint
        if proved == 0:
            refuse("compile", f"{dtype} holds not one symbol of this stack exactly; take a wider dtype")
        limit = proved


def _limbed(program: Program, depth: int, significand: int, smallest: int, doubled: bool) -> Blueprint:
    """As many digits in a limb as are proved exact, and limbs for the depth."""
    for digits in range(significand, 0, -1):
        store = LimbStore(program, digits, -(-(depth - 1) // digits) + 1)
        if store.number.bits * digits <= significand:
            blueprint = stack_blueprint(program, store, store.limit)
            if exact_depth(blueprint, significand, smallest, doubled=doubled) >= digits:
                break
    else:
        refuse("compile", f"depth={depth} cannot be counted exactly in this dtype; take a wider one")
    return blueprint


def _check_size(units: int, why: str) -> None:
    if units > _LARGEST:
        refuse("compile", f"that many {why} take {units} units or more; a network has at most {_LARGEST}")


def _limit(depth: int | None, proved: int | None, dtype: torch.dtype) -> int:
    if proved is None:
        return depth or _FORMATS[dtype][0]
    if depth is not None and depth > proved:
        refuse("compile", f"depth={depth} is more than the {proved} that {dtype} holds exactly")
    return depth or proved


def _largest_count(machine: CounterMachine, significand: int) -> int:
    """The count up to which every partial sum of every row is a whole number the format holds."""
    at = [
        [largest_sum(blueprint, form) for form in blueprint.rows.values()]
        for blueprint in (counter_blueprint(machine, 1024), counter_blueprint(machine, 2048))
    ]
    bounds = [2**significand]
    for low, high in zip(*at, strict=True):
        if slope := (high - low) / 1024:
            bounds.append(int((Fraction(2**significand) - low) / slope) + 1024)
    return min(bounds)


def _check(
    machine: Machine,
    cell: str,
    activation: str | None,
    memory: str | None,
    dtype: torch.dtype,
    gain: float | None,
    depth: int | None,
) -> None:
    stacked = isinstance(machine, PDA | TuringMachine)
    faults = []
    if cell not in ("elman", "gru", "lstm"):
        faults.append(f"cell={cell!r}; there are 'elman', 'gru', 'lstm'")
    if activation is not None and cell != "elman":
        faults.append(f"activation={activation!r} is of an Elman network; a {cell} has its own")
    if dtype not in _FORMATS:
        faults.append(f"dtype={dtype} is not exact enough; there are float16, float32, float64")
    if stacked and memory not in MEMORIES:
        faults.append(f"memory={memory!r}; there are {MEMORIES}")
    if not stacked and memory is not None:
        faults.append(f"memory={memory!r} is of stacks; a {type(machine).__name__} has none")
    if memory in ("grow", "fraction") and (cell != "elman" or activation not in (None, "relu", "saturated")):
        faults.append(f"memory={memory!r} is a network of its own and goes into no other cell")
    if depth is not None and (not isinstance(depth, int) or depth < 1):
        faults.append(f"depth={depth!r}; expected an integer >= 1")
    if depth is not None and (isinstance(machine, DFA | Moore | Mealy) or memory in ("grow", "fraction")):
        faults.append(f"depth={depth} given, but nothing here has a bounded depth")
    if gain is not None and not (isinstance(gain, int | float) and gain > 0):
        faults.append(f"gain={gain!r}; expected a number > 0")
    if gain is not None and memory in ("grow", "fraction", "cantor", "limbs"):
        faults.append(f"gain={gain} is of tanh; memory={memory!r} is not carried by it")
    if faults:
        refuse("compile", "; ".join(faults))
