"""Texts as tokens: nothing is lost, whatever the bytes; corpora on disk; streams that go round."""

import os
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextstate import InputError
from nextstate.tasks.text import (
    BPE,
    Bytes,
    Characters,
    TextStreams,
    count_characters,
    find_files,
    prepare_corpus,
    read_pieces,
    unit_from_json,
)
from nextstate.tasks.text import sources as sources_module
from nextstate.tasks.text.corpus import spooled
from nextstate.tasks.text.sources import at_line_ends

TEXT = "Der Bär fraß süße Äpfel.\r\nΑλφάβητο, 漢字 and 🐻!\n".encode() * 20
UNITS = [Bytes(), Characters.learn([TEXT]), BPE.learn([TEXT], size=300)]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
@given(text=st.one_of(st.binary(max_size=60), st.text(max_size=30).map(lambda s: s.encode(errors="replace"))))
@settings(max_examples=40, deadline=None)
def test_any_bytes_come_back(unit, text):
    assert unit.decode(unit.encode(text).tolist()) == text
    again = unit_from_json(unit.to_json())
    assert np.array_equal(again.encode(text), unit.encode(text))
    assert again.size == unit.size


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_training_text_is_written_in_what_was_learned(unit):
    ids = unit.encode(TEXT)
    assert ids.max() < unit.size
    assert len(ids) == {"bytes": len(TEXT), "characters": len(TEXT.decode())}.get(unit.name, len(ids))
    if unit.name == "bpe":
        assert len(ids) < len(TEXT.decode())
        assert 256 < unit.size <= 300


def test_a_unit_that_loses_bytes_would_be_seen():
    lossy = Characters("ab")
    lossy._bytes[0xC3] = b"?"
    assert lossy.decode(lossy.encode("aß".encode()).tolist()) != "aß".encode()


def test_bad_units_are_refused():
    with pytest.raises(InputError, match="it must lie in 256"):
        BPE.learn([b"a"], size=10)
    with pytest.raises(InputError, match="expected bytes, characters or bpe"):
        unit_from_json({"unit": "words"})


@given(text=st.binary(max_size=80), cuts=st.lists(st.integers(0, 80), max_size=4))
@settings(max_examples=60, deadline=None)
def test_pieces_are_the_text_wherever_it_was_cut(text, cuts):
    places = sorted([0, *[min(cut, len(text)) for cut in cuts], len(text)])
    pieces = [text[a:b] for a, b in pairwise(places)]
    assert b"".join(at_line_ends(pieces)) == text
    assert count_characters(pieces) == len(text.decode("utf-8", "surrogateescape"))


def test_a_long_line_is_cut_where_a_character_begins(monkeypatch):
    monkeypatch.setattr(sources_module, "PIECE", 16)
    text = "ßßßßßßßß漢漢漢漢🐻🐻🐻🐻".encode()
    pieces = list(at_line_ends([text[k : k + 7] for k in range(0, len(text), 7)]))
    assert len(pieces) > 1
    assert b"".join(pieces) == text
    for piece in pieces:
        piece.decode()  # whole characters only


@pytest.mark.parametrize("unit", ["bytes", "characters", "bpe"])
def test_a_corpus_is_the_text_in_two_parts(tmp_path, unit):
    pieces = [TEXT[k : k + 37] for k in range(0, len(TEXT), 37)]
    corpus = prepare_corpus(pieces, tmp_path, unit=unit, vocabulary=300, validation=0.25)
    parts = [corpus.unit.decode(corpus.ids(name).tolist()) for name in ("training", "validation")]
    assert b"".join(parts) == TEXT
    assert abs(len(parts[1]) - len(TEXT) / 4) <= 3
    for part, sizes, name in zip(
        parts, (corpus.training, corpus.validation), ("training", "validation"), strict=True
    ):
        assert (sizes.bytes, sizes.characters) == (len(part), len(part.decode()))
        assert sizes.tokens == len(corpus.ids(name))
    assert {path.name for path in tmp_path.iterdir()} == {"about.json", "training", "validation"}


def test_what_is_learned_is_learned_from_the_training_part(tmp_path):
    text = b"ab " * 300 + "é".encode() * 50
    corpus = prepare_corpus([text], tmp_path, unit="characters", validation=0.1)
    assert corpus.unit.alphabet == " ab"
    assert corpus.unit.decode(corpus.ids("validation").tolist()) == text[corpus.training.bytes :]


def test_the_unit_follows_the_text(tmp_path):
    assert prepare_corpus([b"plain text, mostly " * 9], tmp_path / "a").unit.name == "bytes"
    assert prepare_corpus(["漢字です。".encode() * 9], tmp_path / "b").unit.name == "characters"


def test_the_same_text_is_found_and_another_is_not_taken_for_it(tmp_path):
    first = prepare_corpus([TEXT], tmp_path)
    stamp = (tmp_path / "training").stat().st_mtime_ns
    again = prepare_corpus([TEXT[:100], TEXT[100:]], tmp_path)
    assert (again.digest, again.training) == (first.digest, first.training)
    assert (tmp_path / "training").stat().st_mtime_ns == stamp
    other = prepare_corpus([TEXT + b"!"], tmp_path)
    assert other.digest != first.digest
    assert b"".join(other.unit.decode(other.ids(n).tolist()) for n in ("training", "validation")).endswith(
        b"!"
    )


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        (b"", {}, "the text is empty"),
        (b"a", {}, "1 bytes, of which 0 would be for training"),
        (b"some text", {"unit": "words"}, "unit is 'words'"),
        (b"some text", {"validation": 0}, "validation is 0"),
    ],
)
def test_texts_that_cannot_be(tmp_path, text, options, told):
    with pytest.raises(InputError, match=told):
        prepare_corpus([text], tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_share_below_one_character_is_one(tmp_path):
    corpus = prepare_corpus([b"a" * 99 + "ä".encode()], tmp_path, validation=1e-9)
    assert (corpus.training.bytes, corpus.validation.bytes) == (99, 2)


def test_files_and_folders(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name, text in (
        ("b/2", b"two\r\n"),
        ("b/1", b"one"),
        ("c", b"\xff"),
        (".hidden/x", b"no"),
        ("b/.no", b"no"),
    ):
        (tmp_path / name).write_bytes(text)
    files = find_files([tmp_path / "c", tmp_path])
    assert b"".join(read_pieces(files)) == b"\xff" + b"onetwo\r\n" + b"\xff"
    (tmp_path / "empty").mkdir()
    for wrong, told in ((tmp_path / "empty", "holds no file"), (tmp_path / "missing", "neither a file")):
        with pytest.raises(InputError, match=told):
            find_files([wrong])
    with pytest.raises(InputError, match="neither a file"):
        find_files([Path(5000 * "a")])
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"piped",))
    writer.start()
    assert b"".join(read_pieces(find_files([pipe]))) == b"piped"
    writer.join()
    with pytest.raises(InputError, match="named twice"):
        find_files([sources_module.STDIN, sources_module.STDIN])


def test_a_spooled_text_can_be_read_again_and_from_its_last_share():
    with spooled([TEXT[:50], TEXT[50:]]) as read:
        assert b"".join(read()) == b"".join(read()) == TEXT
    with spooled([TEXT], 0.1) as read:
        last = b"".join(read())
    assert TEXT.endswith(last)
    last.decode()
    assert abs(len(last) - 0.1 * len(TEXT)) <= 3
    with spooled([TEXT], 1e-9) as read:
        assert b"".join(read()) == TEXT[-1:]
    with pytest.raises(InputError, match="last is 2"), spooled([TEXT], 2):
        pass


def test_streams_read_the_text_round_and_round():
    ids = np.arange(11, dtype=np.uint8)
    source = TextStreams(ids, rows=3, length=4)
    chunks = [source.draw() for _ in range(9)]
    for row, begin in enumerate((0, 3, 7)):
        read = np.concatenate([chunk.ids[row].numpy() for chunk in chunks])
        targets = np.concatenate([chunk.targets[row].numpy() for chunk in chunks])
        assert np.array_equal(read, (begin + np.arange(36)) % 11)
        assert np.array_equal(targets, (begin + 1 + np.arange(36)) % 11)
    again = TextStreams(ids, rows=3, length=4)
    again.load_state_dict({"drawn": 5})
    assert again.draw().ids.equal(chunks[5].ids)
    ranks = [TextStreams(ids, rows=2, length=4).draw(rank, 2).ids for rank in (0, 1)]
    assert sorted(int(row[0]) for part in ranks for row in part) == [0, 2, 5, 8]
    for bad in ({"rows": 0, "length": 1}, {"rows": 1, "length": 0}):
        with pytest.raises(InputError):
            TextStreams(ids, **bad)
