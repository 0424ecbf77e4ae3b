"""The shape of the package: imports point downward, public names are documented by a running example."""

from __future__ import annotations

import ast
import doctest
import inspect
from pathlib import Path

import pytest

import nextstate as ns

PACKAGE = Path(inspect.getfile(ns.Cell)).parent

RANKS = {
    **dict.fromkeys(("states", "checks", "writing", "lengths", "cell", "_engine"), 0),
    **dict.fromkeys(("cells", "combine", "init"), 1),
    **dict.fromkeys(("loops", "compiler", "engines"), 2),
    "run": 3,
    "explain": 4,
    **dict.fromkeys(("tasks", "training", "networks", "nn", "export", "machines"), 4),
    **dict.fromkeys(("saved_state", "checkpointing", "accelerate", "dynamics"), 4),
    **dict.fromkeys(("session", "streams", "recipes", "models", "buzzometer"), 5),
    **dict.fromkeys(("cli", "web", "__main__"), 6),
}
"""A room may import rooms of its own rank or below; the rank of a room is its place in the design."""

APART = (
    {"tasks", "training", "networks"},
    {"loops", "engines"},
    {"loops", "compiler"},
    {"cells", "combine"},
    {"cells", "init"},
)
"""Rooms of one rank that must not import each other; engines may import loops, combine and init cells."""
ALLOWED = {("engines", "loops"), ("compiler", "loops"), ("combine", "cells"), ("init", "cells")}

FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """The rooms a file imports anywhere in it; "nextstate" itself stands for everything public."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            first, *rest = name.split(".")
            if first == "nextstate":
                found.add(rest[0] if rest and rest[0] in RANKS else "nextstate")
    return found


def faults(room: str, imported: set[str]) -> list[str]:
    wrong = []
    for other in sorted(imported - {room}):
        rank = RANKS.get(other, 4)
        apart = any({room, other} <= pair for pair in APART) and (room, other) not in ALLOWED
        if rank > RANKS[room] or apart:
            wrong.append(f"{room} imports {other}")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward(path: Path) -> None:
    assert room_of(path) in RANKS or room_of(path).startswith("_"), "give the new room its rank"
    assert not faults(room_of(path), imports(path))


@pytest.mark.parametrize(
    ("room", "other"),
    [
        ("cells", "run"),
        ("loops", "engines"),
        ("tasks", "training"),
        ("run", "networks"),
        ("cells", "nextstate"),
        ("cells", "combine"),
    ],
)
def test_an_upward_import_is_seen(room: str, other: str) -> None:
    assert faults(room, {other})
    assert not faults("cli", {other})


def test_a_public_import_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("import nextstate as ns\ndef f():\n    from nextstate.run import scan\n")
    assert imports(file) == {"nextstate", "run"}


@pytest.mark.parametrize("name", ns.__all__)
def test_public_names_are_documented_by_a_running_example(name: str) -> None:
    thing = getattr(ns, name)
    if inspect.ismodule(thing):
        assert thing.__doc__
        return
    assert thing.__doc__, f"{name} has no docstring"
    assert doctest.DocTestParser().get_examples(thing.__doc__), f"{name} has no example"


def test_public_names_are_sorted_and_complete() -> None:
    assert len(set(ns.__all__)) == len(ns.__all__)
    assert all(hasattr(ns, name) for name in ns.__all__)
