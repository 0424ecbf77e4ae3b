"""Every test starts from the same seed; the engines under test are named in the header of the run."""

from __future__ import annotations

import os

# Poisoned memory: whatever an engine forgets to write shows up as NaN. Read once, when it first takes some.
os.environ.setdefault("NEXTSTATE_POISON", "1")

import pytest
import torch

from nextstate.run import ENGINES


def pytest_report_header() -> str:
    return f"nextstate engines: {', '.join(ENGINES)}"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(20)
