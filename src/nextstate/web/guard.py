"""What stands before the application: bodies bounded while they arrive, time limits, refusals as JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from nextstate.web.limits import Limits, Refusal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


class Guard:
    """ASGI middleware that reads a request's body within limits before the application sees it.

    Refusals: 408 a body that comes too slowly, 413 one too large (seen from its declared length, or as soon
    as it is exceeded), 503 too much under way or an answer that takes too long. The answer to a client that
    does not take it is given up. Every refusal is `{"error": sentence}`.
    """

    def __init__(self, app: Application, limits: Limits) -> None:
        self.app, self.limits = app, limits
        self.open = 0
        self.held = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(send, self.limits.patience)
        held = 0
        self.open += 1

        def hold(count: int) -> None:
            nonlocal held
            held, self.held = held + count, self.held + count
            if self.held > self.limits.held:
                raise Refusal(503, "the service holds all it can; try again in a moment")

        try:
            if self.open > self.limits.open:
                raise Refusal(503, f"{self.limits.open} requests are under way; try again in a moment")
            body = await self._body(scope, receive, hold)
            if body is not None:
                await self._answered(scope, _replayed(body, receive), answer)
        except Refusal as refusal:
            await answer.refuse(refusal)
        finally:
            self.open -= 1
            self.held -= held

    async def _body(
        self, scope: MutableMapping[str, Any], receive: Receive, hold: Callable[[int], None]
    ) -> bytes | None:
        """The whole body; None if the client has gone."""
        most = self.limits.body
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > most:
            raise Refusal(413, f"the body has {int(declared)} bytes; at most {most} are read")
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.limits.patience):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part = message.get("body", b"")
                    size += len(part)
                    if size > most:
                        raise Refusal(413, f"the body has more than {most} bytes, which is all that is read")
                    hold(len(part))
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refusal(408, f"the body did not arrive within {self.limits.patience:g} seconds") from None

    async def _answered(self, scope: MutableMapping[str, Any], receive: Receive, answer: _Answer) -> None:
        try:
            async with asyncio.timeout(self.limits.seconds) as clock:
                answer.began = lambda: None if clock.expired() else clock.reschedule(None)
                await self.app(scope, receive, answer)
        except TimeoutError:
            if answer.begun:
                return
            limit = f"{self.limits.seconds:g} seconds"
            raise Refusal(503, f"the answer took longer than {limit}; ask for less at once") from None
        except Exception:
            if not answer.lost:
                raise


class _Answer:
    """`send` with headers added and a limit on the time that each part may take to be sent."""

    def __init__(self, send: Send, patience: float) -> None:
        self.send, self.patience = send, patience
        self.begun = False
        self.lost = False
        self.began: Callable[[], None] = lambda: None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            self.began()
            given = {name.lower() for name, _ in message.get("headers", [])}
            added = [(name, value) for name, value in HEADERS if name not in given]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        try:
            async with asyncio.timeout(self.patience):
                await self.send(message)
        except (TimeoutError, OSError):
            self.lost = True  # the client has gone or does not take it
            raise

    async def refuse(self, refusal: Refusal) -> None:
        body = json.dumps({"error": refusal.complaint}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),  # part of the body may still be on its way
        ]
        if refusal.status == 503:
            headers.append((b"retry-after", b"1"))
        await self({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` that gives the body first, then whatever comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
