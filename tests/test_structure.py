"""The shape of the package: imports point downward, public names are documented by a running example."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

import nextstate as ns

PACKAGE = Path(inspect.getfile(ns.Cell)).parent

RANKS = {
    **dict.fromkeys(("states", "checks", "defaults", "writing", "lengths", "cell", "_engine"), 0),
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


BUILT_IN_PLACE = {"Builder", "Block", "Program"}
"""Of the compiler's dataclasses those that are written to while a graph or a program is made."""


def records(module: ModuleType) -> dict[str, bool]:
    """The dataclasses of a module, and whether each is frozen."""
    own = (x for x in vars(module).values() if is_dataclass(x) and x.__module__ == module.__name__)
    return {kind.__name__: kind.__dataclass_params__.frozen for kind in own}


@pytest.mark.parametrize("path", sorted((PACKAGE / "compiler").glob("*.py")), ids=lambda path: path.stem)
def test_the_compilers_records_are_frozen(path: Path) -> None:
    found = records(importlib.import_module(f"nextstate.compiler.{path.stem}"))
    assert not {name for name, frozen in found.items() if not frozen} - BUILT_IN_PLACE


def test_a_record_that_is_not_frozen_is_seen() -> None:
    assert records(importlib.import_module("nextstate.compiler.ir"))["Builder"] is False


@pytest.mark.parametrize("name", ns.__all__)
def test_public_names_are_documented_by_a_running_example(name: str) -> None:
    thing = getattr(ns, name)
    if inspect.ismodule(thing):
        assert thing.__doc__
        return
    assert thing.__doc__, f"{name} has no docstring"
    assert doctest.DocTestParser().get_examples(thing.__doc__), f"{name} has no example"


def undocumented(room: ModuleType) -> list[str]:
    """What a room offers without a docstring of its own; constants have none."""

    def told(name: str) -> bool:
        thing = getattr(room, name)
        kind = inspect.isclass(thing) or inspect.isroutine(thing) or inspect.ismodule(thing)
        doc = (
            (vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__) if kind else "constant"
        )
        return bool(doc) and not doc.startswith(f"{name}(")  # what Python writes for a record

    return [name for name in getattr(room, "__all__", ()) if not told(name)]


ROOMS = sorted(str(path.parent.relative_to(PACKAGE.parent)) for path in PACKAGE.rglob("__init__.py"))


@pytest.mark.parametrize("path", ROOMS)
def test_rooms_and_what_they_offer_are_documented(path: str) -> None:
    room = importlib.import_module(path.replace("/", "."))
    assert room.__doc__
    assert not undocumented(room)


def test_what_is_not_documented_is_seen() -> None:
    room = ModuleType("room")
    for name, thing in {
        "Told": ns.GRU, "Silent": type("Silent", (ns.GRU,), {}), "silent": lambda: 1,
        "Pair": NamedTuple("Pair", [("a", int)]),
    }.items():  # fmt: skip
        setattr(room, name, thing)
    room.__all__ = ["Told", "Silent", "silent", "Pair"]
    assert undocumented(room) == ["Silent", "silent", "Pair"]


def test_public_names_are_sorted_and_complete() -> None:
    assert len(set(ns.__all__)) == len(ns.__all__)
    assert all(hasattr(ns, name) for name in ns.__all__)
