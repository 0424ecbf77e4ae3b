"""The service: endpoints, refusals, the page."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

import nextstate
from nextstate.checks import InputError
from nextstate.tasks.tracking import Day, moment, read_report, report_of
from nextstate.web import wire
from nextstate.web.guard import Guard
from nextstate.web.limits import Limits, Refusal
from nextstate.web.models import Models
from nextstate.web.pages import add_pages
from nextstate.web.work import Work

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": wire.Failure, "description": meaning}
    for status, meaning in (
        (404, "There is no such model here."),
        (408, "The request came too slowly."),
        (413, "The request is too large."),
        (422, "The request is not understood."),
        (503, "Too much is under way, or the answer took too long; try again."),
    )
}


def create_app(models: Models, limits: Limits | None = None) -> Guard:
    """The ASGI application of a service; `uvicorn` runs it, `nextstate serve` starts both.

    >>> create_app(Models()).limits.texts
    2000
    """
    limits = Limits() if limits is None else limits
    work = Work(models, limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await work.close()

    app = FastAPI(
        title="NextState",
        version=nextstate.__version__,
        description="Feelings scored and explained, text written, lists sorted by recurrent networks.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own page fetches its script from elsewhere
        redoc_url=None,
    )
    guard = Guard(app, limits)
    _add_refusals(app)
    add_pages(app)

    @app.post("/score", responses=REFUSALS)
    async def score(request: wire.ScoreRequest) -> wire.ScoreAnswer:
        """What each text feels. Texts of requests that arrive together are scored together."""
        texts = request.all()
        limits.check_texts(texts)
        scoring = work.scoring or _absent("Buzzometer")
        return wire.ScoreAnswer(results=[wire.Scored.of(answer) for answer in await scoring.score(texts)])

    @app.post("/explain", responses=REFUSALS)
    async def explain(request: wire.ExplainRequest) -> wire.Explained:
        """What each word of a text adds to its score."""
        limits.check_texts([request.text], limits.explained)
        scoring = work.scoring or _absent("Buzzometer")
        return wire.Explained.of(await scoring.explain(request.text))

    @app.post(
        "/generate",
        responses=REFUSALS | {200: {"content": {"text/plain": {}}, "description": "Text, as it is drawn."}},
        response_class=StreamingResponse,
    )
    async def generate(request: wire.GenerateRequest) -> StreamingResponse:
        """Text written on after `prime`, sent as it is drawn. The same seed gives the same text."""
        limits.check_texts([request.prime])
        writing = work.writing or _absent("model of text")
        pieces = await writing.begin(**request.model_dump())
        return StreamingResponse(pieces, media_type="text/plain; charset=utf-8")

    @app.post("/sort", responses=REFUSALS)
    async def sort(request: wire.SortRequest) -> wire.SortAnswer:
        """Lists of whole numbers in order, as the network writes them."""
        lists = request.all()
        numbers = sum(map(len, lists)) + len(lists)
        if numbers > limits.numbers:
            raise Refusal(413, f"{numbers} numbers in one request; at most {limits.numbers} are sorted")
        sorting = work.sorting or _absent("sorter")
        return wire.SortAnswer(lists=await sorting(lists))

    @app.get("/track", responses=REFUSALS)
    async def track() -> wire.Index:
        """The index of the tracked posts a topic and day, with intervals and the days that changed."""
        if models.tracked is None:
            _absent("file of tracked posts (start it with --db)")
        loop = asyncio.get_running_loop()
        try:
            report = await loop.run_in_executor(None, read_report, models.tracked)
        except InputError as error:  # the file is being written, or is not there yet
            raise Refusal(503, str(error)) from error
        return wire.Index(**report.to_json())

    @app.post("/days", responses=REFUSALS)
    async def days(request: wire.DaysRequest) -> wire.DaysAnswer:
        """The day in UTC of each time; null for what states none. `nextstate buzz track` reads the same."""
        limits.check_texts(request.times)
        moments = map(moment, request.times)
        return wire.DaysAnswer(days=[None if found is None else found.date() for found in moments])

    @app.post("/index", responses=REFUSALS)
    async def index(request: wire.IndexRequest) -> wire.Index:
        """The same index of posts that were scored elsewhere, from sums a topic and day."""
        return wire.Index(**report_of(Day(**day.model_dump()) for day in request.days).to_json())

    @app.get("/health")
    async def health() -> wire.Health:
        """Whether the service answers, and what."""
        parts = {
            "score": work.scoring,
            "explain": work.scoring,
            "generate": work.writing,
            "sort": work.sorting,
            "track": models.tracked,
        }
        bounds = wire.Bounds.model_validate(limits)
        answers = [name for name, part in parts.items() if part is not None]
        return wire.Health(
            status="ok", version=nextstate.__version__, answers=answers, open=guard.open, limits=bounds
        )

    return guard


def _absent(what: str) -> NoReturn:
    raise Refusal(404, f"this service has no {what}")


def _add_refusals(app: FastAPI) -> None:
    def answer(status: int, complaint: str) -> JSONResponse:
        return JSONResponse({"error": complaint}, status, {"retry-after": "1"} if status == 503 else None)

    @app.exception_handler(Refusal)
    async def refused(request: object, error: Refusal) -> JSONResponse:
        return answer(error.status, error.complaint)

    @app.exception_handler(InputError)
    async def bad_input(request: object, error: InputError) -> JSONResponse:
        return answer(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def not_understood(request: object, error: RequestValidationError) -> JSONResponse:
        found = error.errors()[0]
        where = ".".join(str(part) for part in found["loc"][1:])
        message = str(found["msg"]).removeprefix("Value error, ")
        return answer(422, f"{where}: {message}" if where else message)

    @app.exception_handler(HTTPException)
    async def refused_by_the_framework(request: object, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def failed(request: object, error: Exception) -> JSONResponse:
        logging.getLogger("nextstate.web").error("a request failed", exc_info=error)
        return answer(500, "the service failed on this request; its log says why")
