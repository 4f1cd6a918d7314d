"""A LLaVA checkpoint with random weights at real dimensions: for speed and memory, not for answers.

python benchmarks/random_checkpoint.py OUT
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

IMAGE_TOKEN = "<image>"
QWEN2_05B: dict[str, Any] = {
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
}
"""The decoder of Qwen2-0.5B, from its published config."""


def write_random_checkpoint(path: Path, text: dict[str, Any] = QWEN2_05B, *, seed: int = 0) -> None:
    """Write a LLaVA checkpoint with a decoder of the given Qwen2 dimensions and 576 visual tokens per picture.

    The tower is LLaVA-1.5's in shape (336 pixels, patches of 14) but thin: what is measured is the decoder.
    """
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=336,
        patch_size=14,
    )
    text_config = Qwen2Config(**text)
    image_token = text_config.vocab_size - 1
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=text_config,
            image_token_index=image_token,
            tie_word_embeddings=text_config.tie_word_embeddings,
        )
    )
    model.save_pretrained(path)
    words = {f"w{index}": index for index in range(text_config.vocab_size - 1)} | {IMAGE_TOKEN: image_token}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([IMAGE_TOKEN])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(path)
    CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}).save_pretrained(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    write_random_checkpoint(parser.parse_args().out)
