"""Rows counted on a terminal."""

import io
import sys

from nextstate.cli.rows_progress import counting


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_rows_are_counted_from_the_first_one_on(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("text\n" + "good\n" * 7)
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with counting("scoring", tmp_path / "a.csv") as advance:
        advance(3)
        advance(4)
    assert "7 rows" in screen.getvalue()
    screen.truncate(0)
    with counting("scoring", tmp_path / "nothing.csv", shown=False) as advance:
        advance(3)
    assert not screen.getvalue().strip("\0")
