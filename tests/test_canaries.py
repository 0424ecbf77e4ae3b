"""Every test of agreement and every law is seen to reject something broken in one small way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import laws
import nextstate as ns
from agreement import HERE, assert_agree, dtype_of, on, outcome
from catalogue import BY_NAME, random_state, randomise_
from nextstate.states import leaves
from test_equations import check_equations
from torch_peers import PEERS, cells_of, our_outcome, their_outcome

LENGTHS = torch.tensor([3, 0, 5, 1])
ROADS = [(name, torch.float32) for name in HERE] + [("reference", torch.float64)]
engines = pytest.mark.parametrize("engine", HERE)


class BrokenGRU(ns.GRU):
    """A GRU with one fault, chosen by name."""

    fault = ""

    def step(self, u: Tensor, h: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        b_ih, b_hh = self.bias_ih, self.bias_hh
        if self.fault == "dropped bias":
            b_hh = torch.zeros_like(b_hh)
        a, d = (
            F.linear(u, self.weight_ih, b_ih).chunk(3, -1),
            F.linear(seen, self.weight_hh, b_hh).chunk(3, -1),
        )
        if self.fault == "swapped gates":
            a, d = (a[1], a[0], a[2]), (d[1], d[0], d[2])
        r, z = torch.sigmoid(a[0] + d[0]), torch.sigmoid(a[1] + d[1])
        if self.fault == "detached gate":
            z = z.detach()
        n = torch.tanh(a[2] + r * d[2])
        if self.fault == "wrong reset form":
            H = self.hidden_size
            n = torch.tanh(a[2] + F.linear(r * seen, self.weight_hh[2 * H :], b_hh[2 * H :]))
        if self.fault == "swapped update":
            z = 1 - z
        if self.fault == "rows mixed":
            n = n + 1e-6 * n.sum(0)
        if self.fault == "lost gradient of the state":
            h = h.detach()
        h = (1 - z) * n + z * h
        return h, h


class Counting(BrokenGRU):
    """A GRU that remembers, outside its state, how often it was called."""

    calls = 0

    def step(self, u: Tensor, h: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return super().step(u, h + 1e-3 * self.calls, seen)


VALUE_FAULTS = ("dropped bias", "swapped gates", "wrong reset form", "swapped update", "rows mixed")
GRADIENT_FAULTS = ("detached gate", "lost gradient of the state")


def broken(fault: str, cls: type[BrokenGRU] = BrokenGRU) -> BrokenGRU:
    cell = randomise_(cls(3, 5)).double()
    cell.fault = fault
    return cell


def rejects(check, *arguments) -> None:
    with pytest.raises(AssertionError):
        check(*arguments)


def gru_case(engine: str) -> tuple[BrokenGRU, Tensor, Tensor]:
    dtype = dtype_of(engine)
    return broken("").to(dtype), torch.randn(5, 4, 3, dtype=dtype), torch.randn(4, 5, dtype=dtype)


def gru_against_torch(fault: str | None, engine: str, dtype: torch.dtype) -> None:
    peer = next(peer for peer in PEERS if peer.name == "GRU")
    network = randomise_(nn.GRU(3, 5)).to(dtype)
    cells = cells_of(peer, network)
    if fault is not None:
        faulty = BrokenGRU(3, 5).to(dtype)
        faulty.load_state_dict(cells["l0"].state_dict())
        faulty.fault = fault
        cells = {"l0": faulty}
    us, s0 = torch.randn(7, 4, 3, dtype=dtype), (torch.randn(1, 4, 5, dtype=dtype),)
    ours = our_outcome(cells, us, s0, None, engine)
    assert_agree(ours, their_outcome(network, us, s0, None))


@pytest.mark.parametrize(("engine", "dtype"), ROADS, ids=str)
@pytest.mark.parametrize("fault", [None, ""])
def test_agreement_with_torch_accepts(fault: str | None, engine: str, dtype: torch.dtype) -> None:
    gru_against_torch(fault, engine, dtype)


@pytest.mark.parametrize(("engine", "dtype"), ROADS, ids=str)
@pytest.mark.parametrize("fault", [*VALUE_FAULTS[:-1], *GRADIENT_FAULTS])
def test_agreement_with_torch_rejects(fault: str, engine: str, dtype: torch.dtype) -> None:
    rejects(gru_against_torch, fault, engine, dtype)


@pytest.mark.parametrize("fault", VALUE_FAULTS[:-1])
def test_equations_reject(fault: str) -> None:
    check_equations(broken(""), "GRU")
    rejects(check_equations, broken(fault), "GRU")


@pytest.mark.parametrize(
    "name", ["LSTM", "PeepholeLSTM", "CoupledLSTM", "LayerNormLSTM", "ProjectedLSTM", "MogrifierLSTM"]
)
def test_equations_reject_another_gate_order(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights read as if the last gate came first."""
    cell, linear = BY_NAME[name].cell(), F.linear

    def rolled(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        out = linear(x, weight, bias)
        gates = weight is cell.weight_ih or weight is cell.weight_hh
        return out.roll(cell.hidden_size, -1) if gates else out

    check_equations(cell, name)
    monkeypatch.setattr(F, "linear", rolled)
    rejects(check_equations, cell, name)


@pytest.mark.parametrize("weight", ["weight_q", "weight_r"])
def test_equations_reject_rounds_in_another_order(weight: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last matrix of a Mogrifier's rounds taken first."""
    cell = BY_NAME["MogrifierLSTM"].cell()
    matrices, split = getattr(cell, weight), torch.Tensor.split

    def reversed_(x: Tensor, *sizes: int) -> tuple[Tensor, ...]:
        return split(x, *sizes)[:: -1 if x is matrices else 1]

    check_equations(cell, "MogrifierLSTM")
    monkeypatch.setattr(torch.Tensor, "split", reversed_)
    rejects(check_equations, cell, "MogrifierLSTM")


@engines
def test_the_loop_law_rejects_a_wrong_gradient_and_a_wrong_order(engine: str) -> None:
    cell, us, s0 = gru_case(engine)

    def backwards(cell, us, s0, lengths):
        return on(engine)(cell, us.flip(0), s0, lengths)

    def without_gradient_of_the_start(cell, us, s0, lengths):
        return on(engine)(cell, us, s0.detach(), lengths)

    laws.plain_loop(on(engine), cell, us, s0)
    rejects(laws.plain_loop, backwards, cell, us, s0)
    rejects(laws.plain_loop, without_gradient_of_the_start, cell, us, s0)


def test_the_concatenation_law_rejects_hidden_memory_and_a_lost_state() -> None:
    us, s0 = torch.randn(5, 4, 3).double(), torch.randn(4, 5).double()

    def forgetful(cell, us, s0, lengths):
        return ns.scan(cell, us, 0.5 * s0)

    laws.concatenation(on("reference"), broken(""), us, s0)
    rejects(laws.concatenation, on("reference"), broken("", Counting), us, s0)
    rejects(laws.concatenation, forgetful, broken(""), us, s0)


def test_the_row_laws_reject_rows_that_see_each_other() -> None:
    us, s0 = torch.randn(5, 4, 3).double(), torch.randn(4, 5).double()
    laws.batched(on("reference"), broken(""), us, s0)
    rejects(laws.batched, on("reference"), broken("rows mixed"), us, s0)
    rejects(laws.rows_alone, on("reference"), broken("rows mixed"), us, s0, LENGTHS)


def off_by_one(cell, us, s0, lengths):
    steps = leaves(us)[0].shape[0]
    return ns.scan(cell, us, s0, lengths=None if lengths is None else (lengths + 1).clamp(max=steps))


def unmasked_outputs(cell, us, s0, lengths):
    vs, _ = ns.scan(cell, us, s0)
    return vs, ns.scan(cell, us, s0, lengths=lengths)[1]


def late_state(cell, us, s0, lengths):
    return ns.scan(cell, us, s0, lengths=lengths)[0], ns.scan(cell, us, s0)[1]


def mask_by_product(cell, us, s0, lengths):
    """The usual shortcut, 0 * x for a masked x: right until x is NaN."""
    if lengths is None:
        return ns.scan(cell, us, s0)
    s, vs = s0, []
    for t in range(us.shape[0]):
        live = (t < lengths).to(us).unsqueeze(1)
        v, s_next = cell(us[t], s)
        vs.append(live * v)
        s = live * s_next + (1 - live) * s
    return torch.stack(vs), s


@engines
@pytest.mark.parametrize("run", [off_by_one, unmasked_outputs, late_state])
def test_the_ragged_law_rejects(run, engine: str) -> None:
    cell, us, s0 = gru_case(engine)
    laws.rows_alone(on(engine), cell, us, s0, LENGTHS)
    with ns.engine(engine):
        rejects(laws.rows_alone, run, cell, us, s0, LENGTHS)


@engines
@pytest.mark.parametrize("run", [off_by_one, unmasked_outputs, late_state, mask_by_product])
def test_the_padding_law_rejects(run, engine: str) -> None:
    cell, us, s0 = gru_case(engine)
    laws.padding(on(engine), cell, us, s0, LENGTHS)
    with ns.engine(engine):
        rejects(laws.padding, run, cell, us, s0, LENGTHS)


def test_mask_by_product_is_wrong_in_its_padding_only() -> None:
    cell, us, s0 = gru_case("reference")
    laws.rows_alone(mask_by_product, cell, us, s0, LENGTHS)


@engines
def test_the_fold_law_rejects_a_length_off_by_one(engine: str) -> None:
    cell, us, s0 = gru_case(engine)
    laws.last_of_scan(engine, on(engine), cell, us, s0, LENGTHS)
    with ns.engine(engine):
        rejects(laws.last_of_scan, engine, off_by_one, cell, us, s0, LENGTHS)


def test_gradcheck_rejects_a_detached_gate() -> None:
    whole, detached = broken(""), broken("detached gate")
    us, s0 = torch.randn(3, 2, 3).double().requires_grad_(), torch.randn(2, 5).double().requires_grad_()
    torch.autograd.gradcheck(lambda *x: ns.scan(whole, *x)[0], (us, s0), fast_mode=True)
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(lambda *x: ns.scan(detached, *x)[0], (us, s0), fast_mode=True)


def test_agreement_rejects_nan_shapes_dtypes_and_missing_entries() -> None:
    cell, us = broken(""), torch.randn(2, 3, 3).double()
    good = outcome(on("reference"), cell, us, random_state(cell, 3))
    assert_agree(good, good)
    rejects(assert_agree, {k: x * torch.nan for k, x in good.items()}, good)
    rejects(assert_agree, good, {k: x * torch.nan for k, x in good.items()})
    rejects(assert_agree, {k: x.float() for k, x in good.items()}, good)
    rejects(assert_agree, {k: x.unsqueeze(0) for k, x in good.items()}, good)
    rejects(assert_agree, {k: x for k, x in good.items() if k != "gradient of s0 0"}, good)
    rejects(assert_agree, {}, {})
    for name in good:
        rejects(assert_agree, {**good, name: good[name] + 1e-6}, good)
