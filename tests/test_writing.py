"""A file is there whole or not at all, and what was there before stays until then."""

import pytest

from nextstate.checks import InputError
from nextstate.writing import folder_of, whole, write_text


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "model"
    write_text(path, "old")
    with whole("save", path) as aside:
        aside.write_text("n")
        assert path.read_text() == "old"
        aside.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def half(path):
    with whole("save", path) as aside:
        aside.write_text("half")
        raise LookupError


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model"
    write_text(path, "old")
    with pytest.raises(LookupError):
        half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_where_no_file_can_be(tmp_path):
    for path, reason in (
        (tmp_path / "none" / "x", "there is no folder"),
        (tmp_path, "a folder has that name"),
    ):
        with pytest.raises(InputError, match=rf"^save: .*{reason}"), whole("save", path):
            raise AssertionError("not reached")


def test_where_nothing_can_be_made(tmp_path):
    """The name is fine, but too long with what marks it as unfinished."""
    path = tmp_path / ("x" * 250)
    with (
        pytest.raises(InputError, match=r"^save: .* cannot be written: File name too long"),
        whole("save", path),
    ):
        raise AssertionError("not reached")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_made_or_refused(tmp_path):
    assert folder_of("train", tmp_path / "a" / "b").is_dir()
    write_text(tmp_path / "file", "")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"^train: .*/file is a file; name a folder to write into"):
            folder_of("train", path)
