"""Public sets of labelled texts, read from a folder as their publishers and hosts name the columns."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nextstate.checks import InputError

NAMES = ("negative", "neutral", "positive")


class Labelled(NamedTuple):
    """Texts and their labels, by name."""

    texts: list[str]
    labels: list[str]

    def joined(self, *others: Labelled) -> Labelled:
        parts = (self, *others)
        return Labelled([t for part in parts for t in part.texts], [n for part in parts for n in part.labels])

    def chosen(self, places: Iterable[int]) -> Labelled:
        places = list(places)
        return Labelled([self.texts[i] for i in places], [self.labels[i] for i in places])

    def without(self, texts: Iterable[str]) -> Labelled:
        """Less the texts that stand in others (letters and digits compared)."""
        taken = {_letters(text) for text in texts}
        return self.chosen(i for i, text in enumerate(self.texts) if _letters(text) not in taken)


def imdb(folder: Path, part: str) -> Labelled:
    """Film reviews (Maas et al. 2011): `imdb_<part>.jsonl.gz`, label 0 or 1."""
    rows = [json.loads(line) for line in _lines(folder / f"imdb_{part}.jsonl.gz")]
    return Labelled([row["text"] for row in rows], [_side(row["label"]) for row in rows])


def imdb_unlabelled(folder: Path) -> list[str]:
    """The reviews without labels, less those that also stand in the test."""
    rows = [json.loads(line) for line in _lines(folder / "imdb_unsup.jsonl.gz")]
    return [row["text"] for row in rows if row["also_in_labelled"] != "test"]


def sst2(folder: Path, part: str) -> Labelled:
    """Phrases and sentences of films (Socher et al. 2013), two classes: `sst2_<part>.tsv[.gz]`."""
    path = folder / f"sst2_{part}.tsv"
    lines = list(_lines(path if path.exists() else path.with_suffix(".tsv.gz")))[1:]
    rows = [line.split("\t") for line in lines]
    return Labelled([row[1] for row in rows], [_side(int(row[0])) for row in rows])


def sst_trees(folder: Path, part: str) -> Labelled:
    """The distinct phrases of the trees, three classes: 0, 1 negative; 2 neutral; 3, 4 positive."""
    found: dict[str, str] = {}
    for line in _lines(folder / f"sst_trees_{part}.txt.gz"):
        for label, text in _phrases(line):
            found.setdefault(text, NAMES[0 if label < 2 else 1 if label == 2 else 2])
    return Labelled(list(found), list(found.values()))


def sst_sentences(folder: Path, part: str) -> Labelled:
    """The whole sentences of the trees, three classes."""
    rows = [list(_phrases(line))[-1] for line in _lines(folder / f"sst_trees_{part}.txt.gz")]
    return Labelled([text for _, text in rows], [NAMES[0 if n < 2 else 1 if n == 2 else 2] for n, _ in rows])


def airline(folder: Path) -> Labelled:
    """Tweets to airlines, February 2015, three classes: `airline_tweets_public.csv.gz`."""
    with gzip.open(folder / "airline_tweets_public.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return Labelled([row["text"] for row in rows], [row["airline_sentiment"] for row in rows])


def airline_doubt(folder: Path) -> np.ndarray:
    """How far the people who labelled the tweets to airlines agreed: probabilities [N, 3] float32, in order.

    The label has the stated confidence, the other two share the rest.
    """
    with gzip.open(folder / "airline_tweets_public.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    sure = np.array([float(row["airline_sentiment_confidence"]) for row in rows], dtype=np.float32)[:, None]
    given = np.eye(3, dtype=np.float32)[[NAMES.index(row["airline_sentiment"]) for row in rows]]
    return sure * given + (1 - sure) / 2 * (1 - given)


def semeval(folder: Path) -> tuple[Labelled, Labelled]:
    """Tweets of SemEval 2013 to 2016, three classes: all but the test of 2016, and that test.

    What occurs in the test, by id or text, is not in the first part.
    """
    rows = [line.split("\t") for line in _lines(folder / "semeval_tweets_2013-2016.tsv.gz")][1:]
    test = [row for row in rows if row[0] == "2016test"]
    ids, texts = {row[1] for row in test}, {_letters(row[3]) for row in test}
    train = {row[3]: row[2] for row in rows if row[1] not in ids and _letters(row[3]) not in texts}
    return Labelled(list(train), list(train.values())), Labelled([r[3] for r in test], [r[2] for r in test])


def _lines(path: Path) -> Iterator[str]:
    """Lines that end in a line feed, and in nothing else: some texts hold other marks of Unicode."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except OSError as error:
        raise InputError(f"corpora: cannot read {path}: {error}") from error
    return (line for line in data.decode("utf-8").split("\n") if line)


def _phrases(tree: str) -> Iterator[tuple[int, str]]:
    """Every phrase of a tree such as `(3 (2 a) (4 gem))` with its class; the whole sentence comes last."""
    open_at: list[tuple[int, int]] = []
    words: list[str] = []
    for mark, word in re.findall(r"\((\d)|([^\s()]+)|\)", tree):
        if mark:
            open_at.append((int(mark), len(words)))
        elif word:
            words.append(word)
        else:
            label, begin = open_at.pop()
            yield label, " ".join(words[begin:])


def _side(label: int) -> str:
    return "positive" if label == 1 else "negative"


def _letters(text: str) -> str:
    return "".join(sign for sign in text.lower() if sign.isalnum())
