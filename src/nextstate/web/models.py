"""The models that a service answers with, and what it asks of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nextstate.buzzometer import Buzzometer, Explanation, Score


class Writer(Protocol):
    """A model of text: see `nextstate.recipes.text_model.TextModel`."""

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
    ) -> Iterator[bytes]: ...


class Sorter(Protocol):
    """See `nextstate.recipes.sorter.TrainedSorter`."""

    def sort(self, lists: list[list[int]]) -> list[list[int]]: ...


class Scorer(Protocol):
    """See `nextstate.buzzometer.Buzzometer`."""

    def score(self, texts: list[str]) -> list[Score]: ...

    def explain(self, text: str) -> Explanation: ...


@dataclass(frozen=True, slots=True)
class Models:
    """The models of a service; what is None is answered with 404. `tracked`: a file of tracked posts."""

    buzz: Scorer | None = None
    text: Writer | None = None
    sorter: Sorter | None = None
    tracked: Path | None = None

    def warm(self) -> None:
        """Use every model once, so that what is made at first use is made before anyone waits for it."""
        if self.buzz is not None:
            self.buzz.score(["once", "twice at once"])
            self.buzz.explain("once")
        if self.text is not None:
            list(self.text.generate(length=2))
        if self.sorter is not None:
            self.sorter.sort([])


def load_models(
    buzz: Path | None = None,
    text: Path | None = None,
    sorter: Path | None = None,
    tracked: Path | None = None,
) -> Models:
    """The models of the given files; for those not given the package's own, as far as it brings one."""
    from nextstate.buzzometer import SHIPPED as BUZZ
    from nextstate.recipes.sorter import SHIPPED as SORTER
    from nextstate.recipes.sorter import load_sorter
    from nextstate.recipes.text_model import SHIPPED as TEXT
    from nextstate.recipes.text_model import load_text_model

    def chosen(given: Path | None, shipped: Path) -> Path | None:
        return given if given is not None else shipped if shipped.exists() else None

    buzz, text, sorter = chosen(buzz, BUZZ), chosen(text, TEXT), chosen(sorter, SORTER)
    return Models(
        None if buzz is None else Buzzometer.load(buzz),
        None if text is None else load_text_model(text),
        None if sorter is None else load_sorter(sorter),
        tracked,
    )
