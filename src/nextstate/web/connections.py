"""Connections that do nothing are closed, and only so many are open: what uvicorn leaves to a proxy."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from nextstate.web.limits import Limits


class Connections:
    """Makes uvicorn's HTTP/1.1 protocol for every connection and watches it.

    A connection on which no request has begun for `patience` seconds, for want of a complete head, is
    closed; so is one that would be beyond `connections`.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    def __call__(self, **options: Any) -> H11Protocol:
        protocol = H11Protocol(**options)
        loop = options.get("_loop") or asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self._admit, protocol, loop)  # behind its `connection_made`
        return protocol

    def _admit(self, protocol: H11Protocol, loop: asyncio.AbstractEventLoop) -> None:
        if len(protocol.connections) > self.limits.connections:
            _close(protocol)
        else:
            loop.call_later(self.limits.patience, self._watch, protocol, loop, None)

    def _watch(self, protocol: H11Protocol, loop: asyncio.AbstractEventLoop, before: object) -> None:
        """`before`: the last request that had been answered when this was called last, None for none."""
        if protocol not in protocol.connections:
            return
        cycle = protocol.cycle
        waiting = cycle is None or cycle.response_complete
        if waiting and cycle is before:
            _close(protocol)
        else:
            loop.call_later(self.limits.patience, self._watch, protocol, loop, cycle if waiting else self)


def _close(protocol: H11Protocol) -> None:
    if protocol.transport is not None:
        protocol.transport.abort()
