"""What an export reads beside the weights: a tokenizer of meaningless words and the family's image processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TOKENS = {
    "bos_token_id": "<s>",
    "eos_token_id": "</s>",
    "pad_token_id": "<pad>",
    "image_token_id": "<image>",
}


def write_tokenizer(path: Path, config: Any) -> None:
    """One word per id, the special tokens at the ids that the config gives them."""
    text = config.get_text_config()
    special = {}
    for attribute, token in TOKENS.items():
        index = getattr(config, attribute, None)
        index = getattr(text, attribute, None) if index is None else index
        if isinstance(index, int) and index not in special:
            special[index] = token
    words = {special.get(index, f"w{index}"): index for index in range(text.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=next(iter(words))))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(special.values()))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(path)


def _clip(config: Any) -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    size = config.vision_config.image_size
    return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


IMAGE_PROCESSORS: dict[str, Callable[[Any], Any]] = {"llava": _clip}


def write_image_processor(path: Path, config: Any) -> None:
    IMAGE_PROCESSORS[config.model_type](config).save_pretrained(path)
