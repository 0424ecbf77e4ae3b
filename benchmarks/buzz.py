"""Every figure of the Buzzometer from one command: `python benchmarks/buzz.py DATA` (see docs/buzzometer.md).

DATA is a folder with the public sets as `nextstate.recipes.buzz_corpora` names them. Parts (`--only`):

imdb      25,000 labelled reviews alone, by the clock (`--imdb-minutes`), from reading them to the last step
reading   the reviews without labels read first (`--reading-epochs`), then the labels
sst       the phrases of SST-2, one run a seed
airline   tweets to airlines: an 80/20 split and a run a seed, from scratch and from other tweets
general   the model that comes with the package, trained on all of them
shipped   the figures of the model in the package on all test sets
speed     reviews a second of the shipped model, beside torch.nn.GRU of the same size
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import nextstate as ns
from nextstate.buzzometer import Buzzometer
from nextstate.recipes import buzz_corpora as corpora
from nextstate.recipes.buzz import Recipe, as_ids, planned_steps, prepare
from nextstate.recipes.buzz_corpora import NAMES, Labelled
from nextstate.recipes.buzz_pretrain import prepare_reading
from nextstate.tasks.buzz.examples import Examples, split
from nextstate.tasks.buzz.measure import Figures, figures, two_sided
from nextstate.tasks.buzz.words import Words, build_words
from nextstate.training import Checkpoints

TWO = ("negative", "positive")
REVIEWS = Recipe(epochs=6)
SENTENCES = Recipe(epochs=3, batch=64, rate=3e-3)
TWEETS = Recipe(epochs=8, batch=64, rate=3e-3)


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


def bench_reading(options: argparse.Namespace) -> dict[str, Any]:
    began = time.perf_counter()
    data, held = held_back(corpora.imdb(options.data, "train"), 1000, options.seed)
    more = corpora.imdb_unlabelled(options.data)
    words = build_words([*data.texts, *more], 30000)
    ids = [np.array(words.ids(text), dtype=np.int32) for text in [*data.texts, *more]]
    reading = prepare_reading(
        replace(REVIEWS, average=0.0),
        words,
        ids,
        2,
        seed=options.seed,
        epochs=options.reading_epochs,
        checkpoints=Checkpoints(options.out / "reading" / "checkpoints", every=500),
    )
    for record in reading.records():
        if record.step % 500 == 0:
            say(f"reading: step {record.step}/{reading.plan.total} loss {record.loss:.3f}")
    start = reading.start()
    start.save(options.out / "reading" / "start.safetensors")
    model = train(
        "after-reading",
        REVIEWS,
        words,
        TWO,
        numbered(words, data, TWO),
        numbered(words, held, TWO),
        options,
        seed=options.seed,
        start=start,
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


def general_data(options: argparse.Namespace) -> tuple[Labelled, Labelled, dict[str, Labelled]]:
    """What the shipped model learns from, what its temperature is fitted on, and its test sets."""
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
    train_on = reviews.joined(phrases, every.chosen(first), tweets)
    return train_on, held.joined(sentences, every.chosen(second), held_tweets), tests


def bench_general(options: argparse.Namespace) -> dict[str, Any]:
    data, held, tests = general_data(options)
    start = Buzzometer.load(options.start) if options.start else None
    words = build_words(data.texts, 40000, least=3)
    say(f"general: {len(data.texts)} texts, {len(words)} ids")
    recipe = replace(REVIEWS, epochs=options.general_epochs, batch=48, balance=0.0)
    if start is not None:
        recipe = replace(recipe, rate=1e-3, features=start.shape.features, hidden=start.shape.hidden)
    model = train(
        "general",
        recipe,
        words,
        NAMES,
        numbered(words, data, NAMES),
        numbered(words, held, NAMES),
        options,
        start=start,
        minutes=options.general_minutes,
        spent=time.perf_counter(),
    )
    return {f"general: {name}": short(measured(model, test)) for name, test in tests.items()}


def bench_shipped(options: argparse.Namespace) -> dict[str, Any]:
    _, _, tests = general_data(options)
    model = Buzzometer.load(options.model)
    found = {f"shipped: {name}": measured(model, test) for name, test in tests.items()}
    (options.out / "shipped.json").write_text(json.dumps({k: asdict(v) for k, v in found.items()}, indent=1))
    return {name: short(figure) for name, figure in found.items()}


class Plain(nn.Module):
    """What one would write with torch.nn: the same sizes, padded batches, the same pooling."""

    def __init__(self, table: torch.Tensor, features: int, hidden: int) -> None:
        super().__init__()
        self.table = nn.Parameter(table)
        self.gru = nn.GRU(features, hidden, bidirectional=True, batch_first=True)
        self.readout = nn.Linear(4 * hidden, 3)

    @torch.no_grad()
    def forward(self, texts: list[np.ndarray]) -> torch.Tensor:
        lengths = torch.tensor([max(1, len(ids)) for ids in texts])
        ids = nn.utils.rnn.pad_sequence(
            [torch.from_numpy(t.astype(np.int64)) for t in texts], batch_first=True
        )
        us = nn.utils.rnn.pack_padded_sequence(
            F.embedding(ids, self.table), lengths, batch_first=True, enforce_sorted=False
        )
        vs, _ = nn.utils.rnn.pad_packed_sequence(self.gru(us)[0], batch_first=True, padding_value=-torch.inf)
        largest = vs.amax(1)
        mean = vs.masked_fill(vs == -torch.inf, 0).sum(1) / lengths[:, None]
        return self.readout(torch.cat([largest, mean], -1))


def bench_speed(options: argparse.Namespace) -> dict[str, Any]:
    """Reviews a second, whole: words, pieces, network, answers; and the networks alone beside each other."""
    model = Buzzometer.load(options.model)
    texts = corpora.imdb(options.data, "test_public").texts[:2000]
    threads = options.threads
    plain = Plain(model.network.table.detach(), model.shape.features, model.shape.hidden)
    ids = [np.array(model.words.ids(text), dtype=np.int32) for text in texts]
    order = np.argsort([len(t) for t in ids])
    found: dict[str, list[float]] = {"whole": [], "ours": [], "torch": [], "torch in order of length": []}
    for _ in range(options.passes):
        ns.set_threads(threads)
        torch.set_num_threads(1)
        found["whole"].append(_rate(lambda: model.score(texts), len(texts)))
        found["ours"].append(_rate(lambda: model.logits(ids), len(ids)))
        torch.set_num_threads(threads)
        part = list(range(0, 2000, 5))
        as_found = [[ids[i] for i in part[b : b + 64]] for b in range(0, len(part), 64)]
        found["torch"].append(_rate(partial(_each, plain, as_found), len(part)))
        part = [int(i) for i in order[::5]]
        by_length = [[ids[i] for i in part[b : b + 64]] for b in range(0, len(part), 64)]
        found["torch in order of length"].append(_rate(partial(_each, plain, by_length), len(part)))
    rates = {name: round(float(np.median(values)), 1) for name, values in found.items()}
    return {"speed": rates | {"times torch": round(rates["ours"] / rates["torch"], 2)}}


def _each(network: nn.Module, batches: list[Any]) -> None:
    for batch in batches:
        network(batch)


def _rate(work: Any, count: int) -> float:
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


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
    "speed": bench_speed,
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
    parser.add_argument("--general-epochs", type=float, default=4.0)
    parser.add_argument("--general-minutes", type=float, default=None)
    parser.add_argument("--start", type=Path, default=None, help="model the general one begins from")
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
