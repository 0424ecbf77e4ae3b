"""The sentiment model that comes with the package: small, described, right about what nobody doubts."""

import os
import re
from pathlib import Path

import pytest
import torch

from nextstate.buzzometer import SHIPPED, Buzzometer
from nextstate.recipes.buzz import as_ids, evaluate
from nextstate.recipes.buzz_corpora import NAMES, sst_sentences

CARD = SHIPPED.with_suffix(".md").read_text()

PLAIN = {
    "positive": [
        "What a wonderful film, I loved every minute of it.",
        "Absolutely brilliant acting and a touching story. Highly recommended!",
        "Thank you so much for the great service, best flight ever :)",
        "I can't wait to see this again, it made my day.",
        "One of the best books turned into one of the best movies.",
        "Happy birthday! Hope you have an amazing day",
    ],
    "negative": [
        "A complete waste of time. The plot makes no sense and the acting is terrible.",
        "You lost my bag and nobody answers the phone. Worst airline ever.",
        "I was bored to death and walked out after an hour.",
        "The food was awful and the staff were rude.",
        "This is the worst film I have ever seen.",
        "So disappointed, it broke after two days and they refuse to refund me.",
    ],
}


@pytest.fixture(scope="module")
def shipped():
    return Buzzometer.load()


def test_it_is_small_and_has_a_card(shipped):
    assert SHIPPED.stat().st_size <= 10_000_000
    assert shipped.labels == NAMES
    for set_ in ("IMDB reviews", "SST-2 sentences", "airline tweets", "SemEval 2016 tweets"):
        assert re.search(rf"^{set_}: .*accuracy", CARD, re.MULTILINE), set_


@pytest.mark.parametrize("label", PLAIN)
def test_what_nobody_doubts(shipped, label):
    sign = 1 if label == "positive" else -1
    for text, answer in zip(PLAIN[label], shipped.score(PLAIN[label]), strict=True):
        assert answer.score * sign > 0.3, text
        assert answer.label == label, text


@pytest.mark.parametrize(
    ("change", "value", "usual"),
    [(torch.set_default_dtype, torch.float64, torch.float32), (torch.set_default_device, "meta", None)],
)
def test_answers_do_not_depend_on_torchs_defaults(shipped, change, value, usual):
    text = PLAIN["positive"][0]
    answer, words = shipped.score([text]), [word.contribution for word in shipped.explain(text).words]
    change(value)
    try:
        fresh = Buzzometer.load()
        assert fresh.score([text]) == answer
        assert [word.contribution for word in fresh.explain(text).words] == pytest.approx(words, abs=1e-4)
    finally:
        change(usual)


def test_a_model_loaded_in_inference_mode_can_be_explained_outside(shipped):
    with torch.inference_mode():
        loaded = Buzzometer.load()
    assert loaded.explain("good film") == shipped.explain("good film")


def test_words_about_the_same_thing_turned_round(shipped):
    pairs = [
        ("The movie was good.", "The movie was not good."),
        ("I like it.", "I don't like it."),
        ("It works.", "It never works."),
    ]
    for better, worse in pairs:
        high, low = shipped.score([better, worse])
        assert high.score > low.score + 0.2, (better, worse)


def test_a_long_text_is_read_whole(shipped):
    praise = "A wonderful, touching film that I loved. " * 100
    neither, worse = shipped.score(
        [praise, praise + "It was a boring, stupid, terrible waste of time. " * 100]
    )
    assert worse.score < neither.score - 0.3


def test_the_company_a_text_keeps_changes_nothing(shipped):
    texts = [text for group in PLAIN.values() for text in group]
    together = torch.tensor([answer.score for answer in shipped.score(texts)])
    alone = torch.tensor([shipped.score([text])[0].score for text in texts])
    assert (together - alone).abs().max() < 1e-5


@pytest.mark.skipif(
    "NEXTSTATE_DATA" not in os.environ, reason="NEXTSTATE_DATA names no folder of public sets"
)
def test_the_card_is_true(shipped):
    """Measured anew on the sentences of one public set: the accuracy that the card states."""
    stated = re.search(r"^SST sentences, three classes: .*accuracy ([\d.]+) %", CARD, re.MULTILINE)
    data = sst_sentences(Path(os.environ["NEXTSTATE_DATA"]), "test")
    found = evaluate(shipped, as_ids(shipped.words, data.texts, [NAMES.index(name) for name in data.labels]))
    assert 100 * found.accuracy == pytest.approx(float(stated[1]), abs=0.06)
