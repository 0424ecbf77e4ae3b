"""Text cut into words that keep what sentiment hangs on: negation, capitals, emoji, runs of marks."""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from nextstate.checks import refuse

PATTERN = re.compile(
    r"""
    [A-Za-z]{1,40}(?=[ ,])                          # most words: found without trying the rest
  | <br\s*/?>                                       # a line break of a web page
  | (?:https?://|www\.)\S{1,200}                    # an address
  | @\w{1,40}                                       # a user
  | \d{1,4}(?:\.\d)?/\d{1,4}                        # a grade: 7/10, 3.5/5
  | <3 | [:;=8][-'^]?[)(\]\[DPpOo/\\|*3]{1,5}(?!\w) # an emoticon
  | \^_*\^ | -_+- | [xX]D+\b
  | -[lrLR][rR][bB]-                                # a bracket as treebanks write it
  | [^\W\d_]{1,40}?(?=n['’][tT]\b) | [nN]['’][tT]\b # do n't, as treebanks cut it
  | ['’](?:s|m|d|re|ve|ll|S|M|D|RE|VE|LL)\b
  | \w{1,40}(?:[-.&]\w{1,40}){0,3}                  # a word, also with hyphens or points inside
  | !+ | \?+ | \.+ | ,+ | \*+ | -+ | ~+ | `+ | '+ | "   # a run of one mark
  | [^\s\x00-\x1f\x7f-\x9f\ufe0f\u200b-\u200f]      # any other sign by itself: an emoji, say
    """,
    re.VERBOSE,
)
"""What counts as one word; blanks and control characters separate words and are no words themselves."""

PADDING, CAPITALS, ADDRESS, USER, NUMBER = range(5)
SPECIAL = ("<padding>", "<capitals>", "<address>", "<user>", "<number>")
MARK = re.compile(r"(.)\1{2,}")
MOST_REMEMBERED = 500_000
KNOWN_USER = 20
"""How often a user has to be named to count as a word: a company does, a person should not."""


class Span(NamedTuple):
    """Token ids of one word and where it stands: text[start:end]."""

    ids: tuple[int, ...]
    start: int
    end: int


def normalise(word: str) -> str:
    """A word as it is looked up: lower case, one kind of apostrophe, runs of one sign cut to three.

    >>> [normalise(word) for word in ("GREAT", "soooooo", "N’T", "!!!!!!", "-LRB-", "<br />")]
    ['great', 'sooo', "n't", '!!!', '(', '<br>']
    """
    word = MARK.sub(r"\1\1\1", word.lower().replace("’", "'"))
    return _SAME.get(word, word) if not word.startswith("<br") else "<br>"


_SAME = {"-lrb-": "(", "-rrb-": ")", "``": '"', "''": '"', "“": '"', "”": '"', "‘": "'"}


def shouted(word: str) -> bool:
    """Whether a word of two letters or more is written in capitals.

    >>> [shouted(word) for word in ("GREAT", "Great", "I", "A1")]
    [True, False, False, False]
    """
    return len(word) > 1 and word.isupper() and word.isalpha()


class Words:
    """A vocabulary: text -> token ids, with places to go for every word that it does not hold.

    Words : text -> [id]

        ids(text) = [CAPITALS?, id(normalise(word)) for word in text]

    A word in capitals is marked by a token of its own before it. A word that is not in the vocabulary is
    tried without its repeated letters ("sooo" -> "soo" -> "so") and in its parts ("state-of-the-art"), and
    at last falls into one of `buckets` shared rows, chosen by its last three letters, which say much of what
    kind of word it is. A `#` is a word by itself, so what is behind it is looked up as it stands.

    >>> words = Words(["good", "so", "n't", "do", "!"], buckets=4)
    >>> words.ids("SO good!") == [CAPITALS, *words.ids("so good!")]
    True
    >>> words.ids("sooooo good") == words.ids("so good")
    True
    >>> [text for text in words.texts("I don't")][1:]
    ['do', "n't"]
    """

    def __init__(self, words: Sequence[str], buckets: int = 256) -> None:
        if buckets < 1 or len(set(words)) != len(words):
            refuse("Words", f"{len(words)} words, {buckets} buckets; expected distinct words and a bucket")
        self.words, self.buckets = tuple(words), buckets
        self._known = {word: index + len(SPECIAL) + buckets for index, word in enumerate(words)}
        self._remembered = _Remembered(self._look_up)

    def __len__(self) -> int:
        """The number of token ids."""
        return len(SPECIAL) + self.buckets + len(self.words)

    def ids(self, text: str) -> list[int]:
        """The token ids of a text; a text without words has none."""
        if len(self._remembered) > MOST_REMEMBERED:
            self._remembered.clear()
        return list(chain.from_iterable(map(self._remembered.__getitem__, PATTERN.findall(text))))

    def spans(self, text: str) -> Iterator[Span]:
        """The words of a text with their ids and places."""
        for match in PATTERN.finditer(text):
            yield Span(self._remembered[match.group()], match.start(), match.end())

    def texts(self, text: str) -> list[str]:
        """The words of a text as it writes them."""
        return PATTERN.findall(text)

    def to_json(self) -> str:
        return json.dumps({"words": self.words, "buckets": self.buckets}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Words:
        return cls(**json.loads(text))

    def _look_up(self, word: str) -> tuple[int, ...]:
        inner = self._inner(word)
        return (CAPITALS, *inner) if shouted(word) else inner

    def _inner(self, word: str) -> tuple[int, ...]:
        if word.startswith(("http://", "https://", "www.")):
            return (ADDRESS,)
        plain = normalise(word)
        if word[0] == "@" and len(word) > 1:
            return (self._known.get(plain, USER),)
        for candidate in (plain, MARK.sub(r"\1\1", plain), MARK.sub(r"\1", plain)):
            if candidate in self._known:
                return (self._known[candidate],)
        if plain[0].isdigit():
            return (NUMBER,)
        parts = [part for part in re.split(r"[-.&_]", plain) if part]
        if len(parts) > 1:
            return tuple(chain.from_iterable(self._inner(part) for part in parts))
        return (len(SPECIAL) + zlib.crc32(plain[-3:].encode("utf-8", "surrogatepass")) % self.buckets,)


class _Remembered(dict[str, tuple[int, ...]]):
    """Look-ups made before; a word not met before is looked up once."""

    def __init__(self, look_up: Callable[[str], tuple[int, ...]]) -> None:
        super().__init__()
        self.look_up = look_up

    def __missing__(self, word: str) -> tuple[int, ...]:
        found = self[word] = self.look_up(word)
        return found


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each normalised word occurs, but for addresses and users named less than `KNOWN_USER` times.

    >>> count_words(["Good, GOOD!", "@you good"]).most_common(1)
    [('good', 3)]
    """
    raw: Counter[str] = Counter()
    for text in texts:
        raw.update(PATTERN.findall(text))
    counts: Counter[str] = Counter()
    for word, count in raw.items():
        if not word.startswith(("http://", "https://", "www.")):
            counts[normalise(word)] += count
    rare = [word for word, count in counts.items() if word[0] == "@" and len(word) > 1 and count < KNOWN_USER]
    for word in rare:
        del counts[word]
    return counts


def build_words(texts: Iterable[str], size: int, least: int = 2, buckets: int = 256) -> Words:
    """The vocabulary of the `size` most frequent words that occur `least` times or more."""
    ranked = sorted(count_words(texts).items(), key=lambda item: (-item[1], item[0]))
    return Words([word for word, count in ranked[:size] if count >= least], buckets)
