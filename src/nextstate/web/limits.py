"""What the service takes on, and how it says no."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class Refusal(Exception):
    """A request that is answered with an HTTP status of refusal and a sentence that says why."""

    def __init__(self, status: int, complaint: str) -> None:
        super().__init__(complaint)
        self.status, self.complaint = status, complaint


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one request and on all together: sizes in bytes and characters, times in seconds.

    `body`, `texts`, `text`, `explained`, `tokens`, `numbers` bound what one request may hold; `seconds` the
    time to its answer; `patience` the time to send a request's head, then its body, or to take a part of the
    answer. `open` requests may be under way, `held` bytes of bodies in memory, `connections` open.
    """

    body: int = 2 << 20
    texts: int = 2000
    text: int = 100_000
    explained: int = 5000
    tokens: int = 4000
    numbers: int = 100_000
    seconds: float = 30.0
    patience: float = 10.0
    open: int = 256
    held: int = 64 << 20
    connections: int = 2000

    def check_texts(self, texts: Sequence[str], longest: int | None = None) -> None:
        """Raises Refusal: 413 for too many texts or too long ones, 422 for what is no text.

        >>> Limits(text=3).check_texts(["yes", "no way"])
        Traceback (most recent call last):
        nextstate.web.limits.Refusal: text 1 has 6 characters; at most 3 are read
        """
        longest = self.text if longest is None else longest
        if len(texts) > self.texts:
            raise Refusal(413, f"{len(texts)} texts in one request; at most {self.texts} are read")
        for place, text in enumerate(texts):
            if len(text) > longest:
                raise Refusal(413, f"text {place} has {len(text)} characters; at most {longest} are read")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                complaint = f"text {place} is no text: character {error.start} is half of a pair"
                raise Refusal(422, complaint) from None
