"""Every figure of the Buzzometer from one command: `python benchmarks/buzz.py DATA` (see docs/buzzometer.md).

DATA is a folder with the public sets as `nextstate.recipes.buzz_corpora` names them. Parts (`--only`):

imdb      25,000 labelled reviews alone, by the clock (`--imdb-minutes`), from reading them to the last step
read      a network that has read (`--reading-epochs`) what the next four begin with: reviews with and without
          labels, phrases of films and tweets of the training parts, but none to airlines
reading   that network, then the labelled reviews, then those without labels as it and its n-grams judge them
sst       that network, then the phrases of SST-2, one run a seed
airline   that network, then tweets to airlines: an 80/20 split and a run a seed
general   the model of the package: that network, then all labels
shipped   the figures of the model in the package on all test sets
speed     reviews a second of the shipped model, beside torch.nn.GRU of the same size
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from buzz_data import GENERAL_DATA, TWO, general_data, held_back, numbered, sure_of, with_words_of
from buzz_speed import bench_speed

import nextstate as ns
from nextstate.buzzometer import Buzzometer
from nextstate.recipes import buzz_corpora as corpora
from nextstate.recipes.buzz import Recipe, planned_steps, prepare
from nextstate.recipes.buzz_corpora import NAMES, Labelled
from nextstate.recipes.buzz_pretrain import prepare_reading
from nextstate.recipes.buzz_report import model_card
from nextstate.tasks.buzz.examples import Examples, split
from nextstate.tasks.buzz.measure import Figures, figures, two_sided
from nextstate.tasks.buzz.words import Words, build_words
from nextstate.training import Checkpoints

REVIEWS = Recipe(epochs=6)
SENTENCES = Recipe(epochs=3, batch=64, rate=3e-3)
TWEETS = Recipe(epochs=8, batch=64, rate=3e-3)
GENERAL = Recipe(epochs=3, batch=256, words=8000, rate=1.5e-3, balance=0.0, average=0.997)
AGAIN = replace(GENERAL, epochs=1, rate=1.2e-3)
LAST = replace(GENERAL, epochs=1, rate=1e-3, average=0.99)
JUDGED = Recipe(epochs=2, rate=1e-3)
READING = Recipe(batch=32, words=10**6, average=0.0)

NGRAM_MINUTES = 1.5
"""What is kept of a time to fit n-grams and to measure."""


def say(*parts: object) -> None:
    print(time.strftime("%H:%M:%S"), *parts, flush=True)


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
    ngrams: Examples | None = None,
) -> Buzzometer:
    """A run to its end; `minutes` (less the seconds `spent` before) instead of the recipe's epochs.

    One that was broken off goes on from its checkpoint, and its name joins `options.resumed`.
    """
    if start is not None:
        recipe = replace(recipe, hidden=start.shape.hidden)
    folder = options.out / name / f"checkpoints-{seed}"
    note_resumed(folder, f"{name} seed {seed}", options)
    run = prepare(
        recipe,
        words,
        names,
        data,
        held,
        seed=seed,
        start=start,
        ngrams=ngrams,
        checkpoints=Checkpoints(folder, every=10**9),
    )
    if minutes is not None:
        left = minutes - (time.perf_counter() - spent) / 60 - NGRAM_MINUTES
        run.plan = type(run.plan)(planned_steps(run, left))
    for record in run.records():
        if record.evaluation is not None:
            left = record.seconds * (1 - record.progress) / max(record.progress, 1e-9)
            shown = {key: round(value, 4) for key, value in record.evaluation.items()}
            say(f"{name} seed {seed}: step {record.step}/{run.plan.total}", shown, f"{left:.0f} s left")
    model = run.buzzometer()
    path = options.out / name / f"model-{seed}.safetensors"
    model.save(path)
    shutil.rmtree(folder)  # or the same benchmark again would find this run done, in no time
    return Buzzometer.load(path)


def note_resumed(folder: Path, name: str, options: argparse.Namespace) -> None:
    if any(folder.glob("step-*")):
        options.resumed.append(name)


def timed(found: dict[str, Any], resumed: list[str]) -> dict[str, Any]:
    """The rows of a part; where trainings went on from checkpoints they are named, for the seconds are not
    those of whole ones."""

    def renamed(row: dict[str, Any]) -> dict[str, Any]:
        return {f"{key}_since_resumed" if key.endswith("seconds") else key: row[key] for key in row}

    return {name: renamed(row) | {"resumed": resumed} for name, row in found.items()} if resumed else found


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
    parts = numbered(words, data, TWO), numbered(words, held, TWO)
    clock = {"minutes": options.imdb_minutes, "spent": began}
    model = train("imdb", REVIEWS, words, TWO, *parts, options, seed=options.seed, **clock)
    seconds = time.perf_counter() - began
    return {"imdb": short(measured(model, corpora.imdb(options.data, "test_public"))) | {"seconds": seconds}}


def bench_read(options: argparse.Namespace) -> dict[str, Any]:
    began = time.process_time()
    parts, _, _, _ = general_data(options)
    more = corpora.imdb_unlabelled(options.data)
    words = build_words([*(text for part in parts for text in part.texts), *more], 40000, least=3)
    reviews, phrases, _, tweets = parts
    every = [*reviews.texts, *phrases.texts, *tweets.texts, *more]
    texts = [np.array(words.ids(text), dtype=np.int32) for text in every]
    texts = [ids for ids in texts if len(ids) >= 12]
    say(f"{len(texts)} texts of {sum(map(len, texts))} words to read, {len(words)} ids")
    reading = prepare_reading(
        replace(READING, hidden=options.hidden),
        words,
        texts,
        len(NAMES),
        seed=options.seed,
        epochs=options.reading_epochs,
        checkpoints=Checkpoints(options.out / "read" / "checkpoints", every=300),
    )
    note_resumed(reading.checkpoints.folder, "read", options)
    for record in reading.records():
        if record.step % 300 < 10:
            say(f"reading: step {record.step}/{reading.plan.total} loss {record.loss:.3f}")
    reading.start(NAMES).save(options.out / "read" / "model.safetensors")
    shutil.rmtree(reading.checkpoints.folder)
    return {"read": {"words": sum(map(len, texts)), "processor_seconds": time.process_time() - began}}


def has_read(options: argparse.Namespace) -> Buzzometer:
    """The network of the part `read`, made now if it is not there."""
    path = options.out / "read" / "model.safetensors"
    if not path.exists():
        bench_read(options)
    return Buzzometer.load(path)


def bench_reading(options: argparse.Namespace) -> dict[str, Any]:
    began = time.process_time()
    data, held = held_back(corpora.imdb(options.data, "train"), 1000, options.seed)
    test, start = corpora.imdb(options.data, "test_public"), has_read(options)
    words = start.words
    labelled, held_ids = numbered(words, data, TWO), numbered(words, held, TWO)
    first = train("after-reading", REVIEWS, words, TWO, labelled, held_ids, options, start=start)
    found = {"imdb_after_reading": short(measured(first, test))}
    say(json.dumps(found))
    texts = [np.array(words.ids(text), dtype=np.int32) for text in corpora.imdb_unlabelled(options.data)]
    judged = Examples(texts, first.probabilities(*first.logits(texts)).numpy())
    every = labelled.softened(2) + judged
    model = train("after-judging", JUDGED, words, TWO, every, held_ids, options, start=first, ngrams=labelled)
    found["imdb_with_unlabelled"] = short(measured(model, test)) | {
        "processor_seconds": time.process_time() - began
    }
    return found


def bench_sst(options: argparse.Namespace) -> dict[str, Any]:
    held, test = corpora.sst2(options.data, "dev"), corpora.sst2(options.data, "test")
    data = corpora.sst2(options.data, "train").without([*held.texts, *test.texts])
    start = has_read(options)
    words = with_words_of(start.words, data, 20000, least=1)
    parts = numbered(words, data, TWO), numbered(words, held, TWO)
    found = []
    for seed in range(options.seeds):
        model = train("sst", SENTENCES, words, TWO, *parts, options, seed=seed, start=start)
        found.append(short(measured(model, test)))
        say("sst", found[-1])
    return {"sst2": mean(found)}


def bench_airline(options: argparse.Namespace) -> dict[str, Any]:
    every, start = corpora.airline(options.data), has_read(options)
    doubt = corpora.airline_doubt(options.data)
    reviews, phrases, _, tweets = general_data(options)[0]
    read = [*reviews.texts, *phrases.texts, *tweets.texts, *corpora.imdb_unlabelled(options.data)]
    known = set(build_words(read, 40000, least=3).words)  # not those of airline tweets, some of them tests
    old = Words([word for word in start.words.words if word in known], start.words.buckets)
    numbers = [NAMES.index(label) for label in every.labels]
    found = []
    for seed in range(options.seeds):
        first, second, third = split(every.texts, numbers, [0.05, 0.2], seed)
        data, held, test = every.chosen(first), every.chosen(second), every.chosen(third)
        words = with_words_of(old, data, 20000)
        parts = Examples(numbered(words, data, NAMES).ids, doubt[first]), numbered(words, held, NAMES)
        model = train("airline", TWEETS, words, NAMES, *parts, options, seed=seed, start=start)
        found.append(short(measured(model, test)))
        say("airline", found[-1])
    return {"airline": mean(found)}


def bench_general(options: argparse.Namespace) -> dict[str, Any]:
    began = time.process_time()
    parts, held, tests, airline_doubt = general_data(options)
    start = has_read(options)
    words = start.words
    unlabelled = [np.array(words.ids(text), dtype=np.int32) for text in corpora.imdb_unlabelled(options.data)]
    reviews, phrases, airline, tweets = (numbered(words, part, NAMES).softened(3) for part in parts)
    airline = Examples(airline.ids, airline_doubt)
    held_ids = numbered(words, held, NAMES)
    every = reviews + phrases + airline + tweets
    ngrams = every + airline + airline + airline
    first = train("general", GENERAL, words, NAMES, every, held_ids, options, start=start, ngrams=ngrams)
    every = ngrams + sure_of(first, unlabelled).softened(3) + tweets
    second = train(
        "general-again", AGAIN, words, NAMES, every, held_ids, options, seed=1, start=first, ngrams=ngrams
    )
    every = reviews.chosen(range(0, len(reviews), 5)) + phrases + tweets
    for _ in range(8):
        every = every + airline
    model = train(
        "general-last", LAST, words, NAMES, every, held_ids, options, seed=2, start=second, ngrams=ngrams
    )
    found = {name: measured(model, test) for name, test in tests.items()}
    less = f", less what came before {', '.join(options.resumed)} went on" if options.resumed else ""
    card = model_card(
        GENERAL,
        title="A model of sentiment",
        data=GENERAL_DATA,
        seed=options.seed,
        took=f"{time.process_time() - began:.0f} seconds of the processor, all threads, after reading{less}",
        measured=found,
        command="python benchmarks/buzz.py DATA --only read general",
    )
    (options.out / "general-last" / "buzz.md").write_text(card)
    return {f"general: {name}": short(figure) for name, figure in found.items()}


def bench_shipped(options: argparse.Namespace) -> dict[str, Any]:
    _, _, tests, _ = general_data(options)
    model = Buzzometer.load(options.model)
    found = {f"shipped: {name}": measured(model, test) for name, test in tests.items()}
    (options.out / "shipped.json").write_text(json.dumps({k: asdict(v) for k, v in found.items()}, indent=1))
    return {name: short(figure) for name, figure in found.items()}


def mean(found: list[dict[str, float]]) -> dict[str, Any]:
    keys = found[0].keys()
    return {key: round(float(np.mean([one[key] for one in found])), 2) for key in keys} | {"runs": found}


PARTS = {
    "imdb": bench_imdb,
    "read": bench_read,
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
    parser.add_argument("--reading-epochs", type=float, default=2.0)
    parser.add_argument("--hidden", type=int, default=128, help="units of what `read` makes")
    parser.add_argument("--model", type=Path, default=None, help="model for shipped and speed")
    parser.add_argument("--passes", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.json"
    for part in options.only:
        ns.set_threads(options.threads)
        torch.set_num_threads(options.threads)
        options.resumed = []  # names of trainings that go on from a checkpoint
        found = timed(PARTS[part](options), options.resumed)
        say(json.dumps(found))
        earlier = json.loads(results.read_text()) if results.exists() else {}
        results.write_text(json.dumps(earlier | found, indent=1))


if __name__ == "__main__":
    main()
