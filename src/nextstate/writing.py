"""Files that are there whole or not at all, and the folders they go to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nextstate.checks import refuse


@contextmanager
def whole(operation: str, path: str | Path) -> Iterator[Path]:
    """A name to write a file under; it gets its own name once all is written, and is gone if that fails.

    whole : (operation, path) -> a path beside it, `.writing-<process>-<name>`

    Raises InputError where no file can be: there is no such folder, a folder has that name, or nothing can be
    made there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with whole("save", Path(folder) / "word.txt") as aside:
    ...         _ = aside.write_text("0110")
    ...     print([path.name for path in Path(folder).iterdir()])
    ['word.txt']
    """
    path = Path(path)
    if not path.parent.is_dir() or path.is_dir():
        there = "a folder has that name" if path.is_dir() else f"there is no folder {path.parent}"
        refuse(operation, f"{path} cannot be written: {there}")
    aside = path.with_name(f".writing-{os.getpid()}-{path.name}")
    try:
        aside.touch()
    except OSError as error:
        refuse(operation, f"{path} cannot be written: {error.strerror}")
    try:
        yield aside
        try:
            os.replace(aside, path)
        except OSError as error:
            refuse(operation, f"{path} cannot be written: {error.strerror}")
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def together(*paths: Path) -> Iterator[None]:
    """While files are written that are nothing without each other: if that fails, no new one is left.

    together : paths -> a block; a file that had one of these names before is not taken away
    """
    new = [path for path in paths if not os.path.lexists(path)]
    try:
        yield
    except BaseException:
        for path in new:
            path.unlink(missing_ok=True)
        raise


def folder_of(operation: str, path: Path) -> Path:
    """A folder to write into, made if it is not there.

    Raises InputError where none can be: a file, of that name or on the way to it, or no right to make one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as here:
    ...     folder_of("train", Path(here) / "runs" / "first").is_dir()
    True
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        stands = next(place for place in (path, *path.parents) if place.exists())
        refuse(operation, f"{stands} is a file; name a folder to write into")
    except OSError as error:
        refuse(operation, f"{path} cannot be a folder to write into: {error.strerror}; name another one")
    return path


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with whole("write", path) as aside:
        aside.write_text(text, encoding="utf-8")
