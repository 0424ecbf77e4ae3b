"""`nextstate buzz`: what texts feel, from the command line, a file or standard input."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stdout, suppress
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from nextstate.checks import refuse
from nextstate.cli.buzz_report import report
from nextstate.cli.buzz_track import track
from nextstate.cli.rows_progress import counting
from nextstate.cli.visible import visible
from nextstate.writing import folder_of

if TYPE_CHECKING:  # imported when texts are scored: the other commands must answer at once
    from nextstate.buzzometer import Buzzometer, Explanation, Score
    from nextstate.tasks.buzz.tables import Row

DEFAULT = "score"
WORDS = 5


class Engine(StrEnum):
    here = "here"
    ray = "ray"


class ScoreByDefault(TyperGroup):
    """A group of commands whose first word may also be a text: then the command `score` is meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


buzz = typer.Typer(cls=ScoreByDefault, help="Sentiment of texts: label, score and calibrated probability.")

buzz.command("track")(track)
buzz.command("report")(report)


@buzz.command(DEFAULT)
def score(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; without any, stdin, one a line.")] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--file",
            metavar="<path>",
            help="CSV, TSV, JSONL, Parquet or text lines (also .gz); - is stdin; 'folder/*.csv' is many.",
        ),
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Column of the texts; found if its name is usual.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            show_default="stdout; of many files scored",
            help="File for rows and scores; its ending says the format; - is stdout. Of many: a folder.",
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="Of the input, if its name does not say: csv, tsv, jsonl, parquet, lines."),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="A model of your own.")] = None,
    words: Annotated[
        int | None,
        typer.Option(min=0, show_default=str(WORDS), help="Words to name that moved the score the most."),
    ] = None,
    engine: Annotated[Engine, typer.Option(help="Of many files: here, or on the workers of Ray.")] = (
        Engine.here
    ),
    workers: Annotated[int | None, typer.Option(min=1, help="Ray's at most; all cores without it.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="JSON objects, one a line.")] = False,
) -> None:
    """What texts feel: a label, a score from -1 to +1 and the probability that the label is right.

    nextstate buzz "what a film"

    nextstate buzz --file reviews.csv --column text --out scored.csv

    nextstate buzz --file 'folder/*.parquet' --engine ray --out scored

    A text that is itself the name of a sub-command, or begins with a dash, is written after --.
    """
    from nextstate.buzzometer import Buzzometer

    if files is not None and len(files) > 1:
        refuse(
            "buzz", f"--file is given {len(files)} times; give a pattern in quotation marks for many files"
        )
    file = files[0] if files else None
    if texts and file is not None:
        refuse("buzz", "give texts or --file, not both; a pattern of files stands in quotation marks")
    # os.path, since Path.exists raises for names that no file can have
    many = file is not None and not os.path.exists(file) and any(mark in str(file) for mark in "*?[")
    if engine is Engine.ray and not many:
        refuse("buzz", "--engine ray goes with many files: --file 'folder/*.parquet'")
    if workers is not None and engine is not Engine.ray:
        refuse("buzz", f"--workers {workers} goes with --engine ray and many files")
    if words is not None and not texts:
        refuse("buzz", f"--words {words} goes with texts given as arguments; rows get no words")
    if out == Path("-"):
        if many:
            refuse("buzz", f"--out is - and --file {file} names many files; name a folder for them")
        out = None
    if many:
        _score_many(str(file), out, column, format, model, engine, workers, json_output)
        return
    buzzometer = Buzzometer.load(model)
    if texts:
        if out is not None:
            refuse("buzz", "--out goes with --file or standard input")
        _show_texts(buzzometer, texts, WORDS if words is None else words, json_output)
    else:
        _score_table(buzzometer, file or Path("-"), column, out, format, json_output)


def _show_texts(buzzometer: Buzzometer, texts: list[str], words: int, json_output: bool) -> None:
    from nextstate.tasks.buzz.scored import json_line, whole_characters

    texts = [whole_characters(text) for text in texts]  # an argument may be bytes that are no UTF-8
    for text, answer in zip(texts, buzzometer.score(texts), strict=True):
        explanation = buzzometer.explain(text) if words else None
        if json_output:
            print(json_line(_as_json(text, answer, explanation), sys.stdout), end="")
        else:
            _print_answer(text, answer, explanation, words)


def _as_json(text: str, answer: Score, explanation: Explanation | None) -> dict[str, Any]:
    found = {"text": text, **answer._asdict()}
    if explanation is not None:
        found["words"] = [word._asdict() for word in explanation.words]
    return found


def _print_answer(text: str, answer: Score, explanation: Explanation | None, most: int) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    text = visible(text)
    colour = {"positive": "green", "negative": "red"}.get(answer.label, "yellow")
    line = Text(visible(answer.label), style=f"bold {colour}")
    if answer.score is not None:
        line.append(f"  score {answer.score:+.2f}", style=colour)
        place = round(10 * (answer.score + 1))
        line.append(f"  [{'-' * place}|{'-' * (20 - place)}]", style="dim")
    line.append(f"  probability {answer.probability:.2f}")
    console.print(line)
    if explanation is None or not explanation.words:
        return
    strongest = sorted(explanation.words, key=lambda word: -abs(word.contribution))[:most]
    largest = max(abs(strongest[0].contribution), 1e-9)
    if console.is_terminal and len(text) < 10_000:
        marked = Text(text)
        for word in explanation.words:
            if abs(word.contribution) > 0.15 * largest:
                marked.stylize("bold green" if word.contribution > 0 else "bold red", word.start, word.end)
        console.print(marked)
    told = "  ".join(f"{word.word} {word.contribution:+.2f}" for word in strongest)
    console.print(Text(visible(told)))


def _score_table(
    buzzometer: Buzzometer,
    file: Path,
    column: str | None,
    out: Path | None,
    format: str | None,
    json_output: bool,
) -> None:
    from nextstate.recipes.buzz_files import AT_ONCE, answered
    from nextstate.tasks.buzz.scored import output_names, writer_to, writing
    from nextstate.tasks.buzz.tables import arriving, format_of, read_table

    streaming = str(file) == "-"
    if streaming and sys.stdin is not None and sys.stdin.isatty():
        print("buzz: reading texts, a line each; end with Ctrl-D", file=sys.stderr)
    kind = format_of(file, format)
    if out is not None and (streaming or os.path.exists(file)):  # or reading it is refused
        _check_other(file, out)
        folder_of("buzz", out.parent)
    table = read_table(file, column, format=format)
    renamed = output_names(table.names)
    _tell_renamed(renamed)
    known = set(renamed)
    bad = odd = 0
    if out is None:
        chosen = "jsonl" if json_output else {"lines": "tsv", "parquet": "csv"}.get(kind, kind)
        place: Any = nullcontext(writer_to(sys.stdout, table, chosen))
    else:
        place = writing(out, table, "tsv" if format_of(out) == "lines" else format_of(out))
    with place as writer, counting("scoring", file, format, out is not None) as advance:
        for rows in arriving(table.rows, AT_ONCE) if streaming else _groups(table.rows, AT_ONCE):
            for row in rows:
                odd += any("\ufffd" in value for value in row.fields.values() if isinstance(value, str))
                if row.text is None:
                    bad += 1
                    print(f"buzz: row {row.number} is kept without a score: {row.problem}", file=sys.stderr)
            writer.write(answered(buzzometer, rows, renamed))
            advance(len(rows))
    if odd:
        reason = "is no UTF-8, shown as \ufffd; save the input as UTF-8 to have it read"
        print(f"buzz: in {odd} rows something {reason}", file=sys.stderr)
    if writer.left_out:
        reason = "since the first rows do not name them; a .jsonl output keeps them"
        print(f"buzz: {writer.left_out} fields of rows are not in the output, {reason}", file=sys.stderr)
    else:
        _tell_renamed({old: new for old, new in renamed.items() if old not in known})
    if out is not None:
        print(f"wrote {out}" + (f"; {bad} rows could not be read" if bad else ""), file=sys.stderr)


def _tell_renamed(renamed: dict[str, str]) -> None:
    for old, new in renamed.items():
        if old != new:
            print(f"buzz: the column {old!r} of the input is called {new!r} in the output", file=sys.stderr)


def _score_many(
    pattern: str,
    out: Path | None,
    column: str | None,
    format: str | None,
    model: Path | None,
    engine: Engine,
    workers: int | None,
    json_output: bool,
) -> None:
    """Every file of a pattern into a folder; one that is refused stops no other, but says so at the end."""
    from nextstate.recipes.buzz_files import pairs_of, score_here, score_on_ray

    out = Path("scored") if out is None else out
    pairs = pairs_of(pattern, out, format)
    for source, target in pairs:
        _check_other(source, target)
    folder_of("buzz", out)
    if engine is Engine.ray:
        scored = score_on_ray(pairs, model, column, workers, format)
    else:
        scored = score_here(pairs, model, column, format)
    refused = []
    results = sys.stdout
    with redirect_stdout(sys.stderr):  # Ray prints what happens to its workers
        for place, done in enumerate(scored, 1):
            if done.problem:
                refused.append(done)
            if json_output:
                print(json.dumps(done._asdict()), file=results, flush=True)
            else:
                told = done.problem or f"{done.rows} rows, {done.unread} without a text"
                print(f"{place} of {len(pairs)}: {done.source}: {told}")
    print(f"wrote {len(pairs) - len(refused)} files to {out}", file=sys.stderr)
    if refused:
        refuse("buzz", f"{len(refused)} of {len(pairs)} files are not scored; {refused[0].problem}")


def _check_other(source: Path, target: Path) -> None:
    """Raises InputError if what is written would take the place of what is read, by whatever name."""
    try:
        target.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        refuse("buzz", f"--out is {target}, which cannot be written: {error.strerror}; name another one")
    read = f"the input {source}" if str(source) != "-" else "what standard input reads"
    same = os.path.exists(source) and source.samefile(target)
    if str(source) == "-":
        with suppress(OSError, ValueError):  # standard input may be no file at all
            same = os.path.samestat(os.fstat(sys.stdin.fileno()), target.stat())
    if same:
        refuse("buzz", f"--out is {target}, the same file as {read}; name another one")


def _groups(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    while group := list(islice(rows, size)):
        yield group
