"""Parameter layouts do not change unnoticed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from catalogue import ROWS, Row

GOLDEN = Path(__file__).parent / "golden"
REGENERATE = "if the change is meant, run: python tests/golden/regenerate.py"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_layout(row: Row) -> None:
    golden = json.loads((GOLDEN / "parameters.json").read_text())
    layout = {name: list(x.shape) for name, x in row.make(3, 5).state_dict().items()}
    assert list(layout.items()) == list(golden.get(row.name, {}).items()), REGENERATE


def test_the_file_is_what_the_command_writes() -> None:
    spec = importlib.util.spec_from_file_location("regenerate", GOLDEN / "regenerate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.layouts() == json.loads((GOLDEN / "parameters.json").read_text()), REGENERATE
