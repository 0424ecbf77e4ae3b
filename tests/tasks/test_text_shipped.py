"""The model of Shakespeare that comes along: what its card says is so, and it writes plain text."""

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest

from nextstate.recipes.text_measure import mean_nats
from nextstate.recipes.text_model import SHIPPED, load_text_model

CARD = SHIPPED.with_suffix(".md").read_text()
TEXT = Path(
    os.environ.get("NEXTSTATE_DATA", Path(__file__).parents[3] / "shared" / "data"), "tinyshakespeare.txt"
)


@pytest.fixture(scope="module")
def model():
    return load_text_model()


def test_it_is_a_few_megabytes():
    assert SHIPPED.stat().st_size < 4_000_000


def test_it_writes_verse_and_the_same_for_the_same_seed(model):
    texts = [b"".join(model.generate("ROMEO:", length=200, temperature=0.8, seed=s)) for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    for text in texts:
        assert text.isascii()
        assert b"\n" in text


def test_it_knows_english_from_noise(model):
    def nats(text):
        return model.score(text)[1].mean()

    line = "But soft, what light through yonder window breaks?\n"
    shuffled = "".join(np.random.default_rng(0).permutation(list(line)))
    assert nats(line) < 2.5 < nats(shuffled)


@pytest.mark.skipif(not TEXT.exists(), reason=f"no {TEXT}; NEXTSTATE_DATA names the folder of public texts")
def test_the_card_says_what_is_measured(model):
    """The whole validation part, the last tenth of the text."""
    text = TEXT.read_bytes()
    assert hashlib.sha256(text).hexdigest() in CARD
    ids = np.frombuffer(text, np.uint8)
    cut = len(ids) * 9 // 10
    told = re.search(r"([0-9.]+) nats a character", CARD)
    assert told is not None
    whole = float(told.group(1))
    assert mean_nats(model.network, ids[cut:], ids[:cut]) == pytest.approx(whole, abs=1e-3)
