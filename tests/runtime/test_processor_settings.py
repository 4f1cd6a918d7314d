"""Settings of image processors: those that transformers and families have pass, and what cannot work is one line."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.streaming import check_numbers
from fastv_runtime.preprocessing import load_images
from fastv_runtime.preprocessing.processor_settings import check_processor
from tests.runtime.layouts import CROP, LAYOUTS, fixed

FAMILIES = {
    "CLIPImageProcessorPil": "clip.image_processing_pil_clip",
    "SiglipImageProcessorPil": "siglip.image_processing_pil_siglip",
    "LlavaNextImageProcessorPil": "llava_next.image_processing_pil_llava_next",
    "LlavaOnevisionImageProcessorPil": "llava_onevision.image_processing_pil_llava_onevision",
    "Qwen2VLImageProcessorPil": "qwen2_vl.image_processing_pil_qwen2_vl",
    "GotOcr2ImageProcessorPil": "got_ocr2.image_processing_pil_got_ocr2",
    "Idefics3ImageProcessorPil": "idefics3.image_processing_pil_idefics3",
    "SmolVLMImageProcessorPil": "smolvlm.image_processing_pil_smolvlm",
}
BAD: list[tuple[str, Any, str]] = [
    ("size", {"height": 10**6, "width": 10**6}, "size.height is 1000000: must be at most 16384"),
    ("size", {"height": 1e6, "width": 1e6}, "size.height is 1000000.0: must be a whole number"),
    ("size", {"shortest_edge": -1}, "size.shortest_edge is -1: must be at least 1"),
    ("size", {"shortest_edge": 10**6}, "size: shortest_edge is 1000000: must be at most 16384"),
    ("size", 0, "must be at least 1"),
    ("crop_size", "x", "crop_size is 'x': must be an object"),
    ("image_mean", [0], "image_mean is a list: must have at least 3 entries"),
    ("image_mean", "x", "image_mean is 'x': must be a list"),
    ("image_mean", [math.nan] * 3, "has the number NaN"),
    ("image_std", [0, 0, 0], "image_std.0 is 0: must be at least 1e-06"),
    ("image_std", [0.5, 0.5, None], "image_std.2 is null: must be a number"),
    ("rescale_factor", "x", "rescale_factor is 'x': must be a number"),
    ("rescale_factor", 1e308, "rescale_factor is 1e+308: must be at most 255"),
    ("resample", 99, "resample is 99: must be at most 5"),
    ("do_resize", "x", "do_resize is 'x': must be true or false"),
]


def written(folder: Path, settings: dict[str, Any], *, nested: bool = True) -> None:
    name = "processor_config.json" if nested else "preprocessor_config.json"
    (folder / name).write_text(json.dumps({"image_processor": settings} if nested else settings))


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(("field", "value", "why"), BAD)
def test_what_cannot_work_is_one_line_with_file_and_field(
    field: str, value: Any, why: str, nested: bool, tmp_path: Path
) -> None:
    written(tmp_path, {"image_processor_type": "CLIPImageProcessor"} | CROP | {field: value}, nested=nested)
    with pytest.raises(UserError) as caught:
        load_images(tmp_path, fixed())
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith(str(tmp_path / ("processor_config.json" if nested else "preprocessor_config.json")))
    assert why in said


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_own_defaults_pass(name: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"transformers.models.{FAMILIES[name]}")
    getattr(module, name)().save_pretrained(tmp_path)
    assert (tmp_path / "preprocessor_config.json").is_file(), transformers.__version__
    check_processor(tmp_path)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_layouts_settings_pass(name: str, tmp_path: Path) -> None:
    written(tmp_path, LAYOUTS[name][0])
    check_processor(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 224, "crop_size": 224, "image_mean": 0.5, "image_std": 0.5},
        {"size": {"shortest_edge": 65536, "longest_edge": 16777216}, "min_pixels": 3136, "max_pixels": 12845056},
        {"size": None, "image_mean": None, "do_resize": None, "resample": None},
    ],
)
def test_published_forms_pass(settings: dict[str, Any], tmp_path: Path) -> None:
    written(tmp_path, settings, nested=False)
    check_processor(tmp_path)


def test_pixels_that_are_no_numbers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, {"image_processor_type": "CLIPImageProcessor"} | CROP | {"rescale_factor": 1e308})
    monkeypatch.setattr("fastv_runtime.preprocessing.check_processor", lambda directory: None)
    see = load_images(tmp_path, fixed())
    with np.errstate(all="ignore"), pytest.raises(UserError, match=r"no numbers: mend .* in processor_config\.json"):
        see(Image.new("RGB", (40, 40), "white"))


@pytest.mark.parametrize(("values", "fine"), [([0, 1], True), ([-math.inf, 1], True), ([0, math.nan], False)])
def test_logits_that_choose_nothing_are_refused(values: list[float], fine: bool) -> None:
    if fine:
        check_numbers(np.asarray(values, np.float32))
        return
    with pytest.raises(UserError, match="no numbers"):
        check_numbers(np.asarray(values, np.float32))
