"""The Buzzometer: what a text feels, how sure that is, and which words say so."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from nextstate.checks import InputError, refuse
from nextstate.networks.document_classifier import (
    DocumentClassifier,
    Ids,
    Pieces,
    Pooled,
    cut,
    join,
)
from nextstate.networks.pooled_reading import read_pooled
from nextstate.tasks.buzz.calibration import Temperature
from nextstate.tasks.buzz.ngrams import NGrams
from nextstate.tasks.buzz.path_integral import mean_gradient
from nextstate.tasks.buzz.words import Words
from nextstate.writing import whole

FORMAT = "nextstate-buzz-1"
"""The one key of the file's metadata: with several, safetensors would write them in a random order."""

SHIPPED = Path(__file__).parent / "models" / "buzz.safetensors"
"""The model that comes with the package; `buzz.md` beside it says how it was made and measured."""

POLARITY = {"negative": -1, "neg": -1, "neutral": 0, "positive": 1, "pos": 1}
"""Labels (in lower case) that say on which side of the score they stand."""


class Score(NamedTuple):
    """The answer to one text.

    `label` is the most probable class and `probability` its calibrated probability; `score` in [-1, 1] is
    p(positive) - p(negative), None for a model without those two classes; `probabilities` by label.
    """

    label: str
    score: float | None
    probability: float
    probabilities: dict[str, float]


class WordContribution(NamedTuple):
    """What one word text[start:end] adds to what is explained."""

    word: str
    start: int
    end: int
    contribution: float


class Explanation(NamedTuple):
    """Why a text has its score: `score = without + sum of the words' contributions`, but for `error`.

    `without` is the score of the same text with every word unknown. For a model that has no score, what is
    explained is the probability of the label, under the same names.
    """

    score: float
    without: float
    words: list[WordContribution]

    @property
    def error(self) -> float:
        """By how much the contributions miss the difference they should add up to."""
        return abs(self.score - self.without - sum(word.contribution for word in self.words))


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model: what has to be known to read its weights."""

    features: int
    hidden: int
    labels: tuple[str, ...]
    piece: int
    temperature: Temperature


class Buzzometer:
    """A sentiment model: text in, label, score and calibrated probability out.

    Buzzometer : [text] -> [Score]

        logits        = DocumentClassifier(cut(ids of the words)) + NGrams(ids of the words)
        probabilities = softmax(logits / T(number of words))

    The second term is a linear model of runs of words (`ngrams`, None for a model without one).

    Texts of any length are read whole. A text without words has equal probabilities, the label "neutral"
    if there is one (in whatever case), and the score 0.

    >>> buzz = Buzzometer.load()
    >>> good, bad = buzz.score(["What a wonderful film!", "Lost my bag and nobody answers."])
    >>> good.label, bad.label, good.score > 0 > bad.score
    ('positive', 'negative', True)
    >>> max(buzz.explain("A wonderful film.").words, key=lambda word: word.contribution).word
    'wonderful'
    """

    def __init__(
        self, network: DocumentClassifier, words: Words, shape: Shape, ngrams: NGrams | None = None
    ) -> None:
        self.network, self.words, self.shape, self.ngrams = network.eval(), words, shape, ngrams

    @property
    def labels(self) -> tuple[str, ...]:
        return self.shape.labels

    @property
    def _signs(self) -> list[float] | None:
        """What the probability of each label counts in the score; None for a model that has none."""
        signs = [float(POLARITY.get(label.lower(), 0)) for label in self.labels]
        return signs if -1 in signs and 1 in signs else None

    def score(self, texts: Iterable[str], batch_size: int = 256) -> list[Score]:
        """Score texts, in their order; `batch_size` pieces of text are read side by side.

        Raises InputError for anything but texts.
        """
        if isinstance(texts, str):
            refuse("Buzzometer.score", "expected a list of texts, got one text; write [text]")
        logits, lengths = self.logits(
            [self._ids(text, place) for place, text in enumerate(texts)], batch_size
        )
        return [self._answer(row) for row in self.probabilities(logits, lengths).tolist()]

    @torch.no_grad()
    def logits(self, texts: Sequence[Ids], batch_size: int = 256) -> tuple[Tensor, Tensor]:
        """Raw logits [N, C] of texts given as ids, and how many ids each has [N]."""
        if batch_size < 1:
            refuse("Buzzometer.score", f"batch_size is {batch_size}; it must be at least 1")
        if not len(texts):
            table = self.network.table
            return table.new_empty(0, len(self.labels)), table.new_empty(0)
        network, pieces = self.network, cut(texts, self.shape.piece)
        shape = len(pieces.owner), network.combination.out_features
        largest, total = network.table.new_empty(shape), network.table.new_empty(shape)
        for rows in pieces.lengths.argsort(descending=True, stable=True).split(batch_size):
            lengths = pieces.lengths[rows]
            ids = pieces.ids[: int(lengths.max()), rows]
            largest[rows], total[rows] = read_pooled(
                network.layer, network.combination, network.table, ids, lengths
            )
        pooled = join(largest, total, pieces)
        logits = network.classify(pooled)
        if self.ngrams is not None:
            logits = logits + self.ngrams.logits(texts)
        return logits, pooled.steps

    def probabilities(self, logits: Tensor, lengths: Tensor) -> Tensor:
        """Calibrated probabilities [N, C]; equal ones for texts without words."""
        heat = self.shape.temperature.of(lengths).unsqueeze(-1)
        return (logits / heat).where(lengths.unsqueeze(-1) > 0, 0).softmax(-1)

    @torch.inference_mode(False)
    def explain(self, text: str) -> Explanation:
        """How much each word adds to the score, by integrated gradients.

            contribution_t = integral over a in 0..1 of  (x_t - b) . d score / d x_t + w_t . d score / d w_t
                             at  b + a (x - b)  and  a w

        x_t is the word's row of the table, b the padding row that training puts in place of dropped words,
        w_t its share of the n-grams' logits: each n-gram is shared by the words it is made of.
        The path is cut finer where the score bends, until the contributions add up to the difference of
        scores within 0.005 (at most 248 gradients).
        Source: Sundararajan et al. 2017 (arXiv 1703.01365).
        """
        self._check(text, "Buzzometer.explain")
        spans = list(self.words.spans(text))
        ids = [i for span in spans for i in span.ids]
        pieces = cut([ids], self.shape.piece)
        if not spans:
            classes = len(self.labels)
            even = float(self._explained(self.network.table.new_full((1, classes), 1 / classes), 0))
            return Explanation(even, even, [])
        with torch.no_grad():
            us = F.embedding(pieces.ids, self.network.table)
            padding = self.network.table[0].expand_as(us)
            none = us.new_zeros(len(ids), len(self.labels))  # n-grams of words that are unknown
            ngram_logits = none if self.ngrams is None else self.ngrams.shares(ids)
            probabilities = self._probabilities(us, ngram_logits.sum(0), pieces)
            label = int(probabilities.argmax())
            score = float(self._explained(probabilities, label))
            nothing = self._probabilities(padding, none.sum(0), pieces)
            without = float(self._explained(nothing, label))

        def explained(place: list[Tensor]) -> Tensor:
            return self._explained(self._probabilities(place[0], place[1], pieces), label)

        def shares_of(gradients: list[Tensor]) -> list[Tensor]:
            return [((us - padding) * gradients[0]).sum(-1), gradients[1]]

        ends = [us, ngram_logits.sum(0)]
        shares, slope = mean_gradient(
            explained, [padding, 0 * ends[1]], ends, (without, score), within=0.005, keep=shares_of
        )
        read = torch.cat([shares[:n, r] for r, n in enumerate(pieces.lengths.tolist())])
        both = read + ngram_logits @ slope
        flat = both.tolist()
        words, place = [], 0
        for span in spans:
            part = sum(flat[place : place + len(span.ids)])
            words.append(WordContribution(text[span.start : span.end], span.start, span.end, part))
            place += len(span.ids)
        return Explanation(score, without, words)

    def save(self, path: Path | str) -> None:
        """Write the model to one safetensors file, aside first and then renamed.

        The table is kept in 8 bits with one scale a row, the n-grams as `NGrams.packed` says, the rest in
        16 bits.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.network.state_dict().items()}
        table = tensors.pop("table")
        scale = (table.abs().amax(1).clamp(min=1e-8) / 127).half().float()
        packed = {name: tensor.half() for name, tensor in tensors.items()}
        packed["table"] = (table / scale.clamp(min=1e-8).unsqueeze(1)).round().clamp(-127, 127).to(torch.int8)
        packed["table.scale"] = scale.half()
        if self.ngrams is not None:
            packed |= self.ngrams.packed()
        about = {
            "features": self.shape.features,
            "hidden": self.shape.hidden,
            "labels": self.shape.labels,
            "piece": self.shape.piece,
            "temperature": self.shape.temperature,
            "words": json.loads(self.words.to_json()),
        }
        with whole("Buzzometer.save", path) as aside:
            aside.write_bytes(save(packed, metadata={FORMAT: json.dumps(about, ensure_ascii=False)}))

    @classmethod
    @torch.inference_mode(False)  # or what is loaded within inference mode could not be explained outside
    def load(cls, path: Path | str | None = None) -> Buzzometer:
        """Read a model from its file; without a path, the one that comes with the package.

        Raises InputError if there is no such file or it is not a Buzzometer's.
        """
        path = SHIPPED if path is None else Path(path)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if FORMAT not in metadata:
                    raise ValueError(f"it is not a Buzzometer: its metadata has no {FORMAT!r}")
                about = json.loads(metadata[FORMAT])
                tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
            broken = [name for name, x in tensors.items() if not x.isfinite().all()]
            if broken:
                raise ValueError(f"{broken[0]} holds numbers that are not finite")
            words = Words(**about["words"])
            shape = _shape_of(about)
            tensors["table"] *= tensors.pop("table.scale").unsqueeze(1)
            ngrams = NGrams.unpacked(tensors, len(shape.labels))
            network = empty_network(words, shape)
            network.load_state_dict(tensors, assign=True)
        except (
            OSError,
            SafetensorError,
            LookupError,
            ValueError,
            TypeError,
            ArithmeticError,
            RuntimeError,
        ) as error:
            raise InputError(f"Buzzometer: cannot read a model from {path}: {error}") from error
        return cls(network, words, shape, ngrams)

    def _ids(self, text: str, place: int) -> list[int]:
        self._check(text, f"Buzzometer.score: text {place}")
        return self.words.ids(text)

    @staticmethod
    def _check(text: object, operation: str) -> None:
        if not isinstance(text, str):
            refuse(operation, f"expected a text, got {type(text).__name__} {str(text)[:40]!r}")

    def _answer(self, row: list[float]) -> Score:
        best = max(range(len(row)), key=row.__getitem__)
        names = [label.lower() for label in self.labels]
        if row.count(row[best]) == len(row) and "neutral" in names:
            best = names.index("neutral")
        by_label = dict(zip(self.labels, row, strict=True))
        signs = self._signs
        score = None if signs is None else sum(p * sign for p, sign in zip(row, signs, strict=True))
        return Score(self.labels[best], score, row[best], by_label)

    def _probabilities(self, us: Tensor, ngram_logits: Tensor, pieces: Pieces) -> Tensor:
        """Probabilities [1, C] of one text by its word vectors and its n-grams' logits [C]."""
        pooled: Pooled = self.network.pool(us, pieces)
        if self.ngrams is not None:
            ngram_logits = ngram_logits + self.ngrams.bias
        return self.probabilities(self.network.classify(pooled) + ngram_logits, pooled.steps)

    def _explained(self, probabilities: Tensor, label: int) -> Tensor:
        """The score, or for a model without one the probability of `label`."""
        if self._signs is None:
            return probabilities[0, label]
        return probabilities[0] @ probabilities.new_tensor(self._signs)


def _shape_of(about: dict[str, Any]) -> Shape:
    """The sizes and labels that a file's metadata names.

    Raises InputError for what no training writes: the tensors of a file do not show that these are wrong.
    """
    labels, piece, temperature = about["labels"], about["piece"], about["temperature"]
    named = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    if not named or len(labels) < 2 or len(set(labels)) < len(labels):
        refuse("Shape", f"labels are {labels!r}; expected two or more different texts")
    if type(piece) is not int or piece < 1:
        refuse("Shape", f"piece is {piece!r}; expected an integer of at least 1")
    numbers = isinstance(temperature, list) and [type(part) in (int, float) for part in temperature]
    # It only grows or only falls with the length: what can be divided by at both ends can be between them.
    ends = torch.tensor([0.0, 1e6], device="cpu")
    heat = Temperature(*temperature).of(ends) if numbers == [True, True] else None
    if heat is None or not (heat.isfinite() & (heat > 1e-12)).all():
        refuse("Shape", f"temperature is {temperature!r}; expected two finite numbers of moderate size")
    return Shape(about["features"], about["hidden"], tuple(labels), piece, Temperature(*temperature))


def empty_network(words: Words, shape: Shape) -> DocumentClassifier:
    """A network of the right sizes whose weights are still to come."""
    with torch.device("meta"):
        return DocumentClassifier(len(words), shape.features, shape.hidden, len(shape.labels))
