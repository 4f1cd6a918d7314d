"""What an `http:`, `https:` or `data:` address holds, within bounds of size and time."""

from __future__ import annotations

import ipaddress
import ssl
import threading
import time
import urllib.request
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from fastv_runtime.errors import UserError

MOST_BYTES = 64 << 20
"""Of an image, more than any camera's."""
SECONDS = 30.0
"""For an address to answer and to send it all."""
REDIRECTS = 5
SCHEMES = ("http", "https")


def scheme_of(source: str) -> str:
    """Of an address. `http:` is one even where a file has that name: a file's path can be written ./http:..."""
    head, colon, _ = source.partition(":")
    return head.lower() if colon else ""


def fetch(address: str, name: str, *, private: bool = True) -> bytes:
    """What an `http:`, `https:` or `data:` address holds, within MOST_BYTES and SECONDS.

    Redirects go to http and https alone. `name`: for messages. private: whether hosts of this machine's own networks
    may be asked; where they may not, the address that is connected to decides, whatever names say, and no proxy is
    used. Raises UserError.
    """
    found: list[bytes | UserError] = []

    def work() -> None:
        try:
            found.append(_fetched(address, private))
        except HTTPError as error:
            found.append(UserError(f"{name}: {error.code} {error.reason}"))
        except (OSError, HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, URLError) else error
            found.append(UserError(f"{name}: cannot be fetched: {reason or type(error).__name__}"))
        except UserError as error:
            found.append(UserError(f"{name}: {error}"))

    # In a thread of its own: timeouts of sockets are for each read, and those of names for nothing.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if not found:
        raise UserError(f"{name}: not there within {SECONDS:g} s: download it, and give the file")
    if isinstance(found[0], UserError):
        raise found[0]
    return found[0]


def _fetched(address: str, private: bool) -> bytes:
    deadline = time.monotonic() + SECONDS
    opener = urllib.request.OpenerDirector()
    connecting: tuple[urllib.request.BaseHandler, ...] = (
        (urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler())
        if private
        else (_PublicHTTPHandler(), _PublicHTTPSHandler())
    )
    for handler in (
        *connecting,
        urllib.request.DataHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _CheckedRedirects(),
    ):
        opener.add_handler(handler)
    if scheme_of(address) == "data" and "," not in address:
        raise ValueError("no data in it, which stands behind a comma")
    if scheme_of(address) in SCHEMES and not urlsplit(address).hostname:
        raise ValueError("no host in the address")
    with opener.open(urllib.request.Request(address), timeout=SECONDS) as response:
        data = bytearray()
        while piece := response.read(1 << 16):
            data += piece
            if len(data) > MOST_BYTES:
                raise UserError(f"more than {MOST_BYTES >> 20} MiB: download it, and give the file")
            if time.monotonic() > deadline:
                raise TimeoutError("too slow")
    return bytes(data)


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """To http and https alone: not to files, and not to `data:`."""

    max_redirections = REDIRECTS

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if scheme_of(newurl) not in SCHEMES:
            raise UserError(f"redirects to {newurl[:80]}: only http and https are followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _PublicConnection(HTTPConnection):
    """Refuses, before anything is sent, whoever is not on the public internet."""

    def connect(self) -> None:
        super().connect()
        host = self.sock.getpeername()[0].partition("%")[0]
        found = ipaddress.ip_address(host)
        mapped = getattr(found, "ipv4_mapped", None) or found
        if not mapped.is_global or mapped.is_multicast:
            self.close()
            raise UserError("the address is on this server's own network, which it does not open for others")


class _PublicSecureConnection(HTTPSConnection, _PublicConnection):
    """HTTPSConnection connects by its parent's method, which here is _PublicConnection's: checked before TLS."""


class _PublicHTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_PublicConnection, req)


class _PublicHTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_PublicSecureConnection, req, context=ssl.create_default_context())
