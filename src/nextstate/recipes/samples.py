"""Something to read for every kind of model this library writes, so that a file alone can be inspected."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextstate.checks import refuse
from nextstate.recipes.files import kind_of

ROWS, STEPS = 16, 256
"""Sequences, and tokens of each, that are cut from a text."""

SENTENCES = (
    "What a wonderful film, I would watch it again tomorrow!",
    "Two hours late, my bag is lost and nobody answers the phone.",
    "The plot is thin, but the actors are so good that it hardly matters.",
    "I go to work by train.",
    "Not bad at all.",
    "It starts slowly, drags on in the middle, and then the end is the worst of it: nothing is resolved.",
    "Thank you for the quick help :)",
    "The package arrived on Monday, as was said when it was ordered.",
)
"""What a Buzzometer reads unless it is given a file."""


class Sample(NamedTuple):
    """A model, what it is called with, a loss of its output (None if the batch has no answers), in words."""

    module: nn.Module
    batch: Any
    loss: Callable[[Any], Tensor] | None
    about: str


def sample(path: Path, data: Path | None = None, *, seed: int = 0) -> Sample:
    """A saved model with a batch for it: from a file, or such as it was trained on.

    sample : (model file, data file) -> Sample

    Without data a sorter reads random lists of its longest length, a model of text what it writes itself, a
    Buzzometer eight sentences, a machine random words of 100 letters. With data: a list of numbers, a text or
    a word on each line, or for a model of text the text itself.

    Raises InputError for a file that is no model, and for data that the model cannot read.
    """
    kind = kind_of(path)
    read = next((read for known, read in _KINDS.items() if kind.startswith(known)), None)
    if read is None:
        refuse("inspect", f"{path} holds {kind!r}; a batch is known for {', '.join(_KINDS)}")
    return read(path, None if data is None else _read(data), seed)


def _read(data: Path) -> bytes:
    try:
        found = data.read_bytes()
    except OSError as error:
        refuse("inspect", f"cannot read {data}: {error.strerror}")
    if not found.strip():
        refuse("inspect", f"{data} is empty")
    return found


def _lines(text: bytes) -> list[str]:
    return [line for line in text.decode("utf-8", "replace").splitlines() if line.strip()]


def _sorter(path: Path, text: bytes | None, seed: int) -> Sample:
    from nextstate.recipes.sorter import load_sorter

    sorter = load_sorter(path)
    if text is None:
        draw = random.Random(seed)
        length = sorter.range.longest
        lists = [[draw.randint(1, sorter.range.largest) for _ in range(length)] for _ in range(64)]
    else:
        lists = []
        for place, line in enumerate(_lines(text), 1):
            words = line.replace(",", " ").replace("[", " ").replace("]", " ").split()
            if not all(word.isdecimal() for word in words):
                refuse("inspect", f"line {place} is {line!r}; expected whole numbers")
            lists.append([int(word) for word in words])
            sorter.range.check(lists[-1], f"inspect: line {place}")
    lengths = torch.tensor([len(numbers) for numbers in lists])
    source, target = (
        nn.utils.rnn.pad_sequence([torch.tensor(order(numbers)) - 1 for numbers in lists], True)
        for order in (list, sorted)
    )
    valid = torch.arange(source.shape[1]) < lengths[:, None]
    batch = (source, target, lengths, lengths) if not valid.all() else (source, target)
    answers = target.masked_fill(~valid, -100).flatten()

    def loss(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), answers, ignore_index=-100)

    return Sample(sorter.network, batch, loss, f"{len(lists)} lists of {int(lengths.max())} numbers at most")


def _text(path: Path, text: bytes | None, seed: int) -> Sample:
    from nextstate.recipes.text_model import load_text_model

    model = load_text_model(path)
    source = "of the file"
    if text is None:
        text, source = b"".join(model.generate(length=4 * STEPS + 1, seed=seed)), "that the model wrote"
    ids = torch.from_numpy(model.unit.encode(text)[: ROWS * STEPS + 1].astype("int64"))
    if len(ids) < 3:
        refuse("inspect", f"the text has {len(ids)} tokens; expected 3 or more")
    steps = min(STEPS, len(ids) - 1)
    rows = (len(ids) - 1) // steps
    us, targets = ids[: rows * steps].view(rows, steps), ids[1 : rows * steps + 1].view(rows, steps)

    def loss(output: tuple[Tensor, Any]) -> Tensor:
        return F.cross_entropy(output[0].flatten(0, 1), targets.flatten())

    return Sample(model.network, (us,), loss, f"{rows} pieces of {steps} tokens {source}")


def _buzz(path: Path, text: bytes | None, seed: int) -> Sample:
    from nextstate.buzzometer import Buzzometer
    from nextstate.networks.document_classifier import cut

    model = Buzzometer.load(path)
    texts = list(SENTENCES) if text is None else _lines(text)[:256]
    pieces = cut([model.words.ids(one) for one in texts], model.shape.piece)

    def loss(logits: Tensor) -> Tensor:
        """No labels are known: the loss of the model's own answers."""
        return F.cross_entropy(logits, logits.detach().argmax(1))

    return Sample(model.network, pieces, loss, f"{len(texts)} texts, the loss of the model's own answers")


def _machine(path: Path, text: bytes | None, seed: int) -> Sample:
    from nextstate.machines.compiling.compiled import Compiled
    from nextstate.machines.models import load_model

    model = load_model(path)
    letters = list(model.blueprint.letters if isinstance(model, Compiled) else model.alphabet)
    if text is None:
        draw = random.Random(seed)
        words = [[draw.choice(letters) for _ in range(100)] for _ in range(ROWS)]
    else:
        words = [line.split() if " " in line else list(line.strip()) for line in _lines(text)]
    words = [word for word in words if len(word) == max(map(len, words))]
    strange = {letter for word in words for letter in word} - set(letters)
    if strange:
        refuse("inspect", f"the words hold {sorted(map(str, strange))}; the letters are {letters}")
    about = f"{len(words)} words of {len(words[0])} letters"
    if isinstance(model, Compiled):
        if model.cell is None:
            refuse("inspect", f"{path} is a machine in exact rationals, which have no gradients")
        return Sample(model.cell, torch.cat([model.encode(word) for word in words], 1), None, about)
    ids = torch.tensor([[letters.index(letter) for letter in word] for word in words]).T
    return Sample(model.cell, model.spelled(ids), None, about)


_KINDS: dict[str, Callable[[Path, bytes | None, int], Sample]] = {
    "nextstate-sorter-": _sorter,
    "nextstate-text-": _text,
    "nextstate-buzz-": _buzz,
    "compiled machine": _machine,
    "recogniser": _machine,
}
