"""What the README tells people to type works: its Python runs, its quick commands run, its targets exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nextstate.cli import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.split("  #")[0].strip()
    for language, block in BLOCKS
    if language == "sh"
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]
SLOW = re.compile(r"train|serve|experiment|book\.txt|posts\.csv")  # take minutes, or want a file of your own
QUICK = [command for command in COMMANDS if "nextstate" in command and not SLOW.search(command)]


def run(command: str) -> subprocess.CompletedProcess:
    """A shell line, with `nextstate` the one under test: in this process if the line is only that command."""
    program, *arguments = shlex.split(command)
    if program == "nextstate" and not {"|", "<", ">", "&&"} & {*arguments}:
        done = CliRunner().invoke(app, arguments)
        return subprocess.CompletedProcess(command, done.exit_code, done.stdout, done.stderr)
    line = re.sub(r"\bnextstate (?=[a-z])", f"{shlex.quote(sys.executable)} -m nextstate ", command)
    return subprocess.run(line, shell=True, capture_output=True, text=True, timeout=120, env={**os.environ})


@pytest.mark.parametrize("command", QUICK)
def test_quick_commands_run(command):
    done = run(command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_every_command_is_known():
    assert QUICK
    for command in COMMANDS:
        assert command.split()[0] in ("make", "nextstate", "printf", "seq", "pip", "git", "cd"), command
        if command.startswith("make"):
            target = command.split()[1]
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command


def test_slow_commands_are_understood():
    for command in COMMANDS:
        if command.startswith("nextstate") and SLOW.search(command):
            done = CliRunner().invoke(app, [*shlex.split(command)[1:], "--help"])
            assert done.exit_code == 0, done.output


@pytest.mark.parametrize("program", [block for language, block in BLOCKS if language == "python"])
def test_programs_run(program):
    exec(compile(program, "README.md", "exec"), {})


def test_the_tree_names_what_is_there():
    [tree] = [block for language, block in BLOCKS if language == "text"]
    paths, folders = [], []
    for line in tree.splitlines():
        name = line.split("  ")[0] if not line.startswith(" ") else line.strip().split("  ")[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders = [*folders[:depth], name]
        paths.append("".join(folders) if name.endswith("/") else "".join([*folders[:depth], name]))
    assert len(paths) > 10
    for path in paths:
        assert (ROOT / path).exists(), path
