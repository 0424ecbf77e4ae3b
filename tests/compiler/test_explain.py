"""ns.explain, the warning of a cell that falls back, and an installation without the extension."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
from torch import Tensor, nn

import nextstate as ns
from catalogue import ROWS, Row
from nextstate import run


class Three(ns.Cell):
    """A step with three operations that no engine has."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.r = nn.Linear(3, 5), nn.Linear(5, 5)

    def initial_state(self, batch_size: int, *, device=None, dtype=None) -> Tensor:
        return torch.zeros(batch_size, 5, device=device, dtype=dtype)

    def forward(self, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        x = self.a(u) + torch.cumsum(self.r(h), -1)
        x = x + torch.fft.rfft(x).abs().sum(-1, keepdim=True)
        x = torch.tanh(x) + 0.1 * torch.erfinv(0.1 * torch.tanh(h))
        return x, x


LINES = ("torch.cumsum(self.r(h), -1)", "torch.fft.rfft(x)", "torch.erfinv(")


@pytest.fixture(autouse=True)
def _forget_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_warned", set())


def test_every_reason_at_once_with_its_line() -> None:
    found = ns.explain(Three())
    assert found.engine == "reference"
    for text in (str(found), *(reason for reason in found.reasons if reason.startswith("cpu"))):
        for line in LINES:
            assert line in text
        assert "test_explain.py:" in text


def test_one_warning_and_the_right_result() -> None:
    cell, us = Three(), torch.randn(4, 2, 3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vs, _ = ns.scan(cell, us)
        ns.scan(cell, us)
        ns.fold(Three(), us)
    assert [warning.category for warning in caught] == [ns.FallbackWarning]
    assert all(line in str(caught[0].message) for line in LINES)
    assert torch.equal(vs, ns.scan(cell, us, engine="reference")[0])
    with pytest.raises(ns.EngineError, match="cumsum"):
        ns.scan(cell, us, engine="cpu")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_explained_with_and_without_an_example(row: Row) -> None:
    cell = row.cell(dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        example = ns.explain(cell, row.us(2, 3, dtype=torch.float32))
        guess = ns.explain(cell)
    assert example.engine == guess.engine == "cpu"
    assert "(assumed)" in str(guess)
    assert "(assumed)" not in str(example)
    assert not any("cpu" in reason for reason in example.reasons)


def test_the_parts_of_a_gru() -> None:
    said = str(ns.explain(ns.GRU(3, 5)))
    for part in (
        "GRU on (1, 2, 3) float32 (assumed): runs on the cpu engine",
        "pre0 [5] = u @ weight_ih[0:5, 0:3].T + bias_ih[0:5] + bias_hh[0:5]",
        "s @ weight_hh[0:5, 0:5].T",
        "Saved for the backward run: the states (5 floats a row and step)",
        "each step: 5 features, 3 products over 5",
    ):
        assert part in said


def test_ids_and_constants() -> None:
    said = str(ns.explain(ns.Embedded(ns.Dropped(ns.GRU(4, 5), state=0.2), 7, 4)))
    assert "looked up" in said
    assert "Constants of the sequence" in said


@pytest.mark.parametrize(
    ("dtype", "reason"), [(torch.float64, "cpu: a tensor is float64; the kernels are float32")]
)
def test_what_the_kernels_do_not_have_is_said(dtype: torch.dtype, reason: str) -> None:
    assert reason in ns.explain(ns.GRU(3, 5).to(dtype), torch.zeros(2, 1, 3, dtype=dtype)).reasons


def test_transforms_are_said() -> None:
    """Forward mode and vmap go to the reference engine, for a reason that explain gives."""
    cell, us, said = ns.GRU(3, 5), torch.zeros(2, 4, 1, 3), []

    def asked(us: Tensor) -> Tensor:
        said.extend(ns.explain(cell, us).reasons)
        return us

    torch.vmap(asked, in_dims=1)(us)
    assert any("torch.func transform" in reason for reason in said)


def test_what_cannot_be_guessed_is_refused() -> None:
    cell = ns.FunctionCell(lambda u, s: (u["x"], s), lambda b, **kw: torch.zeros(b, 1, **kw))
    with pytest.raises(ns.InputError, match=r"explain\(cell, us\)"):
        ns.explain(cell)


HIDDEN = """
import sys, warnings
sys.modules["nextstate._engine"] = None
import torch, nextstate as ns
us = torch.randn(3, 2, 4)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    cell = ns.GRU(4, 5)
    for _ in range(3):
        vs, _ = ns.scan(cell, us)
    ns.fold(cell, us)
assert [w.category for w in caught] == [ns.FallbackWarning], caught
assert "not installed" in str(caught[0].message), caught[0].message
assert torch.equal(vs, ns.scan(cell, us, engine="reference")[0])
vs.sum().backward()
assert cell.weight_hh.grad is not None
try:
    ns.scan(cell, us, engine="cpu")
except ns.EngineError as error:
    assert "not installed" in str(error)
else:
    raise AssertionError("an engine that is missing ran")
assert ns.explain(cell).engine == "reference"
assert "not installed" in str(ns.explain(cell))
print("fine")
"""


def test_without_the_extension_everything_runs_and_says_so_once() -> None:
    done = subprocess.run([sys.executable, "-c", HIDDEN], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "fine", done.stderr
