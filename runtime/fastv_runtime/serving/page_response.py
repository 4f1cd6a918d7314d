"""The page at `/`: one file, whose scripts and styles alone the browser is to run."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from html.parser import HTMLParser
from importlib.resources import files

from fastapi import Response

from fastv_runtime.serving.errors import ApiError


def page_response() -> Response:
    """Raises ApiError, 404, where the page is not installed."""
    page = _page()
    if page is None:
        raise ApiError(404, "the page is not installed", code="not_found")
    content, policy = page
    return Response(
        content,
        media_type="text/html",
        headers={
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cache-Control": "no-cache",
        },
    )


@cache
def _page() -> tuple[bytes, str] | None:
    """The page and its policy: the inline blocks that the file has, by their hashes, and no other code."""
    try:
        content = (files("fastv_runtime.serving") / "page" / "index.html").read_bytes()
    except OSError:
        return None
    blocks = _InlineBlocks()
    blocks.feed(content.decode("utf-8"))
    blocks.close()
    return content, "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(blocks.hashes['script']) or chr(39) + 'none' + chr(39)}",
            f"style-src {' '.join(blocks.hashes['style']) or chr(39) + 'none' + chr(39)}",
            "img-src 'self' data: blob:",
            "media-src data: blob:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


class _InlineBlocks(HTMLParser):
    """Hashes of the scripts and styles inside a page, as a Content-Security-Policy has them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.hashes: dict[str, list[str]] = {"script": [], "style": []}
        self._text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._text = []

    def handle_data(self, data: str) -> None:
        self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.hashes:
            digest = hashlib.sha256("".join(self._text).encode()).digest()
            self.hashes[tag].append(f"'sha256-{base64.b64encode(digest).decode()}'")
        self._text = []
