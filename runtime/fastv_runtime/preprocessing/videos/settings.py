"""A video processor's settings, found where transformers finds them, without the torchvision that its classes need."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from fastv_runtime.errors import UserError

CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
ALL = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}
CLASSES: dict[str, dict[str, Any]] = {
    "Qwen2VLVideoProcessor": {
        "size": {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28},
        "resample": int(Image.Resampling.BICUBIC),
        "cap_pixels_per_frame": None,
        "max_video_tokens": 128000,
    }
    | CLIP
    | ALL,
    "Qwen3VLVideoProcessor": {
        "size": {"shortest_edge": 128 * 32 * 32, "longest_edge": 768 * 32 * 32},
        "resample": int(Image.Resampling.BICUBIC),
        "cap_pixels_per_frame": None,
        "max_video_tokens": 768,
    }
    | HALVES
    | ALL,
    "LlavaOnevisionVideoProcessor": {
        "size": {"height": 384, "width": 384},
        "resample": int(Image.Resampling.BICUBIC),
    }
    | CLIP
    | ALL,
    "VideoLlavaVideoProcessor": {
        "size": {"shortest_edge": 224},
        "resample": int(Image.Resampling.BICUBIC),
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
    }
    | CLIP
    | ALL,
    "InternVLVideoProcessor": {
        "size": {"height": 384, "width": 384},
        "resample": int(Image.Resampling.BICUBIC),
    }
    | CLIP
    | ALL,
    "SmolVLMVideoProcessor": {
        "size": {"longest_edge": 4 * 364},
        "max_image_size": {"longest_edge": 364},
        "resample": int(Image.Resampling.LANCZOS),
    }
    | HALVES
    | ALL,
}
"""What transformers' classes have where a file says nothing."""

PIXELS = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
"""Settings that every image processor takes at its call, and that change no sizes."""


def video_settings(directory: Path, usual: str) -> dict[str, Any]:
    """The settings of a checkpoint's video processor, complete.

    directory: the checkpoint's processor files. usual: transformers' class for such models, where no file names one.
    A nested `video_processor` comes before a file of its own, and that before the image processor's. Raises UserError
    for a file that is not a JSON object.
    """
    settings = _stored(directory)
    named = settings.get("video_processor_type")
    if named is None:  # transformers' own guess
        named = str(settings.get("image_processor_type")).replace("ImageProcessor", "VideoProcessor")
    kind = named if named in CLASSES else usual
    defaults = CLASSES[kind]
    known = {name: value for name, value in settings.items() if name in defaults and value is not None}
    size = _size(settings, kind, defaults["size"])
    return defaults | known | {"size": size}


def chosen(settings: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Those of the settings, as a call of an image processor takes them."""
    return {name: settings[name] for name in names if name in settings}


def _size(settings: dict[str, Any], kind: str, default: dict[str, int]) -> dict[str, int]:
    """Size, by the names that it has had. Limits beside it are Qwen2-VL's alone: Qwen3-VL's class passes them over."""
    size = dict(settings.get("size") or {})
    if not size and isinstance(sampled := settings.get("video_sampling"), dict):
        size = dict(sampled.get("video_size") or {})  # SmolVLM2, as published
    if "shortest_edge" in default and "longest_edge" in default:
        for old, new in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
            within = size.pop(old, None)
            beside = settings.get(old) if kind == "Qwen2VLVideoProcessor" else None
            size[new] = int(beside or size.get(new) or within or default[new])
    return size or default


def _stored(directory: Path) -> dict[str, Any]:
    nested = _read(directory / "processor_config.json").get("video_processor")
    if isinstance(nested, dict):
        return nested
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        if (directory / name).is_file():
            return _read(directory / name)
    return {}


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error}): export the checkpoint again") from None
    if not isinstance(settings, dict):
        raise UserError(f"{file}: not a JSON object: export the checkpoint again")
    return settings
