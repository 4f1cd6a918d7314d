"""Small LLaVAs that differ from LLaVA-1.5 in one thing: decoder, tower, or a setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    Dinov2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PixtralVisionConfig,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.tiny import CHAT_TEMPLATE, tiny_tokenizer, vary_vectors

SIZE = 32
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    # With the usual 0.02 attention would be all but uniform, and every ranking a tie.
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": 8,
}
TOWERS: dict[str, Any] = {
    "clip": (CLIPVisionConfig, {"initializer_range": 0.2, "initializer_factor": 4.0}),
    "siglip": (SiglipVisionConfig, {}),
    "dino": (Dinov2Config, {}),
    "pixtral": (PixtralVisionConfig, {}),
}


def llava_config(
    text: type = LlamaConfig, *, tower: str = "clip", options: dict[str, Any] | None = None, **settings: Any
) -> LlavaConfig:
    """Config of a LLaVA of 16 patches. options: of the decoder's config. settings: of the whole model's."""
    tokenizer = tiny_tokenizer()
    vision, more = TOWERS[tower]
    return LlavaConfig(
        vision_config=vision(**{**TOWER, **more}),
        text_config=text(**{"vocab_size": len(tokenizer), **TEXT, **(options or {})}),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        **settings,
    )


def write_llava(
    path: Path, text: type = LlamaConfig, *, tower: str = "clip", options: dict[str, Any] | None = None, **settings: Any
) -> Path:
    """A random LLaVA, as `llava_config` has it."""
    torch.manual_seed(0)
    config = llava_config(text, tower=tower, options=options, **settings)
    model = LlavaForConditionalGeneration(config)
    vary_vectors(model)
    model.save_pretrained(path)
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}),
        tokenizer=tiny_tokenizer(),
        patch_size=8,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(tower == "clip"),
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(path)
    return path
