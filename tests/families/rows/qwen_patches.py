"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL: images and videos of any size. Windows are smaller than images, and ragged."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from fastv_runtime.preprocessing.videos.decoding import Video
from tests.families.row import Row
from tests.tiny import tiny_tokenizer

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% else %}<|vision_start|><|{{ part['type'] }}_pad|><|vision_end|>{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PATCH, MERGE, FRAMES = 4, 2, 2
TOKEN_PIXELS = (PATCH * MERGE) ** 2
LIMITS = {"shortest_edge": 6 * TOKEN_PIXELS, "longest_edge": 60 * TOKEN_PIXELS}
CLIP_LIMITS = {"shortest_edge": 6 * TOKEN_PIXELS, "longest_edge": 80 * TOKEN_PIXELS}
VIDEO = {"image_mean": [0.3, 0.5, 0.6], "image_std": [0.4, 0.3, 0.5], "resample": 2}
"""What the video processor has otherwise than the image processor; 2 is bilinear."""
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
TOWER = {
    "depth": 3,
    "num_heads": 2,
    "patch_size": PATCH,
    "spatial_merge_size": MERGE,
    "temporal_patch_size": FRAMES,
    "initializer_range": 0.2,
}
QWEN2 = TOWER | {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
QWEN25 = TOWER | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "out_hidden_size": 64,
    "window_size": 2 * PATCH * MERGE,
    "fullatt_block_indexes": [1],
    "tokens_per_second": 2,
}
QWEN3 = TOWER | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "out_hidden_size": 64,
    "num_position_embeddings": 49,
    "deepstack_visual_indexes": [0, 1, 2],
}


def write(path: Path, *, model_type: str, tower: dict[str, Any], rope: dict[str, Any], text: dict[str, Any]) -> None:
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(*SPECIAL)
    tokenizer.chat_template = TEMPLATE
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad", "vision_start")}
    config = AutoConfig.for_model(
        model_type,
        vision_config=tower,
        text_config=TEXT | text | {"vocab_size": len(tokenizer), "rope_parameters": rope},
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
    )
    model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # left at zero and one, biases and norms could be swapped unnoticed
                parameter.normal_(0, 0.2) if name.endswith("bias") else parameter.uniform_(0.5, 1.5)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    image_processor(LIMITS).save_pretrained(path)
    (path / "video_preprocessor_config.json").write_text(json.dumps({"size": CLIP_LIMITS} | VIDEO))


def image_processor(limits: dict[str, int], frames: int = FRAMES, **settings: Any) -> Qwen2VLImageProcessorPil:
    return Qwen2VLImageProcessorPil(
        size=limits, patch_size=PATCH, merge_size=MERGE, temporal_patch_size=frames, **settings
    )


def image_inputs(path: Path, images: list[Image.Image], question: str) -> dict[str, Any]:
    """As transformers' processor composes them; it wants torchvision for its video half."""
    made = image_processor(LIMITS)(images=images, return_tensors="pt")
    texts = ["<|image_pad|>" * int(grid.prod() // MERGE**2) for grid in made["image_grid_thw"]]
    return {**tokenized(path, "image", texts, question), **made}


def video_inputs(path: Path, video: Video, question: str, *, model_type: str) -> dict[str, Any]:
    """As transformers' video processor and its processor's `replace_video_token` compose them."""
    frames = [*video.frames, *video.frames[-1:] * (-len(video.frames) % FRAMES)]
    steps = len(frames) // FRAMES
    qwen3 = model_type == "qwen3_vl"
    share = len(video.frames) if qwen3 else 1
    made = image_processor({name: pixels // share for name, pixels in CLIP_LIMITS.items()}, 1, **VIDEO)(
        images=frames, return_tensors="pt"
    )
    _, rows, columns = made["image_grid_thw"][0].tolist()
    # [steps, frames, patches, channels, pixels] -> patches of a step, channels, frames, pixels
    pixels = made["pixel_values"].reshape(steps, FRAMES, rows * columns, 3, PATCH**2).permute(0, 2, 3, 1, 4)
    tokens = "<|video_pad|>" * (rows * columns // MERGE**2)
    text = tokens * steps
    extra: dict[str, Any] = {}
    if qwen3:
        seconds = [index / video.fps for index in video.indices]
        seconds += seconds[-1:] * (len(frames) - len(seconds))
        middles = np.reshape(seconds, (steps, FRAMES))[:, [0, -1]].mean(axis=1)
        text = "".join(f"<{at:.1f} seconds><|vision_start|>{tokens}<|vision_end|>" for at in middles)
    elif model_type == "qwen2_5_vl":
        sampled_fps = len(video.indices) / video.total * video.fps
        extra["second_per_grid_ts"] = torch.tensor([FRAMES / sampled_fps])
    return {
        **tokenized(path, "video", [text], question),
        "pixel_values_videos": pixels.reshape(steps * rows * columns, -1),
        "video_grid_thw": torch.tensor([[steps, rows, columns]]),
        **extra,
    }


def tokenized(path: Path, kind: str, texts: list[str], question: str) -> dict[str, torch.Tensor]:
    """Token ids of one turn, each visual replaced by its text, and which token is of which kind."""
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    content = [{"type": kind}] * len(texts) + [{"type": "text", "text": question}]
    turn = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    head, *tail = turn.split(f"<|{kind}_pad|>")
    turn = head + "".join(text + rest for text, rest in zip(texts, tail, strict=True))
    ids = tokenizer(turn, return_tensors="pt", add_special_tokens=False)["input_ids"]
    image, video = (tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>") for name in ("image", "video"))
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == image).int() + 2 * (ids == video).int(),
    }


def row(model_type: str, tower: dict[str, Any], rope: dict[str, Any], text: dict[str, Any]) -> Row:
    rope = {"rope_type": "default", "rope_theta": 10000.0, **rope}
    writer: Callable[[Path], None] = partial(write, model_type=model_type, tower=tower, rope=rope, text=text)
    return Row(
        model_type,
        writer,
        # 5 x 7 and 3 x 13 visual tokens; one that is scaled down and one that is scaled up; three steps, the last odd.
        cases=(((56, 40),), ((104, 24),), ((90, 200), (9, 12)), ((56, 40),), ((40, 24),)),
        videos=(0, 0, 0, 5, 2),
        inputs=image_inputs,
        video_inputs=partial(video_inputs, model_type=model_type),
        options={"max_visual": 200, "image_tokens": 64},
    )


ROWS = [
    row("qwen2_vl", QWEN2, {"mrope_section": [2, 3, 3]}, {}),
    row("qwen2_5_vl", QWEN25, {"mrope_section": [2, 3, 3]}, {}),
    row("qwen3_vl", QWEN3, {"mrope_section": [4, 2, 2], "mrope_interleaved": True}, {"head_dim": 16}),
]
