"""What the parts of `benchmarks/buzz.py` train on and measure with."""

from __future__ import annotations

import argparse

import numpy as np

from nextstate.buzzometer import Buzzometer
from nextstate.recipes import buzz_corpora as corpora
from nextstate.recipes.buzz import as_ids
from nextstate.recipes.buzz_corpora import NAMES, Labelled
from nextstate.tasks.buzz.examples import Examples, split
from nextstate.tasks.buzz.words import Words, build_words

TWO = ("negative", "positive")


def numbered(words: Words, data: Labelled, names: tuple[str, ...]) -> Examples:
    return as_ids(words, data.texts, [names.index(label) for label in data.labels])


def held_back(data: Labelled, count: int, seed: int) -> tuple[Labelled, Labelled]:
    """The data in two parts, the second of about `count` texts."""
    numbers = [NAMES.index(label) for label in data.labels]
    first, second = split(data.texts, numbers, [count / len(data.texts)], seed)
    return data.chosen(first), data.chosen(second)


def with_words_of(old: Words, data: Labelled, size: int, least: int = 2) -> Words:
    """The words of a model and those of the data that it does not hold."""
    known = set(old.words)
    new = [word for word in build_words(data.texts, size, least).words if word not in known]
    return Words([*old.words, *new], old.buckets)


def general_data(
    options: argparse.Namespace,
) -> tuple[list[Labelled], Labelled, dict[str, Labelled], np.ndarray]:
    """What the shipped model learns from (reviews, phrases, tweets to airlines, other tweets), what its
    temperature is fitted on, its test sets, and how sure the labels of the tweets to airlines are."""
    reviews, held = held_back(corpora.imdb(options.data, "train"), 1000, 0)
    tests = {
        "IMDB reviews": corpora.imdb(options.data, "test_public"),
        "SST-2 sentences": corpora.sst2(options.data, "test"),
        "SST sentences, three classes": corpora.sst_sentences(options.data, "test"),
    }
    sentences = corpora.sst_sentences(options.data, "dev")
    phrases = corpora.sst_trees(options.data, "train")
    phrases = phrases.without([*tests["SST sentences, three classes"].texts, *sentences.texts])
    every = corpora.airline(options.data)
    numbers = [NAMES.index(label) for label in every.labels]
    first, second, third, fourth = split(every.texts, numbers, [0.05, 0.2, 0.05], 0)
    tests["airline tweets"] = every.chosen(third)
    tweets, tests["SemEval 2016 tweets"] = corpora.semeval(options.data)
    tweets, held_tweets = held_back(tweets, 3000, 0)
    parts = [reviews, phrases, every.chosen(first), tweets]
    doubt = corpora.airline_doubt(options.data)[first]
    held = held.joined(sentences, every.chosen([*second, *fourth]), held_tweets)
    return parts, held, tests, doubt


GENERAL_DATA = (
    "IMDB reviews (Maas et al. 2011): the 25,000 labelled of the training part, less 1,000 held back, and "
    "49,730 without labels for reading",
    "Stanford Sentiment Treebank (Socher et al. 2013): every phrase of the training trees, three classes",
    "SemEval tweets 2013 to 2016, without the test of 2016 and what also stands in it",
    "tweets to US airlines, February 2015 (CrowdFlower): seven tenths of the public part, each label with "
    "the confidence that comes with it",
    "three rounds: all of it three times (the recipe below); once with the airline tweets four times, the "
    "other tweets twice, and the 12,000 reviews without labels that the first round was most sure of; once "
    "with a fifth of the reviews and the airline tweets eight times",
    "held back for calibration: 1,000 reviews, the development sentences of the treebank, 3,000 SemEval "
    "tweets, a tenth of the airline tweets",
)


def sure_of(model: Buzzometer, texts: list[np.ndarray], each: int = 6000) -> Examples:
    """The texts without labels that a model is most sure are negative, and as many positive, so labelled.

    Source: Lee 2013 (pseudo-label).
    """
    probabilities = model.probabilities(*model.logits(texts))
    found = [
        (place, side)
        for side in (NAMES.index("negative"), NAMES.index("positive"))
        for place in probabilities[:, side].argsort(descending=True, stable=True)[:each].tolist()
    ]
    return Examples([texts[place] for place, _ in found], np.array([side for _, side in found]))
