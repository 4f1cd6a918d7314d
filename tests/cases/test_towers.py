"""Towers and their settings: how many features become visual tokens, and which towers a family takes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import (
    CLIPVisionConfig,
    InternVLConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    Qwen2Config,
    Qwen3MoeConfig,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.processor_files import copy_processor
from fastv_export.exporting import export_bundle
from fastv_export.families import FAMILIES
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_export.support import check
from fastv_runtime.config.layouts import FixedVision
from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing import load_images
from tests.cases.llava import TEXT, TOWER, llava_config, write_llava
from tests.cases.oracle import answers_as_transformers
from tests.conftest import noise_image
from tests.families.rows.internvl import image_inputs, write_tiny_internvl

DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6}


def test_a_class_token_that_stays_is_a_visual_token(tmp_path: Path) -> None:
    """Features of two layers and a projector of another kind are transformers' own business: they come along."""
    source = write_llava(
        tmp_path / "source",
        vision_feature_select_strategy="full",
        vision_feature_layer=[-2, -1],
        multimodal_projector_bias=False,
        projector_hidden_act="relu",
        image_seq_length=999,  # which transformers does not read
    )
    answers_as_transformers(source, tmp_path)
    vision = FAMILIES["llava"].vision(Checkpoint(source).config, None)
    assert isinstance(vision, FixedVision)
    assert (vision.rows * vision.columns, vision.leading, vision.tokens) == (16, 1, 17)
    copy_processor(source, tmp_path / "processor")
    visual = load_images(tmp_path / "processor", vision)(noise_image(0))
    (view,) = visual.views()
    assert visual.tokens == 17
    np.testing.assert_array_equal(view.tokens, 1 + np.arange(16).reshape(4, 4))  # it stands for no place


def test_siglip_has_no_class_token_to_keep(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"vision_feature_select_strategy": "full", "vision_feature_layer": -1}
    source = write_llava(tmp_path / "source", tower="siglip", **settings)
    answers_as_transformers(source, tmp_path, keeps=(1.0,))


def test_siglip_that_loses_a_patch_is_refused(tmp_path: Path) -> None:
    source = write_llava(tmp_path / "source", tower="siglip")
    with pytest.raises(
        UserError, match=r"makes 15 x 32 features with vision_feature_select_strategy 'default' where .* for 16 x 32"
    ):
        export_bundle(source, tmp_path / "made.fastv", Options(max_text=64, max_new_tokens=8), Progress(None))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(("tower", "name"), [("pixtral", "pixtral"), ("dino", "dinov2")])
def test_another_tower_is_refused_by_name(tmp_path: Path, tower: str, name: str) -> None:
    llava_config(tower=tower).save_pretrained(tmp_path / "source")
    with pytest.raises(
        UserError,
        match=f"vision tower '{name}': a llava model is exported with clip_vision_model or siglip_vision_model",
    ):
        export_bundle(tmp_path / "source", tmp_path / "made.fastv", Options(), Progress(None))


def test_tiles_that_keep_their_class_token_are_refused(tmp_path: Path) -> None:
    """They are laid out as a grid, where transformers fails too."""
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**TOWER),
        text_config=LlamaConfig(vocab_size=99, **TEXT),
        image_grid_pinpoints=[[32, 64]],
        image_token_index=97,
        vision_feature_select_strategy="full",
    )
    LlavaNextForConditionalGeneration(config).save_pretrained(tmp_path / "source")
    with pytest.raises(UserError, match="makes 17 x 32 features with vision_feature_select_strategy 'full'"):
        check(Checkpoint(tmp_path / "source"), FAMILIES["llava_next"])


def test_images_that_keep_their_class_token_are_refused_beside_videos(tmp_path: Path) -> None:
    tower = CLIPVisionConfig(**TOWER)
    config = VideoLlavaConfig(
        vision_config=tower,
        text_config=LlamaConfig(vocab_size=99, **TEXT),
        image_token_index=97,
        video_token_index=98,
        video_seq_length=8 * 17,
        vision_feature_select_strategy="full",
    )
    VideoLlavaForConditionalGeneration(config).save_pretrained(tmp_path / "source")
    with pytest.raises(UserError, match="makes 17 x 32 features with vision_feature_select_strategy 'full'"):
        check(Checkpoint(tmp_path / "source"), FAMILIES["video_llava"])


def test_internvl_with_dynamic_rope_answers_as_transformers_does(tmp_path: Path) -> None:
    write_tiny_internvl(tmp_path / "source", max_position_embeddings=512, rope_parameters=DYNAMIC)
    answers_as_transformers(tmp_path / "source", tmp_path, inputs=partial(image_inputs, max_patches=1), image_tokens=16)


def test_internvl_with_dynamic_rope_takes_no_longer_plan(tmp_path: Path) -> None:
    text = Qwen2Config(**TEXT, vocab_size=99, rope_parameters=DYNAMIC)
    InternVLConfig(text_config=text.to_dict(), image_token_id=97).save_pretrained(tmp_path / "source")
    with pytest.raises(UserError, match=r"this model supports at most 512 \(rope_type dynamic, .*\): lower `max_text`"):
        export_bundle(tmp_path / "source", tmp_path / "made.fastv", Options(), Progress(None))


def test_experts_in_internvl_are_refused(tmp_path: Path) -> None:
    text = Qwen3MoeConfig(**TEXT, vocab_size=99)
    InternVLConfig(text_config=text.to_dict(), image_token_id=97).save_pretrained(tmp_path / "source")
    with pytest.raises(UserError, match="decoder 'qwen3_moe' has more than one MLP, such as experts, in layer 0"):
        export_bundle(tmp_path / "source", tmp_path / "made.fastv", Options(), Progress(None))
