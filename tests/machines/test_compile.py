"""Compiled machines as cells of the library: on every engine, and settings and choices that are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nextstate as ns
from nextstate import InputError
from nextstate.machines import (
    DFA,
    STUCK,
    CounterMachine,
    compile,
)
from nextstate.machines.library import (
    dyck,
    equal_blocks,
    marked_palindromes,
    tomita,
)
from nextstate.run import ENGINES


@pytest.mark.parametrize("engine", list(ENGINES))
def test_compiled_cells_on_every_engine_to_the_same_bits(engine: str) -> None:
    draw = torch.Generator().manual_seed(0)
    ran = 0
    for machine, options in [
        (tomita(7), {}),
        (tomita(7), {"activation": "heaviside"}),
        (tomita(7), {"cell": "gru"}),
        (tomita(7), {"cell": "lstm"}),
        (tomita(7), {"activation": "tanh"}),
        (dyck(3), {"activation": "saturated"}),
        (equal_blocks("ab"), {}),
        (marked_palindromes(), {"memory": "cantor"}),
    ]:
        net = compile(machine, **options)  # type: ignore[arg-type]
        letters = len(machine.alphabet)
        us = torch.eye(letters)[torch.randint(letters, (14, 5), generator=draw)]
        if net.blueprint.period == 2:
            us[1::2] = 0
        cell: Any = net.cell
        try:
            vs, last = ns.scan(cell, us, engine=engine)
        except ns.EngineError as refused:
            print(refused)
            continue
        ran += 1
        expected, end = ns.scan(cell, us, engine="reference")
        assert torch.equal(ns.states.leaves(last)[-1], ns.states.leaves(end)[-1]), (engine, str(net.report))
        if options == {"cell": "lstm"}:  # its code is c, exactly; h is tanh(1), which engines may round apart
            assert torch.equal(vs.sign(), expected.sign())
            torch.testing.assert_close(vs, expected, rtol=1e-6, atol=0)
        else:
            assert torch.equal(vs, expected), (engine, str(net.report))
    if not ran:
        pytest.skip(f"engine {engine} takes none of these cells on this machine (reasons above)")
    assert ran >= 5 or engine not in ("cpu", "reference")


def test_settings_that_break_exactness_are_refused() -> None:
    net = compile(marked_palindromes(), memory="cantor")
    with pytest.raises(InputError, match="autocast"), torch.autocast("cpu", dtype=torch.bfloat16):
        net.run("a#a")
    us = net.encode("a#a")
    _, reached = ns.scan(net.cell, us)  # type: ignore[arg-type]
    for step in (lambda: net.encode("a#a"), lambda: net.decode(reached)):
        step()
        with pytest.raises(InputError, match="autocast"), torch.autocast("cpu", dtype=torch.bfloat16):
            step()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with pytest.raises(InputError, match="precision"):
            net.run("a#a")
    finally:
        torch.set_float32_matmul_precision(before)
    assert net.cell is not None
    net.cell.half()
    with pytest.raises(InputError, match="float16"):
        net.run("a#a")
    with pytest.raises(InputError, match="bfloat16"):
        compile(tomita(1), dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("machine", "options"),
    [
        (tomita(1), {"cell": "mlp"}),
        (tomita(1), {"cell": "gru", "activation": "relu"}),
        (tomita(1), {"activation": "sigmoid"}),
        (tomita(1), {"memory": "grow"}),
        (tomita(1), {"depth": 3}),
        (tomita(1), {"gain": 3.0}),
        (tomita(1), {"activation": "tanh", "gain": "5"}),
        (tomita(1), {"activation": "tanh", "gain": -1.0}),
        (tomita(1), {"activation": "tanh", "gain": float("nan")}),
        (tomita(1), {"activation": "tanh", "gain": float("inf")}),
        (tomita(1), {"cell": "gru", "gain": 70000.0, "dtype": torch.float16}),
        (equal_blocks(), {"cell": "gru"}),
        (equal_blocks(), {"activation": "saturated"}),
        (equal_blocks(), {"depth": 2**40}),
        (marked_palindromes(), {"memory": "tape"}),
        (marked_palindromes(), {"memory": "cantor", "cell": "lstm"}),
        (marked_palindromes(), {"memory": "cantor", "activation": "tanh"}),
        (marked_palindromes(), {"memory": "digital", "depth": 0}),
        (marked_palindromes(), {"memory": "digital", "depth": 10**9}),
        (marked_palindromes(), {"memory": "limbs", "depth": 10**9}),
        (CounterMachine("a", "p", "p", "p", {("p", "a", "+" * 40): ("p", (0,) * 40)}, 40), {}),
        ("0*1", {}),
    ],
    ids=str,
)
def test_choices_that_do_not_fit_are_refused(machine: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="compile"):
        compile(machine, **options)


def test_a_stuck_machine_stays_stuck() -> None:
    for options in ({}, {"cell": "gru"}):
        net = compile(DFA.table("ab", {0: [0, 1], 1: [None, 1]}, accepting=[0, 1]), **options)  # type: ignore[arg-type]
        assert net.run("abab").configuration is STUCK
        assert not net.run("abab").accepted
    assert compile(marked_palindromes()).run("a##").configuration is STUCK


def test_precisions_set_for_one_backend_are_refused() -> None:
    net, backend = compile(marked_palindromes(), memory="cantor"), torch.backends.mkldnn.matmul
    before = backend.fp32_precision
    try:
        backend.fp32_precision = "bf16"
        with pytest.raises(InputError, match="fp32_precision"):
            net.run("a#a")
    finally:
        backend.fp32_precision = before
    assert net.run("a#a").accepted


def test_coarse_products_are_refused_where_a_proof_rests_on_fine_ones() -> None:
    """A finite gain is proved for the rounding of its dtype; so are sums of very many codes."""
    many = DFA.table("ab", {i: [0, 0] for i in range(80)}, accepting=[0])
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        for machine, options in ((tomita(4), {"gain": 9.0}), (many, {})):
            with pytest.raises(InputError, match="precision"):
                compile(machine, activation="tanh", **options).run("")  # type: ignore[arg-type]
        assert compile(tomita(4), activation="tanh").run("").accepted
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("state", [None, torch.zeros(1, 3), torch.zeros(9), (torch.zeros(1, 9),)], ids=str)
def test_what_is_no_state_of_the_network_is_refused(state: Any) -> None:
    net = compile(tomita(4))
    assert net.decode(net.start()) == tomita(4).start
    for given in (state, torch.zeros(2, net.report.units)):
        with pytest.raises(InputError, match="state"):
            net.decode(given)
    assert net.decode(torch.full((1, net.report.units), float("inf"))) is None
