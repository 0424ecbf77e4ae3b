"""The work behind the endpoints: batches for short texts, for long ones, and text written piece by piece."""

from __future__ import annotations

import asyncio
import codecs
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from nextstate.buzzometer import Explanation, Score
from nextstate.web.batching import Batcher
from nextstate.web.limits import Limits, Refusal
from nextstate.web.models import Models, Scorer, Sorter, Writer

SHORT = 2000
"""Characters up to which a text is short: long ones go another way, and short ones never wait for them."""

PIECE = 12
"""Tokens drawn before another stream has its turn."""


class Scoring:
    """Texts scored in two lanes and explained in a third, each a thread: see `Batcher`."""

    def __init__(self, buzz: Scorer) -> None:
        self.short: Batcher[str, Score] = Batcher(
            buzz.score, items=128, cost=40_000, cost_of=len, name="short"
        )
        self.long: Batcher[str, Score] = Batcher(buzz.score, items=16, cost=60_000, cost_of=len, name="long")
        self.why: Batcher[str, Explanation] = Batcher(
            lambda texts: [buzz.explain(text) for text in texts], items=1, window=0, name="explain"
        )

    async def score(self, texts: list[str]) -> list[Score]:
        """The scores of texts of any lengths, in their order."""
        lanes = [len(text) <= SHORT for text in texts]
        short, long = await asyncio.gather(
            self.short([text for text, is_short in zip(texts, lanes, strict=True) if is_short]),
            self.long([text for text, is_short in zip(texts, lanes, strict=True) if not is_short]),
        )
        of_lane = {True: iter(short), False: iter(long)}
        return [next(of_lane[is_short]) for is_short in lanes]

    async def explain(self, text: str) -> Explanation:
        [answer] = await self.why([text])
        return answer

    async def close(self) -> None:
        for lane in (self.short, self.long, self.why):
            await lane.close()


class Writing:
    """Texts written in one thread, a few tokens of each in turn."""

    def __init__(self, model: Writer, limits: Limits) -> None:
        self.model, self.limits = model, limits
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="write")

    async def begin(self, prime: str, length: int, **options: object) -> AsyncIterator[str]:
        """The pieces of a text as they are drawn; it ends early where the time of a request is over.

        Raises InputError before the first piece.
        """
        if length > self.limits.tokens:
            raise Refusal(413, f"length is {length}; at most {self.limits.tokens} tokens are written at once")
        end = time.monotonic() + self.limits.seconds
        tokens = self.model.generate(prime, length=length, **options)  # type: ignore[arg-type]
        first = await self._draw(tokens)
        return self._pieces(first, tokens, end)

    async def _pieces(self, piece: bytes, tokens: Iterator[bytes], end: float) -> AsyncIterator[str]:
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        while piece:
            if text := decode(piece):
                yield text
            piece = await self._draw(tokens) if time.monotonic() < end else b""
        if text := decode(b"", final=True):
            yield text

    async def _draw(self, tokens: Iterator[bytes]) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(
            self.thread, lambda: b"".join(islice(tokens, PIECE))
        )

    def close(self) -> None:
        self.thread.shutdown()


class Work:
    """Everything that computes, made from the models there are."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self.scoring = None if models.buzz is None else Scoring(models.buzz)
        self.writing = None if models.text is None else Writing(models.text, limits)
        self.sorting = None if models.sorter is None else _sorting(models.sorter)

    async def close(self) -> None:
        """Finish what was accepted."""
        if self.scoring is not None:
            await self.scoring.close()
        if self.writing is not None:
            self.writing.close()
        if self.sorting is not None:
            await self.sorting.close()


def _sorting(sorter: Sorter) -> Batcher[list[int], list[int]]:
    return Batcher(sorter.sort, items=256, cost=5000, cost_of=lambda numbers: 1 + len(numbers), name="sort")
