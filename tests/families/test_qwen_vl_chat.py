"""Qwen-VL-Chat: the mapped model, and bundles made of it, against a plain reading of the published layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.exporting import export_bundle
from fastv_export.families import FAMILIES
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_export.verify.reference import load_model
from fastv_runtime import Pipeline, UserError
from fastv_runtime.config.bundle import END_TO_END, read_manifest
from tests.conftest import MakeBundle, noise_image
from tests.plain_qwen_vl import PlainQwenVL
from tests.plans import cuts_at, with_keeps
from tests.tiny_qwen_vl import IMAGE_SIZE, TOKENS, original_tokenizer, write_tiny_qwen_vl

FAMILY = FAMILIES["qwen"]
VISUAL = 16
NEW_TOKENS = 32
QUESTION = "What color is the circle? 数字 1234"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen_vl(tmp_path_factory.mktemp("checkpoints") / "tiny-qwen-vl")


@pytest.fixture(scope="module")
def plain(source: Path) -> PlainQwenVL:
    return PlainQwenVL(source)


@pytest.fixture(scope="module")
def mapped(source: Path) -> Any:
    return load_model(source, FAMILY)


@torch.no_grad()
def test_image_features_are_those_of_the_published_layout(plain: PlainQwenVL, mapped: Any) -> None:
    pixel_values = _pixels(noise_image(0))
    features = FAMILY.encode(mapped, pixel_values=pixel_values[None])
    assert features.shape == (VISUAL, 256)
    torch.testing.assert_close(features, plain.features(pixel_values), atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_mapped_decoder_answers_as_the_published_layout(source: Path, plain: PlainQwenVL, mapped: Any) -> None:
    expected = _expected(plain, source, [noise_image(1)])
    embedded = expected.prompt
    cache, tokens = None, []
    for step in range(NEW_TOKENS):
        output = FAMILY.decoder(mapped)(inputs_embeds=embedded[None], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits = FAMILY.head(mapped)(output.last_hidden_state[0, -1])
        if step == 0:
            torch.testing.assert_close(logits, expected.logits, atol=1e-3, rtol=0)
        tokens.append(int(logits.argmax()))
        embedded = plain.embed(tokens[-1:], [])
    assert tokens == expected.token_ids


@pytest.mark.parametrize(
    "cuts",
    [[], [(2, 0.5)], [(2, 0.25)], [(1, 0.5), (3, 0.25)], [(1, 0.75), (2, 0.5), (3, 0.25)]],
    ids=["unsplit", "one cut", "fewer tokens", "two cuts", "three cuts"],
)
@pytest.mark.parametrize("count", [1, 2])
def test_bundles_answer_as_the_published_layout(
    source: Path, plain: PlainQwenVL, make_bundle: MakeBundle, cuts: list[tuple[int, float]], count: int
) -> None:
    layers, keep = [layer for layer, _ in cuts], ([1.0] + [keep for _, keep in cuts])[-1]
    asked: dict[str, Any] = (
        {"cuts": cuts_at(*layers)} if len(layers) > 1 else {"layer": (*layers, None)[0], "prune": bool(layers)}
    )
    bundle = make_bundle(source, max_text=128, max_images=2, max_new_tokens=NEW_TOKENS, **asked)
    images = [noise_image(index) for index in range(count)]
    expected = _expected(plain, source, images, cuts)
    assert END_TO_END in (read_manifest(bundle).verified or {})
    pipeline = Pipeline(with_keeps(bundle, [keep for _, keep in cuts]), threads=1)
    generation = pipeline.stream(images, QUESTION, max_new_tokens=NEW_TOKENS, ignore_stop=True)
    logits = pipeline.logits.copy()
    for _ in generation:
        pass
    answer = generation.answer
    assert answer.prompt_tokens == len(expected.prompt)
    assert answer.visual_tokens == count * VISUAL
    assert answer.kept_visual_tokens == expected.kept
    assert len(expected.kept) == count * VISUAL * keep
    np.testing.assert_allclose(logits, expected.logits.numpy(), atol=1e-3, rtol=0)
    assert answer.token_ids == expected.token_ids


def test_bundle_stops_as_the_chat_format_does_and_holds_no_code(source: Path, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(source, layer=2, max_text=128, max_images=2, max_new_tokens=NEW_TOKENS)
    tokens = Pipeline.load(bundle, threads=1).bundle.manifest.tokens
    special = original_tokenizer(source / "qwen.tiktoken")._special_tokens
    assert set(tokens.stop) == {special[name] for name in ("<|im_end|>", "<|im_start|>", "<|endoftext|>")}
    assert tokens.image == special["<imgpad>"]
    settings = [json.loads(file.read_text(encoding="utf-8")) for file in (bundle / "processor").glob("*.json")]
    assert settings
    assert not any("auto_map" in each for each in settings)
    assert not list(bundle.rglob("*.py"))


def test_plans_past_the_original_rotary_range_are_refused(source: Path, tmp_path: Path) -> None:
    # 256 positions: 224 + 16 + 17 is one too many.
    with pytest.raises(UserError, match=r"`max_text` 224.*make 257 positions and this model supports at most 256"):
        _export(source, tmp_path, Options(max_text=224, max_new_tokens=17))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"visual": None}, "language model that sees no images"),
        ("config.json", {"seq_length": None}, "it lacks seq_length"),
        ("config.json", {"rotary_pct": 0.5}, r"rotary_pct is 0\.5"),
        ("config.json", {"num_hidden_layers": 5}, "tensors are missing: language_model.model.layers.4"),
        ("config.json", {"hidden_size": 512}, "do not belong together"),
        ("generation_config.json", {"chat_format": "raw"}, "chat_format is 'raw'"),
    ],
)
def test_other_checkpoints_are_refused(
    source: Path, tmp_path: Path, file: str, change: dict[str, Any], message: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    values = json.loads((copy / file).read_text(encoding="utf-8")) | change
    values = {name: value for name, value in values.items() if value is not None}
    (copy / file).write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        _export(copy, tmp_path, Options(max_text=64, max_new_tokens=8))
    assert not (tmp_path / "out.fastv").exists()


def test_ids_of_another_vocabulary_are_refused(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    lines = (copy / "qwen.tiktoken").read_bytes().splitlines(keepends=True)
    (copy / "qwen.tiktoken").write_bytes(b"".join(lines[:-1]))
    with pytest.raises(UserError, match=rf"<imgpad> gets id {TOKENS - 2} where config.json means {TOKENS - 1}"):
        FAMILY.write_processor(Checkpoint(copy), tmp_path / "processor")


def _export(source: Path, folder: Path, options: Options) -> None:
    export_bundle(source, folder / "out.fastv", options, Progress(None))


def _pixels(image: Image.Image) -> torch.Tensor:
    """As the original: squeezed to a square, bicubic, CLIP's mean and deviation."""
    resized = np.asarray(image.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC), np.float32)
    return torch.from_numpy((resized / 255 - MEAN) / STD).float().permute(2, 0, 1)


@dataclass
class Expected:
    """What the plain reading says."""

    prompt: torch.Tensor
    """Embeddings [S, D]."""
    kept: list[int]
    logits: torch.Tensor
    token_ids: list[int]


@torch.no_grad()
def _expected(
    plain: PlainQwenVL, source: Path, images: list[Image.Image], cuts: Sequence[tuple[int, float]] = ()
) -> Expected:
    """Answer to QUESTION. cuts: K, and the fraction of the visual tokens that is left from layer K on."""
    ids = _chat(source, len(images))
    visual = torch.tensor(ids) == TOKENS - 1
    prompt = plain.embed(ids, [plain.features(_pixels(image)) for image in images])
    rows, dropped = torch.arange(len(ids)), dict[int, torch.Tensor]()
    for layer, keep in cuts:
        _, scores = plain.logits(prompt, layer, dropped)
        best = scores.where(visual[rows], -torch.inf).topk(round(keep * int(visual.sum()))).indices
        stays = ~visual[rows]
        stays[best] = True
        rows, dropped[layer] = rows[stays], rows[~stays]
    sequence, tokens, first = prompt, [], torch.empty(0)
    for step in range(NEW_TOKENS):
        logits, _ = plain.logits(sequence, None, dropped)
        first = logits if step == 0 else first
        tokens.append(int(logits.argmax()))
        sequence = torch.cat([sequence, plain.embed(tokens[-1:], [])])
    order = visual.cumsum(0) - 1
    return Expected(prompt, order[rows[visual[rows]]].tolist(), first, tokens)


def _chat(source: Path, images: int) -> list[int]:
    """Token ids of a first turn, piece by piece as the original puts them together."""
    encoding = original_tokenizer(source / "qwen.tiktoken")
    special = encoding._special_tokens
    start, end, newline = special["<|im_start|>"], special["<|im_end|>"], encoding.encode("\n")
    ids = [start, *encoding.encode("system"), *newline, *encoding.encode("You are a helpful assistant.")]
    ids += [end, *newline, start, *encoding.encode("user"), *newline]
    for number in range(1, images + 1):
        ids += encoding.encode(f"Picture {number}: ")
        ids += [special["<img>"], *[special["<imgpad>"]] * VISUAL, special["</img>"]]
        # What follows an image tag is cut into pieces as one text.
        ids += encoding.encode("\n" if number < images else "\n" + QUESTION)
    return [*ids, end, *newline, start, *encoding.encode("assistant"), *newline]
