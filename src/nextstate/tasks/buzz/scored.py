"""Scored rows written as CSV, TSV, JSON lines or Parquet; a file appears when it is whole."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

from nextstate.checks import refuse
from nextstate.tasks.buzz.tables import Table, _arrow_parquet
from nextstate.writing import whole

ADDED = ("label", "score", "probability")
"""What is added to every row; empty where a row could not be read."""

SHADOW = re.compile(rf"(input_)*({'|'.join(ADDED)})")
"""Names that may clash with those added, or with what such a name was changed to."""

SURROGATE = re.compile("[\ud800-\udfff]")
"""Halves of characters, which JSON may hold alone and UTF-8 may not."""


class Writer(Protocol):
    left_out: int
    """Fields that are not written, since the first rows do not name them."""

    def write(self, rows: Sequence[dict[str, Any]]) -> None: ...

    def close(self) -> None: ...


def output_names(names: Sequence[str], taken: Collection[str] = ()) -> dict[str, str]:
    """What the columns read are called beside those added: "label" becomes "input_label", and so on.

    None gets a name that is `taken`.

    >>> output_names(["text", "label"])
    {'text': 'text', 'label': 'input_label'}
    """
    used, renamed = {*taken, *ADDED}, {}
    for name in dict.fromkeys(names):
        new = name
        while new in used or (new != name and new in names):
            new = f"input_{new}"
        renamed[name] = new
        used.add(new)
    return renamed


def with_answer(fields: dict[str, Any], renamed: dict[str, str], answer: Sequence[Any]) -> dict[str, Any]:
    """A row as it is written: its own fields, then label, score and probability.

    Names that the first row does not have and that could clash are added to `renamed`, so that one name is
    called the same in all rows.

    >>> with_answer({"label": 1, "input_label": 2}, {"input_label": "input_label"}, ("good", 0.5, 0.9))
    {'input_input_label': 1, 'input_label': 2, 'label': 'good', 'score': 0.5, 'probability': 0.9}
    """
    new = [name for name in fields if name not in renamed and SHADOW.fullmatch(name)]
    if new:
        renamed.update(output_names(new, renamed.values()))
    kept = {renamed.get(name, name): value for name, value in fields.items()}
    return kept | dict(zip(ADDED, answer, strict=True))


class Separated:
    """CSV or TSV. Fields that the first row's table does not name are left out and counted."""

    def __init__(self, stream: TextIO, names: Sequence[str], mark: str) -> None:
        self.stream, self.names, self.left_out = stream, [*names, *ADDED], 0
        self.known = frozenset(self.names)
        self.mark = mark
        self._put([self.names])

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        self.left_out += sum(len(row.keys() - self.known) for row in rows)
        self._put([_cell(name, row.get(name)) for name in self.names] for row in rows)
        self.stream.flush()

    def _put(self, rows: Iterable[Sequence[Any]]) -> None:
        lines = io.StringIO(newline="")
        csv.writer(lines, delimiter=self.mark, lineterminator="\n").writerows(rows)
        text, encoding = lines.getvalue(), _encoding(self.stream)
        if not _fits(text, encoding):
            text = whole_characters(text).encode(encoding, "replace").decode(encoding)
        self.stream.write(text)

    def close(self) -> None:
        pass


def _cell(name: str, value: Any) -> Any:
    if isinstance(value, float) and name in ADDED:  # the other numbers are not ours to round
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list) else value


class JsonLines:
    """JSON lines keep every field, and what cannot be encoded as escapes."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.left_out = stream, 0

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            self.stream.write(json_line(row, self.stream))
        self.stream.flush()

    def close(self) -> None:
        pass


def json_line(row: dict[str, Any], stream: TextIO) -> str:
    """A row as a line for a stream: as it is, or in ASCII where the stream's encoding has no place for it.

    >>> json_line({"text": "é \\ud83d"}, io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    '{"text": "\\\\u00e9 \\\\ud83d"}\\n'
    """
    text = json.dumps(row, ensure_ascii=False, default=str)
    return (text if _fits(text, _encoding(stream)) else json.dumps(row, default=str)) + "\n"


def _encoding(stream: TextIO) -> str:
    return stream.encoding or "utf-8"  # None of a stream in memory


def _fits(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def whole_characters(text: str) -> str:
    """A text that every encoding of Unicode has a place for: halves of characters are replaced."""
    return SURROGATE.sub("\ufffd", text)


class Parquet:
    """Columns keep the types of a Parquet file that was read; those of other formats are text."""

    def __init__(self, path: Path, table: Table, renamed: dict[str, str]) -> None:
        parquet = _arrow_parquet()
        import pyarrow as arrow

        self.arrow, self.typed, self.left_out = arrow, table.schema is not None, 0
        fields = [(whole_characters(renamed[name]), arrow.string()) for name in table.names]
        if self.typed:
            fields = [(renamed[f.name], f.type) for f in table.schema]
        added = [arrow.string(), arrow.float64(), arrow.float64()]
        self.schema = arrow.schema([*fields, *zip(ADDED, added, strict=True)])
        self.known = frozenset(self.schema.names)
        self.writer = parquet.ParquetWriter(path, self.schema)

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        if not self.typed:
            rows = [
                {whole_characters(k): v if k in ADDED else _text(v) for k, v in row.items()} for row in rows
            ]
            self.left_out += sum(len(row.keys() - self.known) for row in rows)
        self.writer.write_table(self.arrow.Table.from_pylist(list(rows), self.schema))

    def close(self) -> None:
        self.writer.close()


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return whole_characters(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def writer_to(stream: TextIO, table: Table, format: str) -> Writer:
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
        elif path.suffix == ".gz":
            with (
                aside.open("wb") as raw,
                gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,  # the same rows are the same bytes
                io.TextIOWrapper(packed, encoding="utf-8", newline="") as stream,
            ):
                yield writer_to(stream, table, format)
        else:
            with aside.open("w", encoding="utf-8", newline="") as stream:
                yield writer_to(stream, table, format)
