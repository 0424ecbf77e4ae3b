"""Rows of text from CSV, TSV, JSON lines, Parquet or plain lines: all are kept, bad ones with a reason."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import IO, Any, NoReturn

from nextstate.checks import InputError, refuse

FORMATS = ("csv", "tsv", "jsonl", "parquet", "lines")
SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "lines",
}
USUAL = ("text", "review", "tweet", "sentence", "comment", "content", "message", "body")
"""Names under which a column of texts is found without being named."""

UNREADABLE = (OSError, EOFError, zlib.error, csv.Error, ValueError)
"""What reading a damaged file may raise; pyarrow's own errors are OSErrors and ValueErrors."""

NOT_CLOSED = "a quotation mark opened in this row is never closed"

AHEAD = 1000
"""JSON lines that are read, at most, to find all columns that are wanted."""

csv.field_size_limit(sys.maxsize)


@dataclass(slots=True)
class Row:
    """One row as it was found: its number from 1, its fields, its text, and why it has none."""

    number: int
    fields: dict[str, Any]
    text: str | None
    problem: str = ""


@dataclass(slots=True)
class Table:
    """A table that is being read: `names` of its columns (empty: rows differ), the column of the text."""

    names: list[str]
    column: str
    rows: Iterator[Row]
    schema: Any = field(default=None)
    """Of a Parquet file, so that one that is written has the types of the one that was read."""


def format_of(path: Path | str, given: str | None = None) -> str:
    """The format of a file by its ending (`.gz` may follow), unless one is given; "lines" for "-".

    >>> format_of("reviews.csv.gz"), format_of("-"), format_of("x", "tsv")
    ('csv', 'lines', 'tsv')
    """
    if given is not None:
        if given not in FORMATS:
            refuse("table", f"no format is called {given!r}; there are {', '.join(FORMATS)}")
        return given
    path = Path(path)
    if str(path) == "-":
        return "lines"
    ending = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if ending.lower() not in SUFFIXES:
        refuse("table", f"{path}: its ending says no format; expected one of {', '.join(SUFFIXES)}")
    kind = SUFFIXES[ending.lower()]
    if kind == "parquet" and path.suffix == ".gz":
        refuse("table", f"{path}: Parquet is compressed within; expected {path.with_suffix('').name}")
    return kind


def read_table(
    path: Path | str, column: str | None = None, *, also: Sequence[str] = (), format: str | None = None
) -> Table:
    """Open a table, or standard input where `path` is "-"; rows are read as they are asked for.

    `column` names the texts; without it the only column is taken, or one with a usual name (`USUAL`). In a
    file of plain lines every line is a text. `also` names columns that must be there too. A row is a problem
    if it has too few or too many fields, opens a quotation mark that is never closed, is not a JSON object,
    or holds no text in its column. Files are UTF-8, or UTF-16 with its mark; other bytes become U+FFFD.

    Raises InputError if there is no such file or column; so do the rows where the file turns out damaged.
    """
    kind = format_of(path, format)
    table = _parquet(path, column, also) if kind == "parquet" else _text_table(path, kind, column, also)
    table.rows = _readable(table.rows, path)
    return table


def _text_table(path: Path | str, kind: str, column: str | None, also: Sequence[str]) -> Table:
    stream = _open(path)
    try:
        if kind == "lines":
            return Table(["text"], "text", _lines(stream))
        if kind == "jsonl":
            table = _json_lines(stream, path, column, also)
        else:
            table = _separated(stream, path, column, "," if kind == "csv" else "\t")
        for name in also:
            choose_column(table.names, name, path)
        return table
    except UNREADABLE as error:  # InputError is one of them
        stream.close()
        _unreadable(error, f"{path}")


def _readable(rows: Iterator[Row], path: Path | str) -> Iterator[Row]:
    """The rows up to where the file is damaged, then an InputError that says where."""
    last = 0
    try:
        for row in rows:
            yield row
            last = row.number
    except UNREADABLE as error:
        _unreadable(error, f"{path} beyond row {last}")


def _unreadable(error: Exception, place: str) -> NoReturn:
    if isinstance(error, InputError):
        raise error
    reason = " ".join(str(error).split()) or type(error).__name__  # pyarrow's span several lines
    raise InputError(f"table: cannot read {place}: {reason}; expected a whole file") from error


def arriving(rows: Iterator[Row], most: int) -> Iterator[list[Row]]:
    """The rows of a stream in groups: as many as have arrived, at most `most`, never waiting for more.

    >>> [len(group) for group in arriving(iter([Row(1, {}, "a")]), 8)]
    [1]
    """
    waiting: Queue[Row | BaseException | None] = Queue(4 * most)

    def read() -> None:
        try:
            for row in rows:
                waiting.put(row)
            waiting.put(None)
        except BaseException as error:  # raised again where the rows are wanted
            waiting.put(error)

    Thread(target=read, daemon=True).start()
    group: list[Row] = []
    while True:
        found = waiting.get()
        if isinstance(found, Row):
            group.append(found)
            if len(group) < most and not waiting.empty():
                continue
        if group:
            yield group
            group = []
        if found is None:
            return
        if isinstance(found, BaseException):
            raise found


def choose_column(names: Iterable[str], wanted: str | None, where: object) -> str:
    """The column of the texts.

    >>> choose_column(["id", "Review"], None, "x.csv")
    'Review'
    """
    names = list(names)
    listed = ", ".join(map(repr, names))
    if wanted is not None and wanted not in names:
        refuse("table", f"{where} has no column {wanted!r}; its columns are {listed}")
    usual = [name for known in USUAL for name in names if name.strip().lower() == known]
    if wanted is None and not usual and len(names) != 1:
        refuse("table", f"{where}: which column holds the text? its columns are {listed}")
    return wanted if wanted is not None else [*usual, *names][0]


def _open(path: Path | str) -> IO[str]:
    if str(path) == "-":
        if sys.stdin is None:
            refuse("table", "standard input is closed; name a file")
        return io.TextIOWrapper(_standard_input(), encoding="utf-8-sig", errors="replace", newline="")
    try:
        raw: Any = (gzip.open if str(path).endswith(".gz") else open)(path, "rb")
        raw.peek(1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"table: cannot read {path}: {error}") from error
    return io.TextIOWrapper(raw, encoding=_encoding(raw), errors="replace", newline="")


def _encoding(raw: Any) -> str:
    """UTF-16 where a file begins with its mark, as those of spreadsheets do; else UTF-8."""
    return "utf-16" if raw.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _standard_input() -> IO[bytes]:
    """Standard input with a buffer of its own: the interpreter closes that of `sys.stdin` as it ends, and
    aborts if a thread (`arriving`) still waits within it."""
    try:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    except OSError:  # no file at all: someone put a stream of their own in its place
        return sys.stdin.buffer


def _lines(stream: IO[str]) -> Iterator[Row]:
    with stream:
        for number, line in enumerate(stream, 1):
            text = line.rstrip("\r\n")
            yield Row(number, {"text": text}, text)


def _separated(stream: IO[str], path: Path | str, column: str | None, mark: str) -> Table:
    ended = False

    def lines() -> Iterator[str]:
        nonlocal ended
        yield from stream
        ended = True

    # The reader asks for a line beyond the last in mid-row only while a quotation mark is open.
    reader = csv.reader(lines(), delimiter=mark)
    names = next(reader, None)
    if names is None:
        refuse("table", f"{path} is empty; its first line should name the columns")
    if ended:
        refuse(
            "table", f"{path}: a quotation mark in its first line, the names of the columns, is never closed"
        )
    _check_distinct(names, path)
    column = choose_column(names, column, path)

    def rows() -> Iterator[Row]:
        with stream:
            for number, values in enumerate(reader, 1):
                problem = ""
                if len(values) != len(names):
                    problem = f"it has {len(values)} fields, the table {len(names)} columns"
                    values = [*values[: len(names) - 1], mark.join(values[len(names) - 1 :])]
                    values += [""] * (len(names) - len(values))
                problem = NOT_CLOSED if ended else problem
                fields = dict(zip(names, values, strict=True))
                yield Row(number, fields, None if problem else fields[column], problem)

    return Table(names, column, rows())


def _json_lines(stream: IO[str], path: Path | str, column: str | None, also: Sequence[str]) -> Table:
    """Its columns are those of the first objects, as many as it takes to find those that are wanted: for the
    texts the one named, else one with a usual name or the only one of the first object, if that is a text."""
    lines = enumerate((line for line in stream if line.strip()), 1)
    ahead: list[tuple[int, dict[str, Any] | str]] = []
    names: dict[str, bool] = {}  # whether its first value is a text
    for number, line in lines:
        found = _object(line)
        ahead.append((number, found))
        for name, value in found.items() if isinstance(found, dict) else ():
            names.setdefault(name, isinstance(value, str))
        usual = any(name.strip().lower() in USUAL for name in names) or list(names.values()) == [True]
        there = usual if column is None else column in names
        if (there and names.keys() >= {*also}) or number >= AHEAD:
            break
    if not names:
        refuse("table", f"{path} holds no JSON object with a field; expected one a line")
    where = path if number < AHEAD else f"{path}, as far as its first {AHEAD} lines say,"
    column = choose_column(names, column, where)

    def row(number: int, found: dict[str, Any] | str) -> Row:
        if isinstance(found, str):
            return Row(number, {column: found.rstrip("\r\n")}, None, "it is no JSON object")
        text = found.get(column)
        problem = "" if isinstance(text, str) else f"its {column!r} is {json.dumps(text)}, no text"
        return Row(number, found, text if isinstance(text, str) else None, problem)

    def rows() -> Iterator[Row]:
        with stream:
            for number, found in ahead:
                yield row(number, found)
            for number, line in lines:
                yield row(number, _object(line))

    return Table(list(names), column, rows())


def _object(line: str) -> dict[str, Any] | str:
    """A line as a JSON object, or as it is if it is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return line
    return found if isinstance(found, dict) else line


def _check_distinct(names: Sequence[str], path: Path | str) -> None:
    if len(set(names)) < len(names):
        refuse("table", f"{path}: two columns have one name: {', '.join(map(repr, names))}")


def _parquet(path: Path | str, column: str | None, also: Sequence[str]) -> Table:
    if str(path) == "-":
        refuse("table", "Parquet cannot be read from standard input; name a file")
    parquet = _arrow_parquet()
    try:
        file = parquet.ParquetFile(path)
    except UNREADABLE as error:
        raise InputError(f"table: cannot read {path}: {error}") from error
    _check_distinct(file.schema_arrow.names, path)
    column = choose_column(file.schema_arrow.names, column, path)
    for name in also:
        choose_column(file.schema_arrow.names, name, path)

    def rows() -> Iterator[Row]:
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for fields in batch.to_pylist():
                number += 1
                text = fields[column]
                problem = "" if isinstance(text, str) else f"its {column!r} is {text!r}, no text"
                yield Row(number, fields, text if isinstance(text, str) else None, problem)

    return Table(list(file.schema_arrow.names), column, rows(), file.schema_arrow)


def _arrow_parquet() -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise InputError("table: Parquet needs pyarrow: pip install 'nextstate[parquet]'") from error
    return parquet


def count_rows(path: Path | str, format: str | None = None) -> int | None:
    """About how many rows a file has, quickly; None where that is not known."""
    kind = format_of(path, format)
    if kind == "parquet":
        return int(_arrow_parquet().ParquetFile(path).metadata.num_rows)
    if str(path) == "-" or str(path).endswith(".gz") or not Path(path).is_file():
        return None  # to count the rows of a pipe would use them up
    with open(path, "rb") as file:
        return sum(part.count(b"\n") for part in iter(lambda: file.read(1 << 20), b""))
