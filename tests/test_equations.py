"""Each cell computes the equations of its docstring, written a second time in plain Python."""

from __future__ import annotations

import pytest
import torch

import equations
import nextstate as ns
from agreement import assert_close
from catalogue import BY_NAME, CELLS, Row, random_state, randomise_
from nextstate.states import leaves, rebuild


def check_equations(cell: ns.Cell, name: str) -> None:
    """Outputs and state of three steps against the plain equations."""
    us, s0 = torch.randn(3, 2, 3, dtype=torch.float64), random_state(cell, 2)
    vs, sT = ns.scan(cell, us, s0, engine="reference")
    parameters = {key: x.tolist() for key, x in cell.state_dict().items()}
    rows_v, rows_s = [], []
    for b in range(2):
        state, outputs = [leaf[b].tolist() for leaf in leaves(s0)], []
        for t in range(3):
            v, state = equations.BY_NAME[name](parameters, us[t, b].tolist(), state)
            outputs.append(v)
        rows_v.append(outputs)
        rows_s.append(state)
    expected = [torch.tensor([row[k] for row in rows_s], dtype=torch.float64) for k in range(len(leaves(s0)))]
    assert_close(vs, torch.tensor(rows_v, dtype=torch.float64).transpose(0, 1), 1e-12)
    assert_close(sT, rebuild(s0, expected), 1e-12)


@pytest.mark.parametrize("name", equations.BY_NAME)
def test_equations(name: str) -> None:
    check_equations(BY_NAME[name].cell(), name)


def test_every_cell_has_its_equations() -> None:
    assert {row.name for row in CELLS} - equations.BY_NAME.keys() == {"Elman relu"}


@pytest.mark.parametrize("row", CELLS, ids=lambda row: row.name)
def test_blocks_are_named_in_the_order_of_the_rows(row: Row) -> None:
    cell = row.cell()
    assert cell.weight_ih.shape[0] == len(cell.gates) * cell.hidden_size
    assert "keeps" not in dir(cell) or cell.keeps[0] in cell.gates


def test_a_peephole_of_zero_is_the_lstm() -> None:
    cell, plain = BY_NAME["PeepholeLSTM"].cell(), BY_NAME["LSTM"].cell()
    plain.load_state_dict({k: v for k, v in cell.state_dict().items() if k != "peephole"})
    torch.nn.init.zeros_(cell.peephole)
    u, s = torch.randn(2, 3, dtype=torch.float64), random_state(cell, 2)
    assert_close(cell(u, s), plain(u, s), 1e-12)


@pytest.mark.parametrize("rounds", [0, 1, 2, 3, 4])
def test_any_number_of_rounds(rounds: int) -> None:
    cell = randomise_(ns.MogrifierLSTM(3, 5, rounds)).double()
    check_equations(cell, "MogrifierLSTM")
    if rounds == 0:
        check_equations(cell, "LSTM")


def test_a_mogrifier_of_zero_is_the_lstm() -> None:
    cell, plain = BY_NAME["MogrifierLSTM"].cell(), BY_NAME["LSTM"].cell()
    plain.load_state_dict({k: v for k, v in cell.state_dict().items() if k not in ("weight_q", "weight_r")})
    u, s = torch.randn(2, 3, dtype=torch.float64), random_state(cell, 2)
    assert (cell(u, s)[0] - plain(u, s)[0]).abs().max() > 1e-3
    torch.nn.init.zeros_(cell.weight_q)
    torch.nn.init.zeros_(cell.weight_r)
    assert_close(cell(u, s), plain(u, s), 1e-12)


def test_min_gru_is_linear_in_its_state() -> None:
    cell = BY_NAME["MinGRU"].cell()
    u, h, k = torch.randn(2, 3).double(), torch.randn(2, 5).double(), torch.randn(2, 5).double()
    zero = cell(u, torch.zeros_like(h))[1]
    assert_close(cell(u, 2 * h - 3 * k)[1] - zero, 2 * (cell(u, h)[1] - zero) - 3 * (cell(u, k)[1] - zero))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ns.GRU(0, 5), r"GRU: sizes are \(0, 5\)"),
        (lambda: ns.LSTM(3, -1), r"LSTM: sizes are \(3, -1\)"),
        (lambda: ns.Elman(3, 2.5), r"Elman: sizes are \(3, 2.5\)"),
        (lambda: ns.ProjectedLSTM(3, 5, 0), r"ProjectedLSTM: sizes are \(3, 5, 0\)"),
        (lambda: ns.MogrifierLSTM(3, 5, -1), r"MogrifierLSTM: rounds is -1; expected an integer >= 0"),
        (lambda: ns.MogrifierLSTM(3, 5, 2.0), r"MogrifierLSTM: rounds is 2.0; expected an integer >= 0"),
    ],
)
def test_sizes_are_refused(make, told: str) -> None:
    with pytest.raises(ns.InputError, match=told):
        make()


@pytest.mark.parametrize("row", CELLS, ids=lambda row: row.name)
@pytest.mark.parametrize(
    ("shape", "dtype", "device", "told"),
    [
        ((2, 4), torch.float32, "cpu", r"\(2, 4\) float32; expected \[B, 3\]"),
        ((3,), torch.float32, "cpu", r"\(3,\) float32; expected \[B, 3\]"),
        ((7, 3), torch.float32, "cpu", r"with B = 7"),
        ((2, 3), torch.float64, "cpu", "float64 and the weights are float32"),
        ((2, 3), torch.int64, "cpu", "int64 and the weights are float32"),
        ((2, 3), torch.float32, "meta", "on meta and the weights on cpu"),
    ],
)
def test_a_step_refuses_what_does_not_fit(row: Row, shape, dtype, device: str, told: str) -> None:
    cell = row.cell(dtype=torch.float32)
    with pytest.raises(ns.InputError, match=told):
        cell(torch.ones(shape, dtype=dtype, device=device), cell.initial_state(2))


def test_autocast_may_mix_dtypes() -> None:
    cell = BY_NAME["GRU"].cell(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        v, _ = cell(torch.ones(2, 3, dtype=torch.bfloat16), cell.initial_state(2))
    assert v.isfinite().all()
