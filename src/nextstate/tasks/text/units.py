"""What a text is made of for a network: bytes, characters or byte pairs. Every one keeps every byte."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from nextstate.checks import InputError, refuse

Ids = np.ndarray
"""Token ids, uint8 or uint16, [count]."""

MOST_CHARACTERS = 20_000
"""Characters in an alphabet at most, the most frequent ones; the rest is written as bytes."""


class Unit(Protocol):
    """A way to cut a text into tokens: decode(encode(text)) == text for any bytes whatever."""

    name: str

    @property
    def size(self) -> int:
        """How many ids there are."""

    def encode(self, text: bytes) -> Ids: ...

    def decode(self, ids: Sequence[int]) -> bytes: ...

    def to_json(self) -> dict[str, Any]: ...


class Bytes:
    """A byte is a token; nothing to learn, nothing unknown.

    >>> unit = Bytes()
    >>> unit.encode("Ö!".encode()).tolist(), unit.decode([104, 105])
    ([195, 150, 33], b'hi')
    """

    name = "bytes"
    size = 256

    def encode(self, text: bytes) -> Ids:
        return np.frombuffer(text, np.uint8)

    def decode(self, ids: Sequence[int]) -> bytes:
        return bytes(ids)

    def to_json(self) -> dict[str, Any]:
        return {"unit": self.name}


class Characters:
    """A Unicode character of the alphabet is a token; any other is written as its bytes.

    Ids: 0..255 are bytes, 256 + k is character k of `alphabet`. Bytes that are no UTF-8 stay what they are.

    >>> unit = Characters("ab")
    >>> unit.encode("aß".encode() + b"\\xff").tolist()
    [256, 195, 159, 255]
    >>> unit.decode([256, 195, 159, 255]) == "aß".encode() + b"\\xff"
    True
    """

    name = "characters"

    def __init__(self, alphabet: str) -> None:
        self.alphabet = alphabet
        self._ids = {character: 256 + k for k, character in enumerate(alphabet)}
        self._bytes = [bytes([k]) for k in range(256)] + [character.encode() for character in alphabet]

    @property
    def size(self) -> int:
        return len(self._bytes)

    def encode(self, text: bytes) -> Ids:
        found: list[int] = []
        known = self._ids
        for character in text.decode("utf-8", "surrogateescape"):
            number = known.get(character)
            if number is None:
                found += character.encode("utf-8", "surrogateescape")
            else:
                found.append(number)
        return np.array(found, np.uint16)

    def decode(self, ids: Sequence[int]) -> bytes:
        return b"".join([self._bytes[number] for number in ids])

    def to_json(self) -> dict[str, Any]:
        return {"unit": self.name, "alphabet": self.alphabet}

    @classmethod
    def learn(cls, pieces: Iterable[bytes]) -> Characters:
        """The alphabet of a text, in the order of the code points: its most frequent characters."""
        counts: Counter[str] = Counter()
        for piece in pieces:
            counts.update(piece.decode("utf-8", "surrogateescape"))
        valid = [pair for pair in counts.items() if not "\ud800" <= pair[0] <= "\udfff"]
        valid.sort(key=lambda pair: (-pair[1], pair[0]))
        return cls("".join(sorted(character for character, _ in valid[:MOST_CHARACTERS])))


class BPE:
    """Byte pairs: frequent strings of bytes are tokens, and every single byte is one.

    Words, numbers, other signs and white space are cut apart first; merges stay within them. Trained by
    Hugging Face `tokenizers`. Source: Sennrich, Haddow and Birch 2016 (arXiv 1508.07909), on bytes.

    >>> unit = BPE.learn([b"the cat and the hat and the bat"], size=260)
    >>> unit.size, unit.decode(unit.encode(b"the cat \\xff\\xfe").tolist())
    (260, b'the cat \\xff\\xfe')
    """

    name = "bpe"
    # One byte is one Latin-1 character here, so that any bytes can pass; letters include all of UTF-8's.
    CUTS = r" ?[A-Za-z\x80-\xff]+| ?[0-9]+| ?[^ \t\r\nA-Za-z0-9\x80-\xff]+|[ \t\r\n]"

    def __init__(self, document: str) -> None:
        from tokenizers import Tokenizer

        self.document = document
        self._tokenizer = Tokenizer.from_str(document)
        names: dict[int, str] = {number: token for token, number in self._tokenizer.get_vocab().items()}
        self._bytes = [names[number].encode("latin-1") for number in range(len(names))]

    @property
    def size(self) -> int:
        return len(self._bytes)

    def encode(self, text: bytes) -> Ids:
        return np.array(self._tokenizer.encode(text.decode("latin-1")).ids, np.uint16)

    def decode(self, ids: Sequence[int]) -> bytes:
        return b"".join([self._bytes[number] for number in ids])

    def to_json(self) -> dict[str, Any]:
        return {"unit": self.name, "tokenizer": self.document}

    @classmethod
    def learn(cls, pieces: Iterable[bytes], size: int) -> BPE:
        """Byte pairs of a text; fewer than `size` if it has no more. Raises InputError for a bad size."""
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

        if not 256 <= size <= 65536:
            refuse("BPE", f"the vocabulary is {size}; it must lie in 256..65536")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(cls.CUTS), "isolated")
        trainer = trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=[chr(k) for k in range(256)], show_progress=False
        )
        tokenizer.train_from_iterator((piece.decode("latin-1") for piece in pieces), trainer)
        return cls(tokenizer.to_str())


def unit_from_json(about: dict[str, Any]) -> Unit:
    """The unit that `to_json` described. Raises InputError for anything else."""
    name = about.get("unit") if isinstance(about, dict) else None
    if name == "bytes":
        return Bytes()
    content = about.get({"characters": "alphabet", "bpe": "tokenizer"}.get(name, "")) if name else None
    if not isinstance(content, str):
        refuse("text", f"no unit is described by {json.dumps(about)[:80]}; expected bytes, characters or bpe")
    if name == "characters":
        return Characters(content)
    try:
        return BPE(content)
    except Exception as error:  # tokenizers raises nothing narrower
        raise InputError(f"text: the byte pairs described cannot be read: {error}") from error


def count_characters(pieces: Iterable[bytes]) -> int:
    """Unicode characters of a text in pieces; a byte that is no UTF-8 counts as one.

    >>> count_characters(["Ö".encode()[:1], "Ö".encode()[1:] + b"\\xff!"])
    3
    """
    return sum(map(len, as_characters(pieces)))


def as_characters(pieces: Iterable[bytes]) -> Iterator[str]:
    """A text in pieces as characters, those that a cut would divide held back; lone bytes as surrogates."""
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    for piece in pieces:
        yield decoder.decode(piece)
    yield decoder.decode(b"", True)
