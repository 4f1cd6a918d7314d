"""What callers may write in place of what is meant: one image for a list of them, a path for an image or a video."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from fastv_runtime import limits
from fastv_runtime.config.layouts import Aspect
from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing.images.loading import ImageInput
from fastv_runtime.preprocessing.videos.decoding import Video
from fastv_runtime.preprocessing.visual import Visual

VideoInput = Video | str | os.PathLike[str]
"""Sampled frames, or the path of a video, of which as many frames are sampled as the bundle says."""


def image_list(given: ImageInput | Iterable[ImageInput] | None) -> list[ImageInput]:
    """One image, several, or none. An array of four axes is several. Raises UserError for anything else."""
    if hasattr(given, "read") and not isinstance(given, Image.Image):  # its lines are no images
        raise UserError("`images`: an open file: give its path, or the bytes that it holds")
    if isinstance(given, np.ndarray) and given.ndim == 4:
        return list(given)
    return _listed("images", given, (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, Image.Image, Visual))


def video_list(given: VideoInput | Iterable[VideoInput] | None) -> list[VideoInput]:
    """One video, several, or none. Raises UserError for anything else."""
    videos: list[VideoInput] = _listed("videos", given, (str, os.PathLike, Video, Visual))
    for video in videos:
        if not isinstance(video, (str, os.PathLike, Video, Visual)):
            raise UserError(f"`videos`: {_kind(video)} where a path or sampled frames (open_video) are expected")
    return videos


def _listed(name: str, given: Any, single: tuple[type, ...]) -> list[Any]:
    if given is None:
        return []
    if isinstance(given, single):  # before Iterable: a path is no list of letters
        return [given]
    if isinstance(given, Iterable) and not isinstance(given, Mapping):
        return list(given)
    raise UserError(f"`{name}`: {_kind(given)} where one or a list of them is expected")


def path_of(name: str, given: Any) -> Path:
    """Raises UserError for what is no path."""
    try:
        path = os.fspath(given) if isinstance(given, os.PathLike) else given
    except TypeError:
        path = None
    if not isinstance(path, str):
        raise UserError(f"{name}: {_kind(given)} where a path is expected")
    return Path(path)


def check_settings(threads: Any, aspect: Any) -> None:
    """Raises UserError for what no pipeline can be loaded with; None is a default."""
    if threads is not None:
        whole_number("threads", threads, 1, limits.THREADS)
    if aspect is not None and aspect not in get_args(Aspect):
        raise UserError(f"`aspect` {aspect!r}: must be {' or '.join(map(repr, get_args(Aspect)))}")


def whole_number(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """`value` as int. Raises UserError for what is no whole number, and outside of least to most; None is no limit."""
    try:
        number = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise UserError(f"`{name}` {value!r}: must be a whole number")
    if (least is not None and number < least) or (most is not None and number > most):
        limits = f"at least {least}" if most is None else f"{least} to {most}"
        raise UserError(f"`{name}` {number}: must be {limits}")
    return number


def check_text(name: str, text: Any) -> None:
    """Raises UserError, which begins with `name`, for what is no text, no Unicode, or empty."""
    if not isinstance(text, str):
        raise UserError(f"{name}: {_kind(text)} where text is expected")
    check_unicode(name, text)
    if not text.strip():
        raise UserError(f"{name} is empty: write something")


def check_unicode(name: str, text: str) -> None:
    """Raises UserError for surrogates, which stand for bytes that could not be read as text."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{name}: not valid Unicode: give it as UTF-8") from None


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"
