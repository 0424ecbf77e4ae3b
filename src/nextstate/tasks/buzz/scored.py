"""Scored rows written as CSV, TSV, JSON lines or Parquet; a file appears when it is whole."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from nextstate.checks import refuse
from nextstate.tasks.buzz.tables import Table, _arrow_parquet
from nextstate.writing import whole

ADDED = ("label", "score", "probability")
"""What is added to every row; empty where a row could not be read."""


class Writer(Protocol):
    def write(self, rows: Sequence[dict[str, Any]]) -> None: ...

    def close(self) -> None: ...


def output_names(names: Sequence[str]) -> dict[str, str]:
    """What the columns read are called beside those added: "label" becomes "input_label", and so on.

    >>> output_names(["text", "label"])
    {'text': 'text', 'label': 'input_label'}
    """
    taken = {*names, *ADDED}
    renamed = {}
    for name in names:
        new = name
        while new in ADDED or (new != name and new in taken):
            new = f"input_{new}"
        renamed[name] = new
        taken.add(new)
    return renamed


def with_answer(fields: dict[str, Any], renamed: dict[str, str], answer: Sequence[Any]) -> dict[str, Any]:
    """A row as it is written: its own fields, then label, score and probability."""
    kept = {renamed.get(name) or output_names([name])[name]: value for name, value in fields.items()}
    return kept | dict(zip(ADDED, answer, strict=True))


class Separated:
    """CSV or TSV. Fields that the first row's table does not name are left out and counted."""

    def __init__(self, stream: IO[str], names: Sequence[str], mark: str) -> None:
        self.stream, self.names = stream, [*names, *ADDED]
        self.writer = csv.writer(stream, delimiter=mark, lineterminator="\n")
        self.writer.writerow(self.names)
        self.left_out = 0

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            self.left_out += len(row.keys() - set(self.names))
            self.writer.writerow([_cell(row.get(name)) for name in self.names])
        self.stream.flush()

    def close(self) -> None:
        pass


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


class JsonLines:
    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            self.stream.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        self.stream.flush()

    def close(self) -> None:
        pass


class Parquet:
    """Columns keep the types of a Parquet file that was read; those of other formats are text."""

    def __init__(self, path: Path, table: Table, renamed: dict[str, str]) -> None:
        parquet = _arrow_parquet()
        import pyarrow as arrow

        self.arrow, self.typed = arrow, table.schema is not None
        fields = [(renamed[name], arrow.string()) for name in table.names]
        if self.typed:
            fields = [(renamed[f.name], f.type) for f in table.schema]
        added = [arrow.string(), arrow.float64(), arrow.float64()]
        self.schema = arrow.schema([*fields, *zip(ADDED, added, strict=True)])
        self.writer = parquet.ParquetWriter(path, self.schema)

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        if not self.typed:
            rows = [{name: v if name in ADDED else _text(v) for name, v in row.items()} for row in rows]
        self.writer.write_table(self.arrow.Table.from_pylist(list(rows), self.schema))

    def close(self) -> None:
        self.writer.close()


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def writer_to(stream: IO[str], table: Table, format: str) -> Writer:
    """A writer of rows to a stream of text."""
    if format == "jsonl":
        return JsonLines(stream)
    if format == "parquet":
        refuse("table", "Parquet cannot be written to standard output; name a file with --out")
    return Separated(stream, list(output_names(table.names).values()), "," if format == "csv" else "\t")


@contextmanager
def writing(path: Path, table: Table, format: str) -> Iterator[Writer]:
    """A writer to a file that appears under its name when all rows are in it, and not before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole("table", path) as aside:
        if format == "parquet":
            writer: Writer = Parquet(aside, table, output_names(table.names))
            yield writer
            writer.close()
        else:
            with aside.open("w", encoding="utf-8", newline="") as stream:
                yield writer_to(stream, table, format)
