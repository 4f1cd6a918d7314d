from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaImageProcessor,
)

from fastv_runtime.preprocessing.videos.decoding import Video
from tests.families.row import Row
from tests.tiny import CHAT_TEMPLATE, tiny_tokenizer

_FORWARD = inspect.signature(VideoLlavaForConditionalGeneration.forward).parameters
PIXELS = "pixel_values" if "pixel_values" in _FORWARD else "pixel_values_images"
"""The second up to transformers 5.20."""

IMAGE_SIZE, PATCH = 32, 8
TOKENS = (IMAGE_SIZE // PATCH) ** 2


def write_tiny_video_llava(path: Path) -> None:
    """16 tokens an image, 17 a frame, two towers."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer("<video>")
    tokenizer.chat_template = CHAT_TEMPLATE
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
        initializer_range=0.2,
        initializer_factor=4.0,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    config = VideoLlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_seq_length=TOKENS,
        video_seq_length=8 * (TOKENS + 1),
    )
    model = VideoLlavaForConditionalGeneration(config)
    with torch.no_grad():
        for module in model.modules():
            if "Norm" in type(module).__name__:
                module.weight.uniform_(0.5, 1.5)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    VideoLlavaImageProcessor(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    ).save_pretrained(path)


def image_inputs(path: Path, images: list[Image.Image], question: str) -> dict[str, Any]:
    """As VideoLlavaProcessor composes them: it cannot be made without torchvision, for its video half."""
    pixel_values = _pixel_values(path, images)
    return _tokens(path, ["image"] * len(images), TOKENS, question) | {PIXELS: pixel_values}


def video_inputs(path: Path, video: Video, question: str) -> dict[str, Any]:
    """The frames go through the image processor: VideoLlavaVideoProcessor has its settings, for torchvision."""
    pixel_values = _pixel_values(path, list(video.frames))
    placeholders = len(video.frames) * (TOKENS + 1)
    return _tokens(path, ["video"], placeholders, question) | {"pixel_values_videos": pixel_values[None]}


def _pixel_values(path: Path, images: list[Image.Image]) -> torch.Tensor:
    processor = VideoLlavaImageProcessor.from_pretrained(path)
    (pixel_values,) = processor(images, return_tensors="pt").values()
    return pixel_values


def _tokens(path: Path, kinds: list[str], each: int, question: str) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(path)
    content = [{"type": kind} for kind in kinds] + [{"type": "text", "text": question}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    for kind in set(kinds):
        text = text.replace(f"<{kind}>", f"<{kind}>" * each)
    return dict(tokenizer(text, add_special_tokens=False, return_tensors="pt"))


ROWS = [
    Row(
        "video_llava",
        write_tiny_video_llava,
        cases=(((64, 48),), ((50, 120),), ((200, 90), (32, 32)), ((60, 100),)),
        videos=(0, 8, 0, 3),
        inputs=image_inputs,
        video_inputs=video_inputs,
    )
]
