"""Words keep negation, capitals, emoji and marks; every text, however odd, has ids and places."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextstate import InputError
from nextstate.tasks.buzz.words import ADDRESS, CAPITALS, NUMBER, SPECIAL, USER, Words, build_words, normalise

WORDS = Words(
    ["good", "bad", "do", "n't", "ca", "!", "!!!", "so", "😍", ":)", "7/10", "state", "of"], buckets=8
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I don't LIKE it", ["I", "do", "n't", "LIKE", "it"]),
        ("can’t do n't", ["ca", "n’t", "do", "n't"]),
        ("good!!! 7/10 :) 😍😍", ["good", "!!!", "7/10", ":)", "😍", "😍"]),
        ("one<br /><br/>two", ["one", "<br />", "<br/>", "two"]),
        ("@you see https://a.b/c #fun", ["@you", "see", "https://a.b/c", "#", "fun"]),
        ("-lrb- it 's -rrb-", ["-lrb-", "it", "'s", "-rrb-"]),
        ("state-of-the-art, really...", ["state-of-the-art", ",", "really", "..."]),
        ("___ a_b ``", ["___", "a_b", "``"]),
        ("\x00a\x07b\u200b \ufeff", ["a", "b", "\ufeff"]),
        ("   \n\t", []),
        ("", []),
    ],
)
def test_what_counts_as_a_word(text, words):
    assert WORDS.texts(text) == words


def test_what_is_not_known_goes_somewhere_that_says_something():
    assert WORDS.ids("GOOD") == [CAPITALS, *WORDS.ids("good")]
    assert WORDS.ids("goooood") == WORDS.ids("good") != WORDS.ids("bad")
    assert WORDS.ids("@you http://x.y 1234567") == [USER, ADDRESS, NUMBER]
    assert WORDS.ids("!!!!!!!") == WORDS.ids("!!!")
    assert len(WORDS.ids("state-of")) == 2
    [unknown], [other] = WORDS.ids("quickly"), WORDS.ids("slowly")
    assert len(SPECIAL) <= unknown < len(SPECIAL) + 8
    assert WORDS.ids("xyzly") == WORDS.ids("zzzly"), "one ending, one bucket"
    assert other < len(WORDS)


@given(st.text(max_size=300))
def test_every_text_has_ids_and_places(text):
    spans = list(WORDS.spans(text))
    assert [i for span in spans for i in span.ids] == WORDS.ids(text)
    assert all(0 <= i < len(WORDS) for i in WORDS.ids(text))
    assert [text[span.start : span.end] for span in spans] == WORDS.texts(text)
    ends = [0, *(span.end for span in spans)]
    assert all(span.start >= end for span, end in zip(spans, ends, strict=False)), "places do not overlap"


@pytest.mark.parametrize("sign", ["a", "😍", "!", "n't ", "\x00", "-", ".a", "http://"])
def test_a_megabyte_of_anything_is_cut_quickly(sign):
    began = time.perf_counter()
    WORDS.ids(sign * (1_000_000 // len(sign)))
    assert time.perf_counter() - began < 8


def test_the_vocabulary_holds_the_frequent_words_in_a_fixed_order():
    words = build_words(["b a a", "B c @you http://x.y A"], size=2)
    assert words.words == ("a", "b")
    again = Words.from_json(words.to_json())
    assert (again.words, again.ids("b zzz")) == (words.words, words.ids("b zzz"))
    with pytest.raises(InputError, match="distinct"):
        Words(["a", "a"])


def test_normalising_twice_changes_nothing():
    for word in ("GREAT", "soooo", "“", "N’T", "<BR />"):
        assert normalise(normalise(word)) == normalise(word)


def test_a_user_named_often_is_a_word():
    texts = ["@Company is late", "@company again"] * 10 + ["@someone was there"] * 19
    words = build_words(texts, size=100)
    assert words.ids("@COMPANY") == words.ids("@company") != [USER]
    assert words.ids("@someone") == words.ids("@nobody") == [USER]
    assert "@someone" not in words.words
