"""Requests that arrive together are computed together, in a thread of their own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Job(Generic[Item, Result]):
    """The items of one request; `begun` of them are in a batch, `missing` have no result yet."""

    items: Sequence[Item]
    done: asyncio.Future[list[Result]]
    begun: int = 0
    missing: int = 0
    results: dict[int, Result] = field(default_factory=dict)


class Batcher(Generic[Item, Result]):
    """Collects items of many callers into batches for one function.

    Batcher : ([item] -> [result]) -> (async [item] -> [result])

    The first item of an idle batcher waits `window` seconds for others; while a batch is computed the next
    one gathers. A batch has at most `items` items and, beyond its first, at most `cost` of `cost_of(item)`.
    It takes from waiting callers in turn, so one with many items does not keep one with few waiting.

    If a batch fails its items are computed one by one, so that a caller's bad item is its own trouble.
    A caller that is cancelled takes its waiting items along.

    >>> async def ask():
    ...     sizes = []
    ...     batcher = Batcher(lambda batch: sizes.append(len(batch)) or [2 * n for n in batch], items=8)
    ...     answers = await asyncio.gather(batcher([1, 2]), batcher([3]))
    ...     await batcher.close()
    ...     return answers, sizes
    >>> asyncio.run(ask())
    ([[2, 4], [6]], [3])
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Result]],
        *,
        items: int,
        cost: float = float("inf"),
        cost_of: Callable[[Item], float] = lambda item: 1,
        window: float = 0.002,
        name: str = "batcher",
    ) -> None:
        self.run, self.items, self.cost, self.cost_of, self.window = run, items, cost, cost_of, window
        self.waiting: deque[_Job[Item, Result]] = deque()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self.worker: asyncio.Task[None] | None = None

    async def __call__(self, items: Sequence[Item]) -> list[Result]:
        if not items:
            return []
        job: _Job[Item, Result] = _Job(items, asyncio.get_running_loop().create_future(), missing=len(items))
        self.waiting.append(job)
        if self.worker is None or self.worker.done():
            self.worker = asyncio.create_task(self._work())
        return await job.done

    async def close(self) -> None:
        """Finish what was accepted, then end the thread."""
        if self.worker is not None:
            await self.worker
        self.thread.shutdown()

    async def _work(self) -> None:
        await asyncio.sleep(self.window)
        while batch := self._fill():
            items = [job.items[place] for job, place in batch]
            loop = asyncio.get_running_loop()
            results = await loop.run_in_executor(self.thread, self._compute, items)
            for (job, place), result in zip(batch, results, strict=True):
                _deliver(job, place, result)

    def _fill(self) -> list[tuple[_Job[Item, Result], int]]:
        """The next batch: (job, place of an item in it), ..."""
        batch: list[tuple[_Job[Item, Result], int]] = []
        spent = 0.0
        while self.waiting and len(batch) < self.items:
            job = self.waiting.popleft()
            if job.done.done():  # cancelled, or already refused
                continue
            cost = self.cost_of(job.items[job.begun])
            if batch and spent + cost > self.cost:
                self.waiting.appendleft(job)
                break
            batch.append((job, job.begun))
            spent += cost
            job.begun += 1
            if job.begun < len(job.items):
                self.waiting.append(job)
        return batch

    def _compute(self, items: list[Item]) -> list[Result | Exception]:
        try:
            return list(self.run(items))
        except Exception as error:
            if len(items) == 1:
                return [error]
            return [self._compute([item])[0] for item in items]


def _deliver(job: _Job[Item, Result], place: int, result: Result | Exception) -> None:
    if job.done.done():
        return
    if isinstance(result, Exception):
        job.done.set_exception(result)
        return
    job.results[place] = result
    job.missing -= 1
    if not job.missing:
        job.done.set_result([job.results[place] for place in range(len(job.items))])
