"""Images and videos of a request: opened where its addresses lead, as far as the server's settings go."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

from fastv_runtime.config.layouts import VideoLayout
from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing.addresses import MOST_BYTES, SCHEMES, fetch, scheme_of
from fastv_runtime.preprocessing.videos.decoding import Video, open_video
from fastv_runtime.serving.errors import ApiError
from fastv_runtime.serving.settings import ServeSettings

Kind = Literal["image", "video"]
SHOWN = 60


class Media:
    """Opens what the parts of a conversation show. All methods raise ApiError; `where` is for messages."""

    def __init__(self, settings: ServeSettings, video: VideoLayout | None):
        """video: how the model sees videos; None where it takes none."""
        self._settings = settings
        self._video = video

    def image(self, address: str, where: str) -> bytes:
        """The bytes of an image file, not yet decoded."""
        return self._read("image", address, where)

    def video(self, address: str, where: str) -> Video:
        """Frames sampled as the bundle says."""
        if self._video is None:
            raise ApiError(400, f"{where}: this model takes no videos: send frames as images", param="messages")
        if scheme_of(address) == "file":
            return self._sampled(self._allowed(address, where), where, where)
        # PyAV seeks, and some formats have their index at the end.
        with tempfile.NamedTemporaryFile(prefix="fastv-", suffix=".video") as file:
            file.write(self._read("video", address, where))
            file.flush()
            return self._sampled(Path(file.name), where, "the video")

    def _sampled(self, path: Path, where: str, name: str) -> Video:
        assert self._video is not None
        try:
            return open_video(path, self._video.frames)
        except UserError as error:  # its path is the server's, or a temporary one
            raise ApiError(400, f"{where}: {str(error).replace(str(path), name)}", param="messages") from None

    def _read(self, kind: Kind, address: str, where: str) -> bytes:
        scheme = scheme_of(address)
        shown = address if len(address) <= SHOWN else f"{address[:SHOWN]}..."
        if scheme == "file":
            data = _file(self._allowed(address, where), where)
        elif scheme == "data" or (scheme in SCHEMES and self._settings.allow_url):
            try:
                data = fetch(address, shown, private=self._settings.allow_private_url)
            except UserError as error:
                raise ApiError(400, f"{where}: {error}", param="messages") from None
        elif scheme in SCHEMES:
            raise ApiError(
                400,
                f"{where}: this server opens no http addresses: send the {kind} itself as a data: address",
                param="messages",
                code="address_not_allowed",
            )
        else:
            raise ApiError(
                400,
                f"{where}: {shown!r}: send the {kind} itself as an address data:{kind}/...;base64,...",
                param="messages",
                code="address_not_allowed",
            )
        if not data:
            raise ApiError(400, f"{where}: empty, there is no {kind} in it: send its bytes in base64", param="messages")
        return data

    def _allowed(self, address: str, where: str) -> Path:
        """Where a `file:` address leads, symbolic links followed. Which files there are elsewhere is not told."""
        refused = ApiError(
            400,
            f"{where}: no file in a directory that this server opens files of",
            param="messages",
            code="address_not_allowed",
        )
        try:
            parts = urlsplit(address)
            if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
                raise refused
            path = Path(url2pathname(parts.path)).resolve(strict=True)
            inside = any(path.is_relative_to(folder.resolve()) for folder in self._settings.allow_files)
            if not (inside and path.is_file()):
                raise refused
        except (OSError, ValueError, RuntimeError):  # no such file, a NUL in its name, links that go in a circle
            raise refused from None
        return path


def _file(path: Path, where: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ApiError(400, f"{where}: cannot be read: {error.strerror}", param="messages") from None
    if len(data) > MOST_BYTES:
        raise ApiError(400, f"{where}: larger than {MOST_BYTES >> 20} MiB", param="messages")
    return data
