"""The samples of a calibration: a folder of images with one prompt, or lines of JSON."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from fastv_runtime.config.bundle import sha256
from fastv_runtime.errors import UserError
from fastv_runtime.strict_json import Unusable, read_bytes, validated

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
"""Files of a folder that are taken for images."""


@dataclass(frozen=True)
class Sample:
    """One question about one or more images, or a video."""

    images: tuple[Path, ...]
    prompt: str
    answer: str | None
    where: str
    """The file, and its line, for errors."""
    video: Path | None = None
    kind: str | None = None
    """Of question, by any name: figures are given by kind as well."""

    @cached_property
    def key(self) -> str:
        """sha256 of what it asks and expects, files' contents included: the same wherever they lie."""
        digest = hashlib.sha256(json.dumps([self.prompt, self.answer]).encode())
        for file in (*self.images, *([] if self.video is None else [self.video])):
            digest.update(bytes.fromhex(sha256(file)))
        return digest.hexdigest()


def read_data(path: Path, prompt: str | None) -> list[Sample]:
    """Samples of a folder, all asked `prompt`, or of a file with a JSON object a line.

    An object has "image" (or "images", a list) or "video", "prompt" and, where it is known, "answer"; "kind", if
    given, is what sort of question it is. Paths are relative to the file.

    Raises UserError that names file and line of whatever cannot be used.
    """
    if not path.exists():
        raise UserError(f"`data` {path}: no such file or folder")
    if path.is_dir():
        return _of_folder(path, prompt)
    if prompt is not None:
        raise UserError(f"`prompt`: is for a folder of images; {path} has its own prompts: leave it out")
    return _of_lines(path)


def _of_folder(path: Path, prompt: str | None) -> list[Sample]:
    if prompt is None or not prompt.strip():
        raise UserError(f"`data` {path}: a folder of images needs a `prompt`")
    images = sorted(each for each in path.iterdir() if each.is_file() and each.suffix.lower() in SUFFIXES)
    if not images:
        raise UserError(f"`data` {path}: no images in it ({', '.join(sorted(SUFFIXES))})")
    return [Sample((image,), prompt, None, str(image)) for image in images]


def _of_lines(path: Path) -> list[Sample]:
    try:
        lines = read_bytes(path).decode().splitlines()
    except Unusable as error:
        raise UserError(f"`data` {path}: {error}: calibrate on fewer samples") from None
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"`data` {path}: not a text file ({error}): give a folder or lines of JSON") from None
    samples = [_sample(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not samples:
        raise UserError(f"`data` {path}: no sample in it: write a JSON object a line")
    return samples


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    image: str | None = None
    images: list[str] | None = None
    video: str | None = None
    prompt: str
    answer: str | None = None
    kind: str | None = None


def _sample(path: Path, number: int, text: str) -> Sample:
    where = f"{path}:{number}"
    try:
        line = validated(_Line, text.encode())
    except Unusable as error:
        raise UserError(f"{where}: {error}") from None
    if sum(map(bool, (line.image, line.images, line.video))) != 1:
        raise UserError(f'{where}: give one of "image", "images" and "video", and one image at least')
    if not line.prompt.strip():
        raise UserError(f"{where}: the prompt is empty")
    if line.answer is not None and not line.answer.strip():
        raise UserError(f'{where}: the answer is empty: leave "answer" out where none is known')
    if line.kind is not None and not line.kind.strip():
        raise UserError(f'{where}: the kind is empty: leave "kind" out where the question has none')
    images = tuple(path.parent / name for name in ([line.image] if line.image is not None else line.images or []))
    for image in images:
        if not image.is_file():
            raise UserError(f"{where}: no such image: {image}")
    video = None if line.video is None else path.parent / line.video
    if video is not None and not video.is_file():
        raise UserError(f"{where}: no such video: {video}")
    return Sample(images, line.prompt, line.answer, where, video, line.kind)
