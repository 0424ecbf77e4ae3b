"""A trained model of text: what it is made of, what can be asked of it, and its file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from nextstate import cells
from nextstate.cell import Cell
from nextstate.checks import InputError, refuse
from nextstate.networks import DynamicScorer, LanguageModel, Scorer
from nextstate.tasks.text import Unit, unit_from_json
from nextstate.tasks.text.sources import at_line_ends
from nextstate.tasks.text.units import as_characters
from nextstate.writing import whole

FORMAT = "nextstate-text-1"
"""The one key of the file's metadata: with several, safetensors would write them in a random order."""

SHIPPED = Path(__file__).parent.parent / "models" / "text.safetensors"
"""The model that comes with the package; `text.md` beside it says how it was made and measured."""

START = b"\n"
"""What a model has read before the first character of a text: the end of a line."""

STEPS = 2048
"""Tokens read at a time where a whole text is scored."""


def _takes_two_sizes(name: str) -> bool:
    kind = getattr(cells, name)
    if not isinstance(kind, type):
        return False
    needed = [name for name, part in signature(kind).parameters.items() if part.default is part.empty]
    return needed == ["input_size", "hidden_size"]


CELLS = tuple(filter(_takes_two_sizes, cells.__all__))
"""Cells by name that take (input_size, hidden_size)."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a text model: `layers` cells of `hidden` units on a table of `features`."""

    cell: str
    layers: int
    features: int
    hidden: int
    tied: bool = False

    def cells(self) -> list[Cell]:
        """Fresh cells, the first of which reads the table. With `tied` the last gives `features` again."""
        if self.cell not in CELLS:
            refuse("text", f"cell is {self.cell!r}; expected one of {', '.join(CELLS)}")
        if min(self.layers, self.features, self.hidden) < 1:
            refuse("text", f"layers, features and hidden are {self}; each must be at least 1")
        make = getattr(cells, self.cell)
        sizes = [self.features] + [self.hidden] * self.layers
        if self.tied:
            sizes[-1] = self.features
        return [make(before, after) for before, after in pairwise(sizes)]

    def network(self, vocabulary: int) -> LanguageModel:
        return LanguageModel(vocabulary, self.features, *self.cells(), tied=self.tied)


class Scored(NamedTuple):
    """Negative log-probabilities added up over a text."""

    nats: float
    characters: int
    tokens: int

    def figures(self) -> dict[str, float]:
        """Nats and bits a character, and the perplexity, e to the nats a character."""
        nats = self.nats / max(1, self.characters)
        return {
            "nats_per_character": nats,
            "bits_per_character": nats / math.log(2),
            "perplexity": math.exp(min(nats, 700.0)),
        }


class TextModel:
    """A language model with its unit: text in, text and probabilities out.

    >>> from nextstate.tasks.text import Bytes
    >>> model = TextModel(Shape("GRU", 1, 4, 8), Bytes(), Shape("GRU", 1, 4, 8).network(256))
    >>> text = b"".join(model.generate("To be", length=10, seed=1))
    >>> len(text), text == b"".join(model.generate(b"To be", length=10, seed=1))
    (10, True)
    >>> characters, nats = model.score("To be")
    >>> characters, nats.shape
    ('To be', (5,))
    """

    def __init__(self, shape: Shape, unit: Unit, network: LanguageModel) -> None:
        self.shape, self.unit, self.network = shape, unit, network.eval()

    def generate(
        self,
        prime: str | bytes = "",
        *,
        length: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stop: str | bytes | None = None,
    ) -> Iterator[bytes]:
        """Write on after `prime`, token by token as it is drawn; the same seed gives the same text.

        generate : text -> bytes, bytes, ...

        Ends after `length` tokens or once `stop` has been written; without both, never. `prime` is not
        repeated. An empty one stands for the end of a line.

        Raises InputError for length < 0, bad settings of `nextstate.networks.Sampling`, and a str that no
        bytes can be (surrogates other than those that stand for lone bytes).
        """
        if length is not None and length < 0:
            refuse("generate", f"length is {length}; expected an integer >= 0, or None for no end")
        end = _bytes(stop or b"")
        ids = torch.from_numpy(self.unit.encode(_bytes(prime) or START).astype(np.int64))
        drawn = self.network.generate(
            ids[None],
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            generator=torch.Generator().manual_seed(seed),
        )
        return self._written(drawn, length, end)

    def _written(self, drawn: Iterator[torch.Tensor], length: int | None, end: bytes) -> Iterator[bytes]:
        tail, count = b"", 0
        while length is None or count < length:
            token = self.unit.decode([int(next(drawn))])
            yield token
            count += 1
            if end:
                tail = (tail + token)[-len(end) - len(token) :]
                if end in tail:
                    return

    def score(self, text: str | bytes) -> tuple[str, np.ndarray]:
        """The characters of a text and -log p of each in nats, given all before it.

        score : text -> (characters, [nats]);  a character of several tokens has the sum of theirs, and
        each character of a token its even share. Bytes that are no UTF-8 are lone surrogates.
        """
        text = _bytes(text)
        nats = np.concatenate([np.zeros(0), *[part for _, part in self.token_nats([text])]])
        tokens = [self.unit.decode([number]) for number in self.unit.encode(text).tolist()]
        by_byte = np.repeat(nats / np.maximum(1, [len(t) for t in tokens]), [len(t) for t in tokens])
        characters = "".join(as_characters([text]))
        sizes = [len(character.encode("utf-8", "surrogateescape")) for character in characters]
        ends = np.cumsum([0, *sizes])
        total = np.concatenate([[0.0], np.cumsum(by_byte)])
        return characters, total[ends[1:]] - total[ends[:-1]]

    def token_nats(
        self, pieces: Iterable[bytes], *, dynamic: bool = False
    ) -> Iterator[tuple[bytes, np.ndarray]]:
        """-log p of every token of a text in pieces, with the piece; the state is carried throughout.

        token_nats : [bytes] -> (bytes, [nats]), ...;  memory does not grow with the text. `dynamic`:
        under dynamic evaluation, in which the weights follow the text.
        """
        before = self.unit.encode(START)[-1:]
        score = DynamicScorer(self.network) if dynamic else Scorer(self.network)
        for piece in at_line_ends(pieces):
            ids = self.unit.encode(piece)
            parts = [np.zeros(0)]
            for begin in range(0, len(ids), STEPS):
                chunk = np.concatenate([before, ids[begin : begin + STEPS]]).astype(np.int64)
                parts.append(-score(torch.from_numpy(chunk)).double().numpy())
                before = chunk[-1:]
            yield piece, np.concatenate(parts)

    def evaluate(self, pieces: Iterable[bytes], *, dynamic: bool = False) -> Iterator[Scored]:
        """Sums over a text as it is read: the last item is the whole. See `token_nats`."""
        nats, tokens, characters = 0.0, 0, 0
        for piece, part in self.token_nats(pieces, dynamic=dynamic):
            nats, tokens = nats + float(part.sum()), tokens + len(part)
            characters += len(piece.decode("utf-8", "surrogateescape"))
            yield Scored(nats, characters, tokens)

    def save(self, path: Path) -> None:
        """Write weights (float16), shape and unit to one safetensors file, aside first and then renamed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {
            name: t.detach().cpu().half().contiguous()
            for name, t in self.network.state_dict().items()
            if not (self.shape.tied and name == "readout.weight")
        }
        about = {"shape": asdict(self.shape), "unit": self.unit.to_json()}
        with whole("save", path) as aside:
            aside.write_bytes(save(tensors, metadata={FORMAT: json.dumps(about)}))


def load_text_model(path: Path = SHIPPED) -> TextModel:
    """Read a model of text from its file.

    Raises InputError if there is no such file or it is not one of a text model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if FORMAT not in metadata:
                refuse("text", f"{path} is not a model of text: its metadata has no {FORMAT!r}")
            about = json.loads(metadata[FORMAT])
            shape, unit = Shape(**about["shape"]), unit_from_json(about["unit"])
            network = shape.network(unit.size)
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
            if shape.tied:
                tensors["readout.weight"] = tensors["cell.table"]
            network.load_state_dict(tensors)
    except InputError:
        raise
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"text: cannot read a model of text from {path}: {error}") from error
    return TextModel(shape, unit, network)


def _bytes(text: str | bytes) -> bytes:
    if not isinstance(text, str):
        return text
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InputError(f"text: {text[error.start]!r} at place {error.start} is no character") from error
