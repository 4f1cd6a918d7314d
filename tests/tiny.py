"""Tiny random checkpoints, built from configs: real architectures, real files, no meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SPECIAL = ["<s>", "</s>", "<pad>", "<image>"]
CORPUS = [
    "USER: What color is the circle? ASSISTANT: red",
    "the quick brown fox jumps over the lazy dog " * 4,
]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT: ' }}"
    "{% for part in message['content'] %}{% if part['type'] != 'text' %}<{{ part['type'] }}>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
IMAGE_SIZE = 96
VISUAL_TOKENS = 144


def write_tiny_llava(path: Path, *, seed: int = 0, layers: int = 5, **text: Any) -> Path:
    """A LLaVA with 144 visual tokens per image and a decoder of grouped-query heads (4 queries, 2 keys)."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=8,
        initializer_range=0.2,
        initializer_factor=4.0,
    )
    text_config = LlamaConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            # With the usual 0.02 attention would be all but uniform, and every ranking a tie.
            "initializer_range": 0.2,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 2,
            **text,
        }
    )
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(vision_config=vision, text_config=text_config, image_token_id=image_token)
    model = LlavaForConditionalGeneration(config)
    vary_vectors(model)
    model.save_pretrained(path)
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )
    LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(path)
    return path


def vary_vectors(model: torch.nn.Module) -> None:
    """Random norms and biases: left at one and zero, a swapped norm or a lost bias would go unnoticed."""
    with torch.no_grad():
        for module in model.modules():
            if "Norm" in type(module).__name__ and getattr(module, "weight", None) is not None:
                module.weight.uniform_(0.5, 1.5)
            if isinstance(getattr(module, "bias", None), torch.Tensor):
                module.bias.uniform_(-0.2, 0.2)


def tiny_tokenizer(*special: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of a little over 300 tokens; `special`: what a family has beside the usual ones."""
    base = ByteLevelBPETokenizer()
    names = [*SPECIAL, *special]
    base.train_from_iterator(CORPUS, vocab_size=316 + len(names), special_tokens=names, show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=base._tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>", *special],
    )
