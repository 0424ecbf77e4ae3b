"""The page on machines says what happens."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from typer.testing import CliRunner

from nextstate.cli.machine import machine

PAGE = Path(__file__).parents[2] / "docs" / "machines.md"


def test_the_page_runs() -> None:
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted > 30
    assert result.failed == 0


def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    """Those that train are run by the tests of the circle and of the tasks."""
    lines = re.findall(r"^    nextstate machine (.*)$", PAGE.read_text(), re.MULTILINE)
    commands = [re.split(r"\s{2,}", line)[0].replace("[", "").replace("]", "") for line in lines]
    assert {command.split()[0] for command in commands} == {
        "show", "run", "compile", "extract", "circle", "tasks",
    }  # fmt: skip
    for command in commands:
        if command.split()[0] in ("circle", "tasks"):
            continue
        words = [str(tmp_path / word) if "." in word else word for word in command.split()]
        result = CliRunner().invoke(machine, ["parity" if word == "FILE" else word for word in words])
        assert result.exit_code == 0, (command, result.output, result.exception)
