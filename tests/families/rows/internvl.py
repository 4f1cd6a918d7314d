from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    Qwen2Config,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from tests.families.row import Row
from tests.tiny import tiny_tokenizer

if TYPE_CHECKING:
    from fastv_runtime.preprocessing.videos.decoding import Video

TILE = 32
TILE_TOKENS = 16
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message['role'] + '\n' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<IMG_CONTEXT>\n{% elif part['type'] == 'video' %}<video>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


def write_tiny_internvl(path: Path, **settings: Any) -> None:
    """Tiles of 16 tokens, an image processor as the published ones. settings: of the decoder's config."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer("<img>", "</img>", "<IMG_CONTEXT>", "<video>")
    tokenizer.chat_template = CHAT_TEMPLATE
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=True,
        **settings,
    )
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "attention_bias": True,
        "image_size": [TILE, TILE],
        "patch_size": [4, 4],
        "initializer_range": 0.2,
    }
    image_token = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    model = InternVLForConditionalGeneration(
        InternVLConfig(vision_config=vision, text_config=text.to_dict(), image_token_id=image_token)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Constants when new, all of them: scales of layers and norms, the class token and the positions.
            if parameter.ndim == 1 or "embeddings" in name or "cls_token" in name:
                parameter.uniform_(0.5, 1.5)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    GotOcr2ImageProcessorPil(size={"height": TILE, "width": TILE}).save_pretrained(path)


def image_inputs(path: Path, images: list[Image.Image], question: str, **settings: Any) -> dict[str, Any]:
    """What transformers' processor makes of images, from its parts: as a whole it wants torchvision."""
    image_processor = AutoImageProcessor.from_pretrained(path, backend="pil")
    batch = image_processor(images, crop_to_patches=True, return_tensors="pt", **settings)
    texts = [InternVLProcessor.replace_image_token(_TOKENS, batch, number) for number in range(len(images))]
    return {"pixel_values": batch["pixel_values"]} | _text_inputs(path, "image", "<IMG_CONTEXT>", texts, question)


def video_inputs(path: Path, video: Video, question: str) -> dict[str, Any]:
    """The same for a video."""
    image_processor = AutoImageProcessor.from_pretrained(path, backend="pil")
    frames = image_processor(list(video.frames), return_tensors="pt")["pixel_values"]
    text = InternVLProcessor.replace_video_token(_TOKENS, {"pixel_values_videos": [frames]}, 0)
    return {"pixel_values": frames} | _text_inputs(path, "video", "<video>", [text], question)


def _text_inputs(path: Path, kind: str, marker: str, texts: list[str], question: str) -> dict[str, Any]:
    """The tokens of a prompt in which each marker became one of the texts."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    content = [{"type": kind}] * len(texts) + [{"type": "text", "text": question}]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    first, *rest = prompt.split(marker)
    expanded = first + "".join(text + part for text, part in zip(texts, rest, strict=True))
    return dict(tokenizer(expanded, return_tensors="pt"))


_TOKENS: Any = SimpleNamespace(
    start_image_token="<img>", end_image_token="</img>", image_token="<IMG_CONTEXT>", image_seq_length=TILE_TOKENS
)
"""What the processor's text is made of."""

ROWS = [
    Row(
        "internvl",
        write_tiny_internvl,
        cases=(((40, 40),), ((120, 60),), ((50, 40), (30, 80)), ((60, 40),)),
        inputs=image_inputs,
        videos=(0, 0, 0, 5),
        video_inputs=video_inputs,
        options={"max_images": 2},
    ),
    Row(
        "internvl",
        write_tiny_internvl,
        cases=(((50, 40),), ((120, 30), (40, 40))),
        inputs=partial(image_inputs, max_patches=4),
        options={"max_images": 2, "image_tokens": 5 * TILE_TOKENS},
        name="internvl_image_tokens",
    ),
]
