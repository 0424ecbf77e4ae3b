"""A text on disk, cut into training and validation part and into tokens, in memory of constant size."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nextstate.checks import refuse
from nextstate.tasks.text.sources import PIECE, at_line_ends, character_start
from nextstate.tasks.text.units import BPE, Bytes, Characters, Unit, count_characters, unit_from_json
from nextstate.writing import folder_of, whole, write_text

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Part:
    """Sizes of one part of a corpus."""

    bytes: int
    characters: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Corpus:
    """A text as ids in two files, which are mapped, not read.

    `training` and `validation` say how large the parts are; `digest` is the SHA-256 of the text.
    """

    folder: Path
    unit: Unit
    digest: str
    training: Part
    validation: Part

    def ids(self, part: str) -> np.ndarray:
        """The ids of "training" or "validation", uint8 or uint16, mapped from disk."""
        dtype = np.uint8 if self.unit.size <= 256 else np.uint16
        return np.memmap(self.folder / part, dtype, mode="r")

    def characters_per_token(self) -> float:
        return self.training.characters / self.training.tokens


def prepare_corpus(
    pieces: Iterable[bytes],
    folder: Path,
    *,
    unit: str = "auto",
    vocabulary: int = 4096,
    validation: float = 0.1,
) -> Corpus:
    """Write a text to `folder` as ids: the last share `validation` of its bytes for validation.

    prepare_corpus : [bytes] -> Corpus

    The cut falls between two characters. What the unit learns, alphabet or byte pairs, it learns on the
    training part alone. "auto" takes bytes, or characters if more than a tenth of the training bytes are
    not ASCII. The same text in the same folder is found there and not written again.

    Raises InputError for an empty text, one too short to cut, an unknown unit or a bad share.
    """
    if unit not in ("auto", "bytes", "characters", "bpe"):
        refuse("text", f"unit is {unit!r}; expected auto, bytes, characters or bpe")
    if not 0 < validation < 1:
        refuse("text", f"validation is {validation}; it is a share of the text, 0 < validation < 1")
    raw = folder_of("text", folder) / "text"
    try:
        digest, size = _store(pieces, raw)
        asked = {"digest": digest, "unit": unit, "vocabulary": vocabulary, "validation": validation}
        found = _read(folder, asked)
        if found is None:
            cut = _cut(raw, size, validation)
            found = _divide(raw, cut, size, unit, vocabulary, folder, digest)
            about = {
                "format": FORMAT,
                "asked": asked,
                "unit": found.unit.to_json(),
                "training": asdict(found.training),
                "validation": asdict(found.validation),
            }
            write_text(folder / "about.json", json.dumps(about))
    finally:
        raw.unlink(missing_ok=True)
    return found


def _store(pieces: Iterable[bytes], path: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
    if size == 0:
        refuse("text", "the text is empty; give a file with something to learn from")
    return digest.hexdigest(), size


def _cut(path: Path, size: int, validation: float) -> int:
    """Where the validation part begins: with two bytes and more before it."""
    with path.open("rb") as file:
        cut = place_of(file, size, validation)
    if cut < 2:
        refuse("text", f"the text has {size} bytes, of which {cut} would be for training; give a longer one")
    return cut


def place_of(file: BinaryIO, size: int, last: float) -> int:
    """Where the last share of a file of `size` bytes begins, between two characters, one at least."""
    wanted = min(int((1 - last) * size + 1e-6), size - 1)
    begin = max(0, wanted - 3)
    file.seek(begin)
    return begin + character_start(file.read(4), wanted - begin)


@contextmanager
def spooled(pieces: Iterable[bytes], last: float | None = None) -> Iterator[Callable[[], Iterator[bytes]]]:
    """A text that can be read several times: within the block, each call begins anew. `last`: only that
    share of it, from its end, as `prepare_corpus` puts it aside for validation.

    Raises InputError for an empty text or a share outside 0 < last <= 1.
    """
    if last is not None and not 0 < last <= 1:
        refuse("text", f"last is {last}; it is a share of the text, 0 < last <= 1")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text"
        _, size = _store(pieces, path)
        begin = 0
        if last is not None:
            with path.open("rb") as file:
                begin = place_of(file, size, last)
        yield lambda: _between(path, begin, size)


def _divide(raw: Path, cut: int, size: int, unit: str, vocabulary: int, folder: Path, digest: str) -> Corpus:
    def training() -> Iterator[bytes]:
        return _between(raw, 0, cut)

    if unit == "auto":
        unit = "bytes" if _mostly_ascii(training(), cut) else "characters"
    made: Unit = Bytes()
    if unit == "characters":
        made = Characters.learn(at_line_ends(training()))
    elif unit == "bpe":
        made = BPE.learn(at_line_ends(training()), vocabulary)
    parts = []
    for name, begin, end in (("training", 0, cut), ("validation", cut, size)):
        tokens = _encode(made, lambda b=begin, e=end: _between(raw, b, e), folder / name)  # type: ignore[misc]
        parts.append(Part(end - begin, count_characters(_between(raw, begin, end)), tokens))
    return Corpus(folder, made, digest, *parts)


def _encode(unit: Unit, pieces: Callable[[], Iterator[bytes]], path: Path) -> int:
    dtype = np.uint8 if unit.size <= 256 else np.uint16
    tokens = 0
    with whole("corpus", path) as aside, aside.open("wb") as file:
        for piece in at_line_ends(pieces()):
            ids = unit.encode(piece).astype(dtype, copy=False)
            file.write(ids.tobytes())
            tokens += len(ids)
    return tokens


def _between(path: Path, begin: int, end: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(begin)
        while begin < end and (piece := file.read(min(PIECE, end - begin))):
            begin += len(piece)
            yield piece


def _mostly_ascii(pieces: Iterable[bytes], size: int) -> bool:
    high = sum(int((np.frombuffer(piece, np.uint8) >= 128).sum()) for piece in pieces)
    return high <= 0.1 * size


def _read(folder: Path, asked: dict[str, object]) -> Corpus | None:
    """The corpus that lies in a folder, if it is of the text and kind that is asked for."""
    try:
        about = json.loads((folder / "about.json").read_text())
        if about["format"] != FORMAT or about["asked"] != asked:
            return None
        unit = unit_from_json(about["unit"])
        parts = [Part(**about[name]) for name in ("training", "validation")]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Corpus(folder, unit, str(asked["digest"]), *parts)
