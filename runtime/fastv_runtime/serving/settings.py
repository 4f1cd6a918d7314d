"""How a server answers: its model's name, who may ask, and what a request may hold."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.keep import Keep

MIB = 1 << 20
MOST_KEY_FILE_BYTES = MIB


class ServeSettings(BaseModel):
    """Settings of `fastv_runtime.serving.app.create_app`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_name: str = Field(min_length=1, max_length=200)
    """What requests call the model."""
    keep: Keep | None = None
    """Of requests that say nothing of it; None: the bundle's."""
    deadline_s: float | None = Field(default=None, gt=0)
    """From a request's arrival to the end of its answer; None: no limit."""
    key_hashes: tuple[bytes, ...] = ()
    """SHA-256 of each API key; none: everybody may ask."""
    allowed_hosts: tuple[str, ...] | None = None
    """Names in the Host header that are answered; None: any. Against DNS rebinding, where only this machine may ask."""
    cors_origins: tuple[str, ...] = ()
    allow_url: bool = False
    """Whether images and videos may be at `http:` and `https:` addresses on the public internet."""
    allow_private_url: bool = False
    """Whether those may also be on the server's own networks, this machine included."""
    allow_files: tuple[Path, ...] = ()
    """Directories below which `file:` addresses are opened."""
    max_body: int = Field(default=32 * MIB, gt=0)
    """Bytes of a request's body."""
    max_bodies: int = Field(default=256 * MIB, gt=0)
    """Bytes of the bodies of all requests that are at work."""
    max_images: int = Field(default=64, gt=0)
    """Images of one request, whatever they cost in tokens: each is decoded before tokens are counted."""
    max_videos: int = Field(default=4, gt=0)
    body_seconds: float = Field(default=60.0, gt=0)
    """For a request's body to arrive."""


LOOPBACK = ("localhost", "127.0.0.1", "::1")


def key_hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def read_keys(path: str | Path) -> tuple[bytes, ...]:
    """Hashes of the API keys in a file: one a line, blank lines and lines that begin with # left out.

    Raises UserError for a file that cannot be read or holds none.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MOST_KEY_FILE_BYTES + 1)
        if len(data) > MOST_KEY_FILE_BYTES:
            raise UserError(f"`api_key_file` {path}: larger than {MOST_KEY_FILE_BYTES >> 20} MiB")
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except OSError as error:
        raise UserError(f"`api_key_file` {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"`api_key_file` {path}: not UTF-8: write a key a line") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise UserError(f"`api_key_file` {path}: no key in it: write one a line")
    for number, key in enumerate(keys, 1):
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise UserError(f"`api_key_file` {path}: key {number} has characters that no HTTP header can hold")
    return tuple(key_hash(key) for key in keys)
