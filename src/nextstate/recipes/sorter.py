"""A trained sorter: the network, what it was trained for, and its file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nextstate.checks import InputError, refuse
from nextstate.networks import EncoderDecoder
from nextstate.recipes.files import looks
from nextstate.run import engine
from nextstate.writing import whole

FORMAT = "nextstate-sorter-1"
"""The one key of the file's metadata: with several, safetensors would write them in a random order."""

SHIPPED = Path(__file__).parent.parent / "models" / "sorter.safetensors"
"""The sorter that comes with the package; `sorter.md` beside it says how it was made and measured."""


@dataclass(frozen=True, slots=True)
class Range:
    """What a sorter can be asked: lists of `shortest` to `longest` numbers out of 1..largest."""

    largest: int
    shortest: int
    longest: int

    def check(self, numbers: Sequence[int], operation: str = "sort") -> None:
        """Raises InputError for a list that the sorter was not trained for.

        >>> Range(largest=32, shortest=1, longest=40).check([5, 33])
        Traceback (most recent call last):
        nextstate.checks.InputError: sort: number 2 is 33; this model sorts whole numbers from 1 to 32
        """
        count = len(numbers)
        if count == 0:
            refuse(operation, f"the list is empty; this model sorts lists of {self.lengths()}")
        for place, number in enumerate(numbers, 1):
            if not 1 <= number <= self.largest:
                refuse(
                    operation,
                    f"number {place} is {number}; this model sorts whole numbers from 1 to {self.largest}",
                )
        if not self.shortest <= count <= self.longest:
            refuse(operation, f"the list has {count} numbers; this model sorts lists of {self.lengths()}")

    def lengths(self) -> str:
        one = self.shortest == self.longest
        return f"{self.longest}" if one else f"{self.shortest} to {self.longest}"


class TrainedSorter:
    """Numbers in, the same numbers in order out, as the network writes them.

    TrainedSorter : [count, length] -> [count, length]

    The network reads ids (number - 1) and writes as many ids as it read, greedily. Nothing checks or
    mends its answer. It runs on the reference engine, which answers before another one is compiled.
    """

    def __init__(self, network: EncoderDecoder, size: int, range: Range) -> None:
        self.network, self.size, self.range = network, size, range

    @torch.inference_mode()
    def __call__(self, lists: Tensor) -> Tensor:
        with engine("reference"):
            return self.network.generate(lists - 1, steps=lists.shape[1]) + 1

    def sort(self, lists: Sequence[Sequence[int]]) -> list[list[int]]:
        """Sort lists of any lengths within the range, those of equal length together.

        Raises InputError for a list outside the range.
        """
        answers: list[list[int]] = [[] for _ in lists]
        by_length: dict[int, list[int]] = {}
        for place, numbers in enumerate(lists):
            self.range.check(numbers)
            by_length.setdefault(len(numbers), []).append(place)
        for places in by_length.values():
            written = self(torch.tensor([list(lists[place]) for place in places])).tolist()
            for place, answer in zip(places, written, strict=True):
                answers[place] = answer
        return answers

    def save(self, path: Path) -> None:
        """Write weights and range to one safetensors file, aside first and then renamed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.network.state_dict().items()}
        about = {"hidden_size": self.size, "range": asdict(self.range)}
        with whole("save", path) as aside:
            aside.write_bytes(save(tensors, metadata={FORMAT: json.dumps(about)}))


def sorting_network(largest: int, hidden_size: int) -> EncoderDecoder:
    """An encoder and a decoder (GRU) joined by the encoder's last state; numbers are read one-hot.

    The tables of both are the identity and are not trained: row k is number k + 1, the last row of the
    decoder's the start symbol.
    """
    symbols = largest + 1
    network = EncoderDecoder(largest, largest, hidden_size, embedding_size=symbols)
    for table in (network.encoder.table, network.decoder.table):
        with torch.no_grad():
            table.copy_(torch.eye(symbols)[: table.shape[0]])
        table.requires_grad_(False)
    return network


def load_sorter(path: Path = SHIPPED) -> TrainedSorter:
    """Read a sorter from its file.

    Raises InputError if there is no such file or it is not a sorter's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if FORMAT not in metadata:
                found = ", ".join(metadata) or "nothing"
                refuse("sort", f"{path} is not a sorter's model file ({FORMAT}): its metadata holds {found}")
            about = json.loads(metadata[FORMAT])
            range = Range(**about["range"])
            network = sorting_network(range.largest, about["hidden_size"])
            network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except InputError:
        raise
    except SafetensorError as error:
        found = looks(path) or f"no safetensors file, or not all of one ({error})"
        refuse("sort", f"{path} is not a sorter's model file: {found}")
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"sort: cannot read a sorter from {path}: {looks(path) or error}") from error
    network.eval()
    return TrainedSorter(network, about["hidden_size"], range)
