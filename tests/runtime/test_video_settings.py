"""A video processor's settings are those that transformers finds, and its classes' own where no file says."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import image_utils
from transformers.video_processing_utils import BaseVideoProcessor

from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing.videos.settings import CLASSES, video_settings

MODULES = {
    "Qwen2VLVideoProcessor": "qwen2_vl",
    "Qwen3VLVideoProcessor": "qwen3_vl",
    "LlavaOnevisionVideoProcessor": "llava_onevision",
    "VideoLlavaVideoProcessor": "video_llava",
    "InternVLVideoProcessor": "internvl",
    "SmolVLMVideoProcessor": "smolvlm",
}


def class_attributes(name: str) -> dict[str, Any]:
    """Read from the source: some of the modules need torchvision to be imported."""
    spec = importlib.util.find_spec(f"transformers.models.{MODULES[name]}.video_processing_{MODULES[name]}")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    names = {key: value for key, value in vars(image_utils).items() if key.isupper() or key == "PILImageResampling"}
    found: dict[str, Any] = {}
    for node in body:
        if isinstance(node, ast.Assign):
            try:
                found[ast.unparse(node.targets[0])] = eval(ast.unparse(node.value), dict(names))
            except NameError:  # a class of keyword arguments
                continue
    return found


@pytest.mark.parametrize("name", CLASSES)
def test_defaults_are_those_of_the_class(name: str) -> None:
    theirs = class_attributes(name)
    for setting, ours in CLASSES[name].items():
        expected = theirs.get(setting, getattr(BaseVideoProcessor, setting, None))
        assert ours == (list(expected) if isinstance(expected, tuple) else expected), setting
    for setting in {"do_center_crop", "crop_size"} - CLASSES[name].keys():
        assert theirs.get(setting) is None, setting


FILES = {
    "own file": {"video_preprocessor_config.json": {"image_mean": [1, 1, 1]}},
    "nested before own": {
        "processor_config.json": {"video_processor": {"image_mean": [1, 1, 1]}},
        "video_preprocessor_config.json": {"image_mean": [2, 2, 2]},
    },
    "own before the image processor's": {
        "processor_config.json": {"image_processor": {"image_mean": [3, 3, 3]}},
        "video_preprocessor_config.json": {"image_mean": [1, 1, 1]},
        "preprocessor_config.json": {"image_mean": [2, 2, 2]},
    },
    "the image processor's alone": {"preprocessor_config.json": {"image_mean": [1, 1, 1], "resample": 1}},
    "an empty nested one": {
        "processor_config.json": {"video_processor": {}},
        "preprocessor_config.json": {"image_mean": [1, 1, 1]},
    },
}


@pytest.mark.parametrize("files", FILES.values(), ids=FILES)
def test_settings_are_found_where_transformers_finds_them(tmp_path: Path, files: dict[str, dict[str, Any]]) -> None:
    for name, settings in files.items():
        (tmp_path / name).write_text(json.dumps(settings))
    stored, _ = BaseVideoProcessor.get_video_processor_dict(tmp_path, local_files_only=True)
    ours = video_settings(tmp_path, "Qwen3VLVideoProcessor")
    assert ours == CLASSES["Qwen3VLVideoProcessor"] | stored


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"size": {"shortest_edge": 640, "longest_edge": 1280}}, (640, 1280)),
        ({"min_pixels": 640, "max_pixels": 1280}, (640, 1280)),
        ({"max_pixels": 1280, "size": {"shortest_edge": 640, "longest_edge": 99}}, (640, 1280)),
        ({"max_pixels": 200000}, (128 * 28**2, 200000)),
        ({"size": {"min_pixels": 640, "max_pixels": 1280}}, (640, 1280)),
        ({}, (128 * 28**2, 768 * 28**2)),
    ],
)
def test_limits_have_had_other_names(tmp_path: Path, settings: dict[str, Any], expected: tuple[int, int]) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    size = video_settings(tmp_path, "Qwen2VLVideoProcessor")["size"]
    assert (size["shortest_edge"], size["longest_edge"]) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"video_processor_type": "Qwen2VLVideoProcessor"}, "Qwen2VLVideoProcessor"),
        ({"image_processor_type": "SmolVLMImageProcessor"}, "SmolVLMVideoProcessor"),
        ({"image_processor_type": "Qwen2VLImageProcessorFast"}, "Qwen3VLVideoProcessor"),
        ({"image_processor_type": "GotOcr2ImageProcessor"}, "Qwen3VLVideoProcessor"),
    ],
)
def test_a_class_is_the_one_that_is_named_or_guessed(tmp_path: Path, settings: dict[str, Any], expected: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    made = video_settings(tmp_path, "Qwen3VLVideoProcessor")
    assert made["image_mean"] == CLASSES[expected]["image_mean"]


def test_a_sampling_of_smolvlm_names_a_size(tmp_path: Path) -> None:
    sampled = {"video_sampling": {"video_size": {"longest_edge": 512}, "fps": 1, "max_frames": 64}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(sampled))
    assert video_settings(tmp_path, "SmolVLMVideoProcessor")["size"] == {"longest_edge": 512}


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "video_preprocessor_config.json").write_text(text)
    with pytest.raises(UserError, match=r"video_preprocessor_config\.json: not"):
        video_settings(tmp_path, "Qwen2VLVideoProcessor")
