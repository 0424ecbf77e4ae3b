"""The pages say what is so: every example runs, every yes of the feature table names a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FEATURES = (ROOT / "docs" / "features.md").read_text()
ROW = re.compile(r"^\| (\d+) \|.*\| (Y|P) \| ([^|]*) \|$", re.MULTILINE)
"""Number, our column (the last but one) and what holds it."""
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def blocks(text: str) -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


@pytest.mark.filterwarnings("ignore::nextstate.FallbackWarning")
def test_the_examples_run() -> None:
    program = blocks((ROOT / "docs" / "coming-from.md").read_text())
    assert program.count("\n") > 50
    exec(compile(program, "docs/coming-from.md", "exec"), {})


def absent(reference: tuple[str, str]) -> bool:
    path, name = ROOT / reference[0], reference[1]
    if not path.exists():
        return True
    tree = ast.parse(path.read_text())
    return bool(name) and name not in {x.name for x in tree.body if isinstance(x, ast.FunctionDef)}


def test_every_yes_names_a_test() -> None:
    rows = ROW.findall(FEATURES)
    assert len(rows) > 25
    for number, _, evidence in rows:
        named = NAMED.findall(evidence)
        assert named, f"row {number} names no test"
        assert not [reference for reference in named if absent(reference)], f"row {number}"


def test_a_missing_test_is_seen() -> None:
    assert absent(("tests/test_laws.py", "test_that_nobody_wrote"))
    assert absent(("tests/nowhere.py", ""))
    assert not absent(("tests/dropins/test_docs.py", "test_every_yes_names_a_test"))
