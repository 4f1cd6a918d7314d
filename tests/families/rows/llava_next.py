"""LLaVA-NeXT with a decoder like Vicuna's and one like Mistral's; a tile is 24 pixels and 4 x 4 features."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    MistralConfig,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from tests.families.row import Row
from tests.tiny import CHAT_TEMPLATE, tiny_tokenizer, vary_vectors

TILE = 24
PINPOINTS = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]
DECODER: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


def write(path: Path, decoder: type, **text: Any) -> None:
    """A tiny random LLaVA-NeXT with a decoder of the given config class."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=TILE,
        patch_size=6,
        initializer_range=0.2,
        initializer_factor=4.0,
    )
    config = LlavaNextConfig(
        vision_config=vision,
        text_config=decoder(vocab_size=len(tokenizer), **DECODER, **text),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINPOINTS,
    )
    model = LlavaNextForConditionalGeneration(config)
    vary_vectors(model)
    model.save_pretrained(path)
    LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": TILE},
            crop_size={"height": TILE, "width": TILE},
            image_grid_pinpoints=PINPOINTS,
        ),
        tokenizer=tokenizer,
        patch_size=6,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(path)


CASES = (((64, 48),), ((300, 40), (30, 150)), ((90, 100),))
"""One image; a wide and a tall one; one on four tiles."""

ROWS = [
    Row(
        "llava_next",
        partial(write, decoder=LlamaConfig, num_key_value_heads=4),
        cases=CASES,
        options={"max_images": 2},
        name="llava_next-vicuna",
    ),
    Row(
        "llava_next",
        partial(write, decoder=MistralConfig, num_key_value_heads=2, sliding_window=None),
        cases=CASES,
        options={"max_images": 2},
        name="llava_next-mistral",
    ),
]
