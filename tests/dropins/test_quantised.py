"""Cells with fewer bits in their weights: what rounding does, and streams that read as few bytes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import nextstate as ns
from catalogue import randomise_

engine = pytest.importorskip("nextstate._engine", reason="the compiled extension is not installed")

FORMATS = ("bfloat16", "int8")
ISAS = engine.info()["available"]
KINDS = {
    "GRU": lambda: ns.GRU(16, 32),
    "GRU, wide": lambda: ns.GRU(48, 112),
    "LSTM": lambda: ns.LSTM(32, 16),
    "Elman": lambda: ns.Elman(80, 48),
}


@pytest.fixture(params=ISAS)
def isa(request, monkeypatch) -> str:
    """Programs of the instruction set named, one after the other."""

    class Chosen:
        def __getattr__(self, name: str):
            return getattr(engine, name)

        def Program(self, spec, precision: str = "fp32"):
            return engine.Program(spec, request.param, precision)

    monkeypatch.setattr("nextstate.engines.binding._engine", Chosen())
    return request.param


def steps(session: ns.Session, us: Tensor) -> Tensor:
    return torch.stack([session.step(u) for u in us])


def scanned(cell: ns.Cell, us: Tensor) -> Tensor:
    return scanned_rows(cell, us[:, None])[:, 0]


def close(found: Tensor, expected: Tensor, limit: float) -> None:
    worst = float((found - expected).abs().max())
    assert worst <= limit, f"differs by {worst:.1e}"


@pytest.mark.parametrize("weights", FORMATS)
def test_matrices_are_rounded_and_nothing_else(weights: str) -> None:
    cell = randomise_(ns.GRU(5, 7))
    before = {name: x.clone() for name, x in cell.state_dict().items()}
    small = ns.Quantised(cell, weights)
    for name, x in small.cell.state_dict().items():
        assert torch.equal(cell.state_dict()[name], before[name])
        if x.dim() == 1:
            assert torch.equal(x, before[name])
        elif weights == "bfloat16":
            assert torch.equal(x, before[name].bfloat16().float())
        else:
            unit = before[name].abs().amax(1, keepdim=True) / 127
            close(x / unit, (x / unit).round(), 1e-4)
            assert ((x - before[name]).abs() <= unit / 2 * 1.001).all()
    assert not any(p.requires_grad for p in small.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_two_bytes_have_the_bits_of_a_scan(kind: str, isa: str) -> None:
    small, us = ns.Quantised(randomise_(KINDS[kind]()), "bfloat16"), torch.randn(12, 80)
    us = us[:, : next(small.parameters()).shape[1]].contiguous()
    session = ns.Session(small)
    assert torch.equal(steps(session, us), scanned(small, us))
    assert session._stepper.kept[0].precision == "weights16"


@pytest.mark.parametrize("kind", KINDS)
def test_one_byte_is_near_a_scan(kind: str, isa: str) -> None:
    cell = KINDS[kind]()
    small, us = ns.Quantised(cell, "int8"), torch.randn(12, 80)
    us = us[:, : next(small.parameters()).shape[1]].contiguous()
    session = ns.Session(small)
    found = steps(session, us)
    assert session._stepper.kept[0].precision == "weights8"
    close(found, scanned(small, us), 1e-4)
    close(found, scanned(cell, us), 2e-2)
    with pytest.raises(AssertionError, match="differs by"):
        close(found, scanned(cell, us), 1e-4)  # the rounding is seen


@pytest.mark.parametrize("weights", FORMATS)
def test_another_weight_is_noticed(weights: str) -> None:
    small, us = ns.Quantised(randomise_(ns.GRU(16, 32)), weights), torch.randn(12, 16)
    found = steps(ns.Session(small), us)
    small.cell.weight_hh[3] *= 1.05
    with pytest.raises(AssertionError, match="differs by"):
        close(found, scanned(small, us), 1e-4)


def test_sums_of_many_products_do_not_overflow(isa: str) -> None:
    """Every product the largest there is, 1040 of them."""
    cell = ns.Elman(16, 1040, activation=torch.relu)
    with torch.no_grad():
        for x in cell.parameters():
            x.fill_(0.001 if x.dim() > 1 else 0.0)
    session = ns.Session(ns.Quantised(cell, "int8"))
    session.state = torch.ones(1, 1040)
    close(session.step(torch.ones(16)), torch.full((1040,), 1.056), 1e-3)


@pytest.mark.parametrize("weights", FORMATS)
def test_chunks_and_rows_have_the_bits_of_steps_alone(weights: str, isa: str) -> None:
    small, us = ns.Quantised(randomise_(ns.GRU(16, 32)), weights), torch.randn(9, 7, 16)
    together = ns.Session(small, batch_size=7)
    found = torch.cat([together.feed(us[:4]), together.step(us[4])[None], together.feed(us[5:])])
    for row in (0, 6):
        assert torch.equal(steps(ns.Session(small), us[:, row]), found[:, row])


@pytest.mark.parametrize("weights", FORMATS)
def test_what_is_no_number_is_seen(weights: str, isa: str) -> None:
    session = ns.Session(ns.Quantised(ns.GRU(16, 32), weights))
    u = torch.zeros(16)
    assert session.step(u).isfinite().all()
    u[5] = torch.nan
    assert session.step(u).isnan().all()


def test_a_row_of_zeros_stays_one() -> None:
    cell = randomise_(ns.GRU(16, 32))
    with torch.no_grad():
        cell.weight_hh[5] = 0
    small = ns.Quantised(cell, "int8")
    us = torch.randn(6, 3, 16)
    assert torch.isfinite(ns.scan(small, us)[0]).all()
    assert torch.isfinite(steps(ns.Session(small, batch_size=3), us)).all()


def test_states_pass_between_a_cell_and_its_small_form() -> None:
    cell, us = randomise_(ns.GRU(16, 32)), torch.randn(5, 16)
    whole, small = ns.Session(cell), ns.Session(ns.Quantised(cell, "int8"))
    whole.feed(us)
    small.restore(whole.save())
    assert torch.equal(small.state, whole.state)
    whole.restore(small.save())


def test_many_streams_of_a_small_cell() -> None:
    """They keep float32, where a session keeps one byte; widths that are no multiple of 16."""
    small = ns.Quantised(randomise_(ns.LayerNormGRU(5, 7)), "int8")
    us, streams = torch.randn(6, 3, 5), ns.Streams(small)
    ids = streams.open(3)
    found = torch.stack([streams.step(ids, u) for u in us])
    close(found, scanned_rows(small, us), 1e-6)
    session = ns.Session(small)
    close(found[:, 1], steps(session, us[:, 1]), 1e-4)
    assert session._stepper.kept[0].precision == "weights8"


def scanned_rows(cell: ns.Cell, us: Tensor) -> Tensor:
    with torch.no_grad():
        return ns.scan(cell, us)[0]


def test_a_session_made_in_inference_mode_is_as_fast() -> None:
    with torch.inference_mode():
        session = ns.Session(ns.GRU(16, 32))
        session.step(torch.randn(16))
    assert session._stepper is not None


@pytest.mark.parametrize("weights", ["int4", "float16", None])
def test_other_formats_are_refused(weights) -> None:
    with pytest.raises(ns.InputError, match="expected one of bfloat16, int8"):
        ns.Quantised(ns.GRU(3, 4), weights)


@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is deprecated")
@pytest.mark.parametrize(
    ("remake", "words"),
    [
        (nn.utils.weight_norm, r"remove_weight_norm"),
        (nn.utils.spectral_norm, r"remove_spectral_norm"),
        (lambda cell, name: prune.l1_unstructured(cell, name, 0.5), r"prune\.remove"),
        (nn.utils.parametrizations.weight_norm, r"parametrize\.remove_parametrizations"),
    ],
)
def test_weights_that_are_computed_are_not_rounded(remake, words: str) -> None:
    cell = ns.GRU(8, 6)
    remake(cell, "weight_ih")
    with pytest.raises(ns.InputError, match=r"^Quantised: cells\.1\.weight_ih is computed anew.*" + words):
        ns.Quantised(ns.Stacked(ns.GRU(4, 8), cell), "int8")
