"""`nextstate serve`: the models behind an address, with a page for people."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from nextstate.checks import InputError, refuse

BACKLOG = 1024
"""Connections that may wait to be taken."""


def serve(
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes one that is free.")] = 8000,
    buzz: Annotated[Path | None, typer.Option(help="A Buzzometer of your own.")] = None,
    text: Annotated[Path | None, typer.Option(help="A model of text of your own.")] = None,
    sorter: Annotated[Path | None, typer.Option(help="A sorter of your own.")] = None,
    db: Annotated[Path | None, typer.Option(help="Tracked posts for the page: see buzz track.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Say where it listens as JSON.")] = False,
) -> None:
    """Serve the models: a page at /, /score, /explain, /generate, /sort, /health, their reference at /docs.

    Interrupt it (Ctrl-C) or send SIGTERM to stop it: it finishes what it has accepted.
    """
    try:
        import uvicorn

        from nextstate.web.app import create_app
        from nextstate.web.connections import Connections
    except ImportError as error:
        raise InputError(f"serve: {error}; it needs pip install 'nextstate[serve]'") from error
    import torch

    from nextstate.engines.threads import set_threads
    from nextstate.web.limits import Limits
    from nextstate.web.models import load_models

    # The cores are for the engine: what torch does between its runs is too small to share.
    set_threads(torch.get_num_threads())
    torch.set_num_threads(1)
    listening = _listen(host, port)
    limits = Limits()
    models = load_models(buzz, text, sorter, db)
    models.warm()
    protocol: Any = Connections(limits)
    config = uvicorn.Config(
        create_app(models, limits),
        http=protocol,
        ws="none",
        log_level="critical",  # what goes wrong in a request is logged by the application
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=int(limits.seconds + limits.patience),
    )
    found = listening.getsockname()
    address = f"http://{f'[{found[0]}]' if ':' in found[0] else found[0]}:{found[1]}"
    if json_output:
        print(json.dumps({"address": address}), flush=True)
    else:
        print(address, flush=True)
        print(f"the page is at {address}/, the reference at {address}/docs; Ctrl-C stops", file=sys.stderr)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:  # raised again by uvicorn once all is finished
        return


def _listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on: who asks while the models are loaded waits.

    It names its protocol: asyncio sends without delay (TCP_NODELAY) only where it sees TCP, and an answer in
    two parts would otherwise wait some 40 ms for the acknowledgement of the first.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        refuse("serve", f"cannot listen at {host} port {port}: {error.strerror}")
    return listening
