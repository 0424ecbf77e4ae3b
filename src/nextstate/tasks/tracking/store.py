"""Scored posts in an embedded database: each once, whatever happens on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from nextstate.checks import InputError, refuse
from nextstate.tasks.tracking.index import Day, Report, report_of
from nextstate.writing import folder_of

TABLES = """
CREATE TABLE IF NOT EXISTS about (key VARCHAR PRIMARY KEY, value VARCHAR NOT NULL);
CREATE TABLE IF NOT EXISTS posts (
    id VARCHAR PRIMARY KEY,
    topic VARCHAR NOT NULL,
    created TIMESTAMP NOT NULL,
    text VARCHAR NOT NULL,
    label VARCHAR NOT NULL,
    score DOUBLE NOT NULL,
    probability DOUBLE NOT NULL
);
"""
FORMAT = "nextstate-track-1"


class Post(NamedTuple):
    """A post before it is scored: a moment in UTC."""

    topic: str
    created: datetime
    text: str

    @property
    def id(self) -> str:
        """The same for the same topic, moment and text, and for nothing else."""
        parts = (self.topic, self.created.isoformat(), self.text)
        joined = b"".join(
            len(part).to_bytes(8, "little") + part
            for part in (part.encode("utf-8", "surrogatepass") for part in parts)
        )
        return hashlib.sha256(joined).hexdigest()[:32]


class Scored(NamedTuple):
    """What a model says of a post."""

    label: str
    score: float
    probability: float


class Store:
    """A file of tracked posts, open for adding: `with Store(path, model=...) as store`.

    `model` identifies the model whose scores are kept; a file has those of one model only, for an index
    made by two would change with the model. Additions are transactions: a process killed in one leaves the
    file as it was before it.

    Raises InputError for a file that is no such database, is in use, or has another model's scores.
    """

    def __init__(self, path: Path | str, model: str) -> None:
        self.path = Path(path)
        folder_of("buzz track", self.path.parent)
        self.connection = _connect("buzz track", self.path, read_only=False)
        try:
            with self._transaction():
                self.connection.execute(TABLES)
                found = dict(self.connection.execute("SELECT key, value FROM about").fetchall())
                if not found:
                    rows = [("format", FORMAT), ("model", model)]
                    self.connection.executemany("INSERT INTO about VALUES (?, ?)", rows)
            if found and found.get("format") != FORMAT:
                refuse("buzz track", f"{path} is not a file of tracked posts")
            if found and found["model"] != model:
                models = f"{found['model']}, not {model}"
                refuse("buzz track", f"{path} has another model's scores ({models}); name another file")
        except BaseException:
            self.connection.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()

    def missing(self, posts: Iterable[Post]) -> list[Post]:
        """The posts that the file has not, each once, in order."""
        by_id = {post.id: post for post in posts}
        if not by_id:
            return []
        found = self.connection.execute(
            "SELECT id FROM posts WHERE id IN (SELECT unnest(?))", [list(by_id)]
        ).fetchall()
        have = {id for (id,) in found}
        return [post for id, post in by_id.items() if id not in have]

    def add(self, posts: Sequence[Post], scores: Sequence[Scored]) -> int:
        """Add scored posts, all or none of them; those the file has are left. Returns how many are new."""
        if not posts:
            return 0
        before = self.count()
        columns = list(
            zip(
                *(
                    (post.id, post.topic, post.created.replace(tzinfo=None), _text(post.text), *score)
                    for post, score in zip(posts, scores, strict=True)
                ),
                strict=True,
            )
        )
        with self._transaction():
            self.connection.execute(
                "INSERT INTO posts SELECT unnest(?), unnest(?), unnest(?), unnest(?), unnest(?), unnest(?), "
                "unnest(?) ON CONFLICT DO NOTHING",
                [list(column) for column in columns],
            )
        return self.count() - before

    def count(self) -> int:
        [[count]] = self.connection.execute("SELECT count(*) FROM posts").fetchall()
        return int(count)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self.connection.execute("BEGIN")
        try:
            yield
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")


def read_report(path: Path | str, topics: Sequence[str] = ()) -> Report:
    """The report of a file of tracked posts, of `topics` alone if some are named.

    Raises InputError for a file that is not there, is in use, or holds no tracked posts.
    """
    if not Path(path).exists():
        refuse("buzz report", f"there is no file {path}; `nextstate buzz track` makes one")
    connection = _connect("buzz report", Path(path), read_only=True)
    try:
        rows = connection.execute(
            "SELECT topic, CAST(created AS DATE) AS day, count(*), sum(score), sum(score * score) "
            "FROM posts GROUP BY topic, day ORDER BY topic, day"
        ).fetchall()
    except _errors() as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"buzz report: {path} is not a file of tracked posts: {reason}") from error
    finally:
        connection.close()
    known = sorted({topic for topic, *_ in rows})
    for topic in topics:
        if topic not in known:
            refuse(
                "buzz report", f"there are no posts on {topic!r}; topics are {', '.join(map(repr, known))}"
            )
    return report_of(Day(*row) for row in rows if not topics or row[0] in topics)


def _text(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _connect(operation: str, path: Path, *, read_only: bool) -> Any:
    """DuckDB on a file and on nothing else: given a table, or `:memory:`, it would keep posts nowhere."""
    try:
        import duckdb
    except ImportError as error:
        raise InputError(f"{operation}: it needs DuckDB: pip install 'nextstate[track]'") from error
    try:
        connection = duckdb.connect(str(path.absolute()), read_only=read_only)
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        if "lock" in reason.lower():
            reason = "another process is using it; try again when it has finished"
        raise InputError(f"{operation}: cannot open {path}: {reason}") from error
    [[where]] = connection.execute(
        "SELECT path FROM duckdb_databases() WHERE database_name = current_database()"
    ).fetchall()
    if where is None:
        connection.close()
        refuse(operation, f"cannot open {path}: it is no file of tracked posts; name another one")
    return connection


def _errors() -> type[Exception]:
    import duckdb

    return duckdb.Error
