"""`nextstate buzz track`: scored posts added to a file, each once."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextstate.checks import refuse
from nextstate.cli.rows_progress import counting

if TYPE_CHECKING:
    from nextstate.tasks.buzz.tables import Row

AT_ONCE = 1024
"""Posts scored and added in one transaction."""


def track(
    db: Annotated[
        Path, typer.Option(help="The file that keeps the posts (DuckDB); made if it is not there.")
    ],
    file: Annotated[Path, typer.Option(help="Posts: CSV, TSV, JSONL or Parquet (also .gz).")],
    time: Annotated[str, typer.Option(help="Column of the time of each post.")],
    topic: Annotated[
        str | None, typer.Option(help="Column of the topic; without it all posts are on one.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Column of the texts; found if its name is usual.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="A model of your own.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object at the end.")] = False,
) -> None:
    """Score posts and keep them, to see how feelings change: nextstate buzz report shows it.

    The same post (topic, time and text) counts once, however often it is given; a run that was interrupted
    is completed by giving it again. Times are ISO 8601, Twitter's, RFC 2822, month/day/year,
    day.month.year, or seconds since 1970; those without a zone are UTC.
    """
    from nextstate.buzzometer import SHIPPED, Buzzometer
    from nextstate.tasks.buzz.tables import read_table
    from nextstate.tasks.tracking.store import Scored, Store

    table = read_table(file, column)
    for name in (time, topic):
        if name is not None and table.names and name not in table.names:
            refuse("buzz track", f"{file} has no column {name!r}; it has {', '.join(map(repr, table.names))}")
    buzzometer = Buzzometer.load(model)
    if not {"positive", "negative"} <= set(buzzometer.labels):
        refuse("buzz track", f"a model with labels {', '.join(buzzometer.labels)} has no score to track")
    fingerprint = hashlib.sha256((model or SHIPPED).read_bytes()).hexdigest()[:16]
    counts = {"rows": 0, "added": 0, "known": 0, "unread": 0}
    with Store(db, fingerprint) as store, counting("tracking", file) as advance:
        while rows := list(islice(table.rows, AT_ONCE)):
            posts = list(_posts(rows, time, topic, counts))
            new = store.missing(posts)
            answers = buzzometer.score([post.text for post in new]) if new else []
            store.add(new, [Scored(a.label, float(a.score or 0.0), a.probability) for a in answers])
            counts["rows"] += len(rows)
            counts["added"] += len(new)
            counts["known"] += len(posts) - len(new)
            advance(len(rows))
        total = store.count()
    if json_output:
        print(json.dumps(counts | {"total": total}))
    else:
        print(f"{counts['added']} posts added, {counts['known']} were known, {total} in {db}")
    if counts["unread"]:
        print(f"buzz track: {counts['unread']} rows without a text or a time are left out", file=sys.stderr)


def _posts(rows: list[Row], time: str, topic: str | None, counts: dict[str, int]) -> Iterator[Any]:
    from nextstate.tasks.tracking import Post, moment

    for row in rows:
        when = moment(row.fields.get(time))
        if row.text is None or when is None:
            counts["unread"] += 1
            if counts["unread"] <= 3:
                reason = row.problem or f"its time is {row.fields.get(time)!r}"
                print(f"buzz track: row {row.number} is left out: {reason}", file=sys.stderr)
            continue
        yield Post(_topic(row, topic), when, row.text)


def _topic(row: Row, column: str | None) -> str:
    """The topic of a post; the page names those without one the same way."""
    if column is None:
        return "all"
    value = row.fields.get(column)
    return "no topic" if value is None or value == "" else str(value)
