"""The pages: each one file when it is sent, that runs its own scripts and style and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response

HERE = Path(__file__).parent / "page"


def add_pages(app: FastAPI) -> None:
    """Answer / with the page for people, /docs with the reference."""
    for path, name in (("/", "page.html"), ("/docs", "docs.html")):
        app.add_api_route(path, _answer(whole(name)), methods=["GET"], include_in_schema=False)

    async def no_icon() -> Response:
        return Response(status_code=204)

    app.add_api_route("/favicon.ico", no_icon, methods=["GET"], include_in_schema=False)


def whole(name: str) -> str:
    """The text of a page with the style and the scripts that it names written into it.

    >>> "<script src" in whole("page.html")
    False
    """

    def text(name: str) -> str:
        return (HERE / name).read_text(encoding="utf-8")

    page = re.sub(
        r'<link rel="stylesheet" href="(.+?)">', lambda found: f"<style>{text(found[1])}</style>", text(name)
    )
    return re.sub(r'<script src="(.+?)"></script>', lambda found: f"<script>{text(found[1])}</script>", page)


def _answer(text: str) -> Callable[[], Awaitable[HTMLResponse]]:
    headers = {"content-security-policy": _policy(text), "cache-control": "no-cache"}

    async def page() -> HTMLResponse:
        return HTMLResponse(text, headers=headers)

    return page


def _policy(page: str) -> str:
    """A Content-Security-Policy that allows a page's own scripts and style by their digests."""

    def digests(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'" for part in found
        )

    return (
        f"default-src 'none'; connect-src 'self'; img-src 'self' data: blob:; "
        f"script-src {digests('script')}; style-src {digests('style')}; "
        f"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
