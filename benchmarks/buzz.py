"""Every figure of the Buzzometer from one command: `python benchmarks/buzz.py DATA` (see docs/buzzometer.md).

DATA is a folder with the public sets as `nextstate.recipes.buzz_corpora` names them. Parts (`--only`):

imdb      25,000 labelled reviews alone, by the clock (`--imdb-minutes`), from reading them to the last step
reading   the reviews without labels read first (`--reading-epochs`), then the labels
sst       the phrases of SST-2, one run a seed
airline   tweets to airlines: an 80/20 split and a run a seed, from scratch and from other tweets
general   the model of the package: reads them and the reviews without labels, then learns all labels
shipped   the figures of the model in the package on all test sets
speed     reviews a second of the shipped model, beside torch.nn.GRU of the same size
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from buzz_speed import bench_speed

import nextstate as ns
from nextstate.buzzometer import Buzzometer
from nextstate.recipes import buzz_corpora as corpora
from nextstate.recipes.buzz import Recipe, as_ids, planned_steps, prepare
from nextstate.recipes.buzz_corpora import NAMES, Labelled
from nextstate.recipes.buzz_pretrain import prepare_reading
from nextstate.recipes.buzz_report import model_card
from nextstate.tasks.buzz.examples import Examples, split
from nextstate.tasks.buzz.measure import Figures, figures, two_sided
from nextstate.tasks.buzz.words import Words, build_words
from nextstate.training import Checkpoints

TWO = ("negative", "positive")
REVIEWS = Recipe(epochs=6)
SENTENCES = Recipe(epochs=3, batch=64, rate=3e-3)
TWEETS = Recipe(epochs=8, batch=64, rate=3e-3)
GENERAL = Recipe(epochs=3, batch=256, words=8000, rate=1.5e-3, balance=0.0, average=0.997)
AGAIN = replace(GENERAL, epochs=1, rate=1.2e-3)
LAST = replace(GENERAL, epochs=1, rate=1e-3, average=0.99)
READING = Recipe(batch=32, words=10**6, average=0.0)


def say(*parts: object) -> None:
    print(time.strftime("%H:%M:%S"), *parts, flush=True)


def numbered(words: Words, data: Labelled, names: tuple[str, ...]) -> Examples:
    return as_ids(words, data.texts, [names.index(label) for label in data.labels])


def held_back(data: Labelled, count: int, seed: int) -> tuple[Labelled, Labelled]:
    """The data in two parts, the second of about `count` texts."""
    numbers = [NAMES.index(label) for label in data.labels]
    first, second = split(data.texts, numbers, [count / len(data.texts)], seed)
    return data.chosen(first), data.chosen(second)


def train(
    name: str,
    recipe: Recipe,
    words: Words,
    names: tuple[str, ...],
    data: Examples,
    held: Examples,
    options: argparse.Namespace,
    *,
    seed: int = 0,
    start: Buzzometer | None = None,
    minutes: float | None = None,
    spent: float = 0.0,
) -> Buzzometer:
    """A run to its end; `minutes` (less the seconds `spent` before) instead of the recipe's epochs."""
    folder = options.out / name / "checkpoints"
    run = prepare(
        recipe, words, names, data, held, seed=seed, start=start, checkpoints=Checkpoints(folder, every=10**9)
    )
    if minutes is not None:
        run.plan = type(run.plan)(planned_steps(run, minutes - (time.perf_counter() - spent) / 60 - 0.2))
    for record in run.records():
        if record.evaluation is not None:
            left = record.seconds * (1 - record.progress) / max(record.progress, 1e-9)
            shown = {key: round(value, 4) for key, value in record.evaluation.items()}
            say(f"{name} seed {seed}: step {record.step}/{run.plan.total}", shown, f"{left:.0f} s left")
    model = run.buzzometer()
    model.save(options.out / name / f"model-{seed}.safetensors")
    return Buzzometer.load(options.out / name / f"model-{seed}.safetensors")


def measured(model: Buzzometer, data: Labelled) -> Figures:
    """Figures on data with the model's classes, or with two of its three."""
    examples = numbered(model.words, data, model.labels)
    logits, lengths = model.logits(examples.ids)
    probabilities, truth = model.probabilities(logits, lengths), torch.from_numpy(examples.labels)
    if set(data.labels) == set(TWO) and len(model.labels) == 3:
        probabilities, truth = two_sided(probabilities, truth, [0, 2])
        return figures(probabilities, truth, TWO)
    return figures(probabilities, truth, model.labels)


def short(found: Figures) -> dict[str, float]:
    values = {"accuracy": found.accuracy, "macro_f1": found.macro_f1, "ece": found.calibration_error}
    return {name: round(100 * value, 2) for name, value in values.items()} | {"texts": found.texts}


def bench_imdb(options: argparse.Namespace) -> dict[str, Any]:
    began = time.perf_counter()
    data, held = held_back(corpora.imdb(options.data, "train"), 1000, options.seed)
    words = build_words(data.texts, 30000)
    model = train(
        "imdb",
        REVIEWS,
        words,
        TWO,
        numbered(words, data, TWO),
        numbered(words, held, TWO),
        options,
        seed=options.seed,
        minutes=options.imdb_minutes,
        spent=began,
    )
    seconds = time.perf_counter() - began
    return {"imdb": short(measured(model, corpora.imdb(options.data, "test_public"))) | {"seconds": seconds}}


def read(
    texts: list[np.ndarray], words: Words, labels: tuple[str, ...], options: argparse.Namespace
) -> Buzzometer:
    """A model that has read the texts `--reading-epochs` times and knows no label yet."""
    reading = prepare_reading(
        READING,
        words,
        texts,
        len(labels),
        seed=options.seed,
        epochs=options.reading_epochs,
        checkpoints=Checkpoints(options.out / f"reading-{len(labels)}", every=300),
    )
    for record in reading.records():
        if record.step % 300 < 10:
            say(f"reading: step {record.step}/{reading.plan.total} loss {record.loss:.3f}")
    return reading.start(labels)


def bench_reading(options: argparse.Namespace) -> dict[str, Any]:
    began = time.perf_counter()
    data, held = held_back(corpora.imdb(options.data, "train"), 1000, options.seed)
    more = corpora.imdb_unlabelled(options.data)
    words = build_words([*data.texts, *more], 30000)
    ids = [np.array(words.ids(text), dtype=np.int32) for text in [*data.texts, *more]]
    model = train(
        "after-reading",
        REVIEWS,
        words,
        TWO,
        numbered(words, data, TWO),
        numbered(words, held, TWO),
        options,
        seed=options.seed,
        start=read(ids, words, TWO, options),
    )
    seconds = time.perf_counter() - began
    found = short(measured(model, corpora.imdb(options.data, "test_public")))
    return {"imdb_with_unlabelled": found | {"seconds": seconds}}


def bench_sst(options: argparse.Namespace) -> dict[str, Any]:
    held, test = corpora.sst2(options.data, "dev"), corpora.sst2(options.data, "test")
    data = corpora.sst2(options.data, "train").without([*held.texts, *test.texts])
    words = build_words(data.texts, 20000, least=1)
    found = []
    for seed in range(options.seeds):
        model = train(
            "sst",
            SENTENCES,
            words,
            TWO,
            numbered(words, data, TWO),
            numbered(words, held, TWO),
            options,
            seed=seed,
        )
        found.append(short(measured(model, test)))
        say("sst", found[-1])
    return {"sst2": mean(found)}


def tweets_start(options: argparse.Namespace) -> Buzzometer:
    """A model of tweets that are not to airlines, to begin from."""
    data, held = held_back(corpora.semeval(options.data)[0], 1000, 0)
    words = build_words([*data.texts, *corpora.airline(options.data).texts], 20000)
    return train(
        "tweets",
        replace(TWEETS, epochs=3),
        words,
        NAMES,
        numbered(words, data, NAMES),
        numbered(words, held, NAMES),
        options,
    )


def bench_airline(options: argparse.Namespace) -> dict[str, Any]:
    every = corpora.airline(options.data)
    start = tweets_start(options)
    found: dict[str, list[dict[str, float]]] = {"scratch": [], "from other tweets": []}
    for seed in range(options.seeds):
        numbers = [NAMES.index(label) for label in every.labels]
        first, second, third = split(every.texts, numbers, [0.05, 0.2], seed)
        data, held, test = every.chosen(first), every.chosen(second), every.chosen(third)
        for name in found:
            words = build_words(data.texts, 20000) if name == "scratch" else start.words
            recipe = TWEETS if name == "scratch" else replace(TWEETS, rate=1e-3, epochs=4)
            model = train(
                f"airline {name}",
                recipe,
                words,
                NAMES,
                numbered(words, data, NAMES),
                numbered(words, held, NAMES),
                options,
                seed=seed,
                start=None if name == "scratch" else start,
            )
            found[name].append(short(measured(model, test)))
            say("airline", name, found[name][-1])
    return {"airline": mean(found["scratch"]), "airline_from_tweets": mean(found["from other tweets"])}


def general_data(options: argparse.Namespace) -> tuple[list[Labelled], Labelled, dict[str, Labelled]]:
    """What the shipped model learns from (reviews, phrases, tweets to airlines, other tweets), what its
    temperature is fitted on, and its test sets."""
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
    first, second, third = split(every.texts, numbers, [0.05, 0.2], 0)
    tests["airline tweets"] = every.chosen(third)
    tweets, tests["SemEval 2016 tweets"] = corpora.semeval(options.data)
    tweets, held_tweets = held_back(tweets, 1000, 0)
    parts = [reviews, phrases, every.chosen(first), tweets]
    return parts, held.joined(sentences, every.chosen(second), held_tweets), tests


GENERAL_DATA = (
    "IMDB reviews (Maas et al. 2011): the 25,000 labelled of the training part, less 1,000 held back, and "
    "49,730 without labels for reading",
    "Stanford Sentiment Treebank (Socher et al. 2013): every phrase of the training trees, three classes",
    "SemEval tweets 2013 to 2016, without the test of 2016 and what also stands in it",
    "tweets to US airlines, February 2015 (CrowdFlower): three quarters of the public part",
    "three rounds: all of it three times (the recipe below); once with the airline tweets four times, the "
    "other tweets twice, and the 12,000 reviews without labels that the first round was most sure of; once "
    "with a fifth of the reviews and the airline tweets eight times",
    "held back for the temperature: 1,000 reviews, the development sentences of the treebank, 1,000 SemEval "
    "tweets, a twentieth of the airline tweets",
)


def bench_general(options: argparse.Namespace) -> dict[str, Any]:
    began = time.process_time()
    parts, held, tests = general_data(options)
    more = corpora.imdb_unlabelled(options.data)
    words = build_words([*(text for part in parts for text in part.texts), *more], 40000, least=3)
    unlabelled = [np.array(words.ids(text), dtype=np.int32) for text in more]
    reviews, phrases, airline, tweets = (numbered(words, part, NAMES) for part in parts)
    held_ids = numbered(words, held, NAMES)
    every = reviews + phrases + airline + tweets
    texts = unlabelled + [ids for ids in every.ids if len(ids) >= 12]
    say(f"general: {len(every)} labelled texts, {len(texts)} to read, {len(words)} ids")
    start = read(texts, words, NAMES, options)
    first = train("general", GENERAL, words, NAMES, every, held_ids, options, start=start)
    every = every + sure_of(first, unlabelled) + airline + airline + airline + tweets
    second = train("general-again", AGAIN, words, NAMES, every, held_ids, options, seed=1, start=first)
    every = reviews.chosen(range(0, len(reviews), 5)) + phrases + tweets
    for _ in range(8):
        every = every + airline
    model = train("general-last", LAST, words, NAMES, every, held_ids, options, seed=2, start=second)
    found = {name: measured(model, test) for name, test in tests.items()}
    card = model_card(
        GENERAL,
        title="A model of sentiment",
        data=GENERAL_DATA,
        seed=options.seed,
        took=f"{time.process_time() - began:.0f} seconds of the processor, all threads",
        measured=found,
        command="python benchmarks/buzz.py DATA --only general",
    )
    (options.out / "general-last" / "buzz.md").write_text(card)
    return {f"general: {name}": short(figure) for name, figure in found.items()}


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


def bench_shipped(options: argparse.Namespace) -> dict[str, Any]:
    _, _, tests = general_data(options)
    model = Buzzometer.load(options.model)
    found = {f"shipped: {name}": measured(model, test) for name, test in tests.items()}
    (options.out / "shipped.json").write_text(json.dumps({k: asdict(v) for k, v in found.items()}, indent=1))
    return {name: short(figure) for name, figure in found.items()}


def mean(found: list[dict[str, float]]) -> dict[str, Any]:
    keys = found[0].keys()
    return {key: round(float(np.mean([one[key] for one in found])), 2) for key in keys} | {"runs": found}


PARTS = {
    "imdb": bench_imdb,
    "reading": bench_reading,
    "sst": bench_sst,
    "airline": bench_airline,
    "general": bench_general,
    "shipped": bench_shipped,
    "speed": lambda options: bench_speed(options, corpora.imdb(options.data, "test_public").texts[:2000]),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("runs/bench-buzz"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--imdb-minutes", type=float, default=15.0)
    parser.add_argument("--reading-epochs", type=float, default=1.0)
    parser.add_argument("--model", type=Path, default=None, help="model for shipped and speed")
    parser.add_argument("--passes", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.json"
    for part in options.only:
        ns.set_threads(options.threads)
        torch.set_num_threads(1)
        found = PARTS[part](options)
        say(json.dumps(found))
        earlier = json.loads(results.read_text()) if results.exists() else {}
        results.write_text(json.dumps(earlier | found, indent=1))


if __name__ == "__main__":
    main()
