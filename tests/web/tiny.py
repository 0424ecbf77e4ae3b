"""A Buzzometer and a model of text that are made in a second and know a few words."""

import itertools
import threading
from pathlib import Path

import torch
from torch.nn import functional as F

from nextstate.buzzometer import Buzzometer, Shape
from nextstate.networks.document_classifier import DocumentClassifier, cut
from nextstate.recipes.text_model import Shape as TextShape
from nextstate.recipes.text_model import TextModel
from nextstate.tasks.buzz.calibration import Temperature
from nextstate.tasks.buzz.words import Words
from nextstate.tasks.text import Bytes

LABELS = ("negative", "neutral", "positive")
FEELING = {"awful": 0, "bad": 0, "table": 1, "walk": 1, "good": 2, "lovely": 2}


def tiny_buzzometer() -> Buzzometer:
    """Trained on all pairs and single words of `FEELING`; the stronger feeling of a pair gives its label."""
    torch.manual_seed(0)
    words = Words([*FEELING, "the", "is", "!"], buckets=4)
    shape = Shape(features=8, hidden=8, labels=LABELS, piece=32, temperature=Temperature())
    network = DocumentClassifier(len(words), 8, 8, 3, drop_words=0.1, drop_features=0, drop_pooled=0)
    texts = [" ".join(pair) for pair in itertools.product(FEELING, ("", "the", "is", "table", "walk"))]
    labels = torch.tensor([FEELING[text.split()[0]] for text in texts])
    pieces = cut([words.ids(text) for text in texts], 32)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.03)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(network(pieces), labels).backward()
        optimiser.step()
    return Buzzometer(network, words, shape)


def tiny_text_model() -> TextModel:
    torch.manual_seed(0)
    shape = TextShape("GRU", 1, 4, 8)
    return TextModel(shape, Bytes(), shape.network(256))


class Watched:
    """A Buzzometer that notes its batches and can be made to wait at texts that say so."""

    def __init__(self, buzz: Buzzometer) -> None:
        self.buzz = buzz
        self.batches: list[int] = []
        self.go = threading.Event()

    def score(self, texts):
        if any(text.startswith("wait") for text in texts):
            assert self.go.wait(20)
        if any(text.startswith("fail") for text in texts):
            raise ArithmeticError("the model is broken")
        self.batches.append(len(texts))
        return self.buzz.score(texts)

    def explain(self, text):
        return self.buzz.explain(text)


def save_tiny(folder: Path) -> Path:
    path = folder / "tiny.safetensors"
    tiny_buzzometer().save(path)
    return path
