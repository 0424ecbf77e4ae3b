"""Files scored: every row comes out with its answer, in order; many files here or on Ray's workers."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from nextstate.buzzometer import SHIPPED, Buzzometer
from nextstate.checks import InputError, refuse
from nextstate.tasks.buzz.scored import output_names, with_answer, writing
from nextstate.tasks.buzz.tables import Row, format_of, read_table

AT_ONCE = 1024
"""Rows scored together."""


class Done(NamedTuple):
    """A file that was scored: how many rows, how many of them had no text; or why it was not."""

    source: str
    rows: int
    unread: int
    problem: str = ""


def answered(buzzometer: Buzzometer, rows: Sequence[Row], renamed: dict[str, str]) -> list[dict[str, Any]]:
    """Rows as they are written: their fields and their answers, empty ones for rows without a text."""
    answers = iter(buzzometer.score([row.text for row in rows if row.text is not None]))
    written = []
    for row in rows:
        added: tuple[Any, ...] = (None, None, None)
        if row.text is not None:
            answer = next(answers)
            added = (answer.label, answer.score, answer.probability)
        written.append(with_answer(row.fields, renamed, added))
    return written


def score_file(
    buzzometer: Buzzometer, source: Path, target: Path, column: str | None = None, format: str | None = None
) -> Done:
    """Score a table into another, in memory that does not grow with it; `target` appears when it is whole.

    `format` is that of both, where their endings do not say it.

    Raises InputError for a file or a column that is not there, and for a file that is damaged.
    """
    table = read_table(source, column, format=format)
    renamed = output_names(table.names)
    count = unread = 0
    with writing(target, table, _written(target, format)) as writer:
        while rows := list(islice(table.rows, AT_ONCE)):
            writer.write(answered(buzzometer, rows, renamed))
            count += len(rows)
            unread += sum(row.text is None for row in rows)
    return Done(str(source), count, unread)


def pairs_of(pattern: str, out: Path, format: str | None = None) -> list[tuple[Path, Path]]:
    """The files that a pattern names, each with the file in the folder `out` that its rows are written to.

    Raises InputError if there are none, or two that would be written to one.
    """
    files = [Path(name) for name in sorted(glob(pattern, recursive=True)) if Path(name).is_file()]
    if not files:
        refuse("buzz", f"no file is called {pattern}")
    source_of: dict[Path, Path] = {}
    for file in files:
        format_of(file, format)
        target = out / file.name.removesuffix(".gz")
        if target in source_of:
            both = f"{source_of[target]} and {file}"
            refuse("buzz", f"{both} would both be written to {target}; score them into two folders")
        source_of[target] = file
    return [(file, target) for target, file in source_of.items()]


def score_here(
    pairs: Iterable[tuple[Path, Path]],
    model: Path | None = None,
    column: str | None = None,
    format: str | None = None,
) -> Iterator[Done]:
    """Score files one after the other in this process; what one of them is refused for stops no other."""
    buzzometer = Buzzometer.load(model)
    for source, target in pairs:
        yield _tried(buzzometer, source, target, column, format)


def score_on_ray(
    pairs: Sequence[tuple[Path, Path]],
    model: Path | None = None,
    column: str | None = None,
    workers: int | None = None,
    format: str | None = None,
) -> Iterator[Done]:
    """Score files on the workers of Ray Data, as many at a time as there are (default: cores).

    A file is the unit of work: the one of a worker that dies is scored again by another, whole, and takes
    its name only then, so no row is lost and none is there twice. Files and folders have to be where every
    machine reaches them; the model travels. Ray is joined where RAY_ADDRESS says, or started here. Files are
    written in a folder of this run beside the first target, so that what workers that died leave behind is
    known from what other runs are writing.

    Raises InputError if Ray is not installed or the model cannot be read.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError(f"buzz: --engine ray: {error}; it needs pip install 'nextstate[ray]'") from error
    Buzzometer.load(model)  # refused here in one line, on a worker in a traceback of Ray's
    started = not ray.is_initialized()
    if started:
        there = "RAY_ADDRESS" in os.environ
        local: dict[str, Any] = (
            {} if there else {"num_cpus": workers or os.cpu_count(), "include_dashboard": False}
        )
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        weights = ray.put((model or SHIPPED).read_bytes())
        items = [
            {"source": str(source.resolve()), "target": str(target.resolve())} for source, target in pairs
        ]
        most = max(1, min(len(items), workers or int(ray.cluster_resources().get("CPU", 1))))
        beside = Path(items[0]["target"]).parent
        beside.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=".writing-", dir=beside, ignore_cleanup_errors=True
        ) as folder:
            dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
                _Worker,
                batch_size=1,
                concurrency=(1, most),
                fn_constructor_args=(weights, folder, column, format),
                num_cpus=1,
            )
            for row in dataset.iter_rows():
                yield Done(row["source"], int(row["rows"]), int(row["unread"]), row["problem"])
    finally:
        if started:
            ray.shutdown()


class _Worker:
    """What a worker keeps between files: the model."""

    def __init__(self, weights: Any, folder: str, column: str | None, format: str | None) -> None:
        import ray
        import torch

        from nextstate.engines.threads import set_threads

        torch.set_num_threads(1)
        set_threads(1)  # a worker is one core
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            file.write(ray.get(weights))
            file.flush()
            self.buzzometer = Buzzometer.load(Path(file.name))
        self.folder, self.column, self.format = Path(folder), column, format

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        names = zip(batch["source"].tolist(), batch["target"].tolist(), strict=True)
        done = [self._score(Path(source), Path(target)) for source, target in names]
        return {field: [getattr(one, field) for one in done] for field in Done._fields}

    def _score(self, source: Path, target: Path) -> Done:
        aside = self.folder / target.name
        done = _tried(self.buzzometer, source, aside, self.column, self.format)
        if not done.problem:
            os.replace(aside, target)
        return done


def _tried(
    buzzometer: Buzzometer, source: Path, target: Path, column: str | None, format: str | None
) -> Done:
    try:
        return score_file(buzzometer, source, target, column, format)
    except InputError as error:
        return Done(str(source), 0, 0, str(error))


def _written(target: Path, format: str | None) -> str:
    """The format of a file that is written; plain lines get columns, so they become TSV."""
    kind = format_of(target, format)
    return "tsv" if kind == "lines" else kind
