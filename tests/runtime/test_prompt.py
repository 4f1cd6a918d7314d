"""Prompts are tokenised as transformers' own processor does it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor

from fastv_runtime.config.bundle import Tokens, read_manifest
from fastv_runtime.generation.prompts.prompt import PromptBuilder
from fastv_runtime.preprocessing import GraphRun, Visual, load_images
from tests.conftest import DEMO, noise_image
from tests.tiny import CHAT_TEMPLATE, VISUAL_TOKENS

TOKENS = Tokens(image=3, stop=())
IMAGE = Visual("image", "vision", (), (GraphRun(VISUAL_TOKENS),), views=list)


@pytest.fixture(scope="module", params=["demo", "tiny"])
def source(request: pytest.FixtureRequest, tiny_llava: Path) -> Path:
    return DEMO if request.param == "demo" else tiny_llava


@given(text=st.text(min_size=1).filter(lambda text: text.strip() and "<" not in text), count=st.integers(0, 2))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_token_ids_equal_those_of_the_processor(source: Path, text: str, count: int) -> None:
    processor = AutoProcessor.from_pretrained(source, local_files_only=True)
    image_token_id = processor.tokenizer.convert_tokens_to_ids("<image>")
    prompt = PromptBuilder(source, Tokens(image=image_token_id, stop=())).build(text, [IMAGE] * count)
    content = [{"type": "image"}] * count + [{"type": "text", "text": text}]
    rendered = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    images = [noise_image(seed) for seed in range(count)] or None
    expected = processor(images=images, text=rendered, add_special_tokens=False, return_tensors="np")
    np.testing.assert_array_equal(prompt.token_ids, expected["input_ids"][0])
    assert len(prompt.runs) == count
    for start, _ in prompt.runs:
        assert prompt.visual[start : start + VISUAL_TOKENS].all()
        assert not prompt.visual[start - 1]


def test_pixel_values_equal_those_of_the_processor(tiny_bundle: Path, tiny_llava: Path) -> None:
    processor = AutoProcessor.from_pretrained(tiny_llava, local_files_only=True)
    image = noise_image(1, (200, 130))
    (piece,) = load_images(tiny_llava, read_manifest(tiny_bundle).vision)(image).pieces
    expected = processor(images=image, text="<image>", return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(piece.inputs["pixel_values"], expected)


def test_a_template_in_json_is_read_as_transformers_4_wrote_it(tiny_llava: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(tiny_llava, tmp_path / "old"))
    (old / "chat_template.jinja").unlink()
    (old / "chat_template.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    first, second = (PromptBuilder(path, TOKENS).build("What?", [IMAGE]) for path in (tiny_llava, old))
    np.testing.assert_array_equal(first.token_ids, second.token_ids)


def test_without_a_template_the_prompt_is_taken_as_it_is(tiny_llava: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(tiny_llava, tmp_path / "bare"))
    (bare / "chat_template.jinja").unlink()
    builder = PromptBuilder(bare, TOKENS)
    prompt = builder.build("<image>What?", [IMAGE])
    expected = [3] * VISUAL_TOKENS + builder.tokenizer("What?", add_special_tokens=False)["input_ids"]
    assert prompt.token_ids.tolist() == expected
    assert builder.build("What?", [IMAGE]).token_ids.tolist() == expected
