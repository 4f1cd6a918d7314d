"""What Qwen-VL-Chat has as Python code, written as files that stock tokenizers and image processors read."""

from __future__ import annotations

from pathlib import Path

from fastv_runtime.errors import UserError

VOCABULARY = "qwen.tiktoken"

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The pieces of text within which bytes are merged; digits stand alone."""

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
IMAGE_START, IMAGE_END, IMAGE_PLACEHOLDER = "<img>", "</img>", "<imgpad>"
GROUNDING = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>")
"""Phrases and places in an image: one token each, and part of an answer's text."""

SPECIAL_TOKENS = (
    *(END_OF_TEXT, TURN_START, TURN_END),
    *(f"<|extra_{index}|>" for index in range(205)),
    *GROUNDING,
    *(IMAGE_START, IMAGE_END, IMAGE_PLACEHOLDER),
)
"""In the order of their ids, which follow the vocabulary's."""

CHAT_TEMPLATE = (
    "{% set images = namespace(count=0) %}{% if messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{% set images.count = images.count + 1 %}"
    "Picture {{ images.count }}: <img><imgpad></img>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML as the original's `chat` writes it, with one placeholder for the tokens of an image. "Picture" is its own
word: the model was trained with it."""


def write_tokenizer(source: Path, target: Path, image_token_id: int) -> None:
    """Tokenizer files in `target` from the vocabulary beside the weights.

    Raises UserError where the config's `image_token_id` is not that of the vocabulary.
    """
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    from fastv_export.families.qwen_vl_chat.tiktoken_file import tokenizer_from_tiktoken

    tokenizer = tokenizer_from_tiktoken(source / VOCABULARY, PATTERN)
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False, special=token not in GROUNDING) for token in SPECIAL_TOKENS]
    )
    found = tokenizer.token_to_id(IMAGE_PLACEHOLDER)
    if found != image_token_id:
        raise UserError(
            f"{source / VOCABULARY}: {IMAGE_PLACEHOLDER} gets id {found} where config.json means {image_token_id}: "
            "the two do not belong together"
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, chat_template=CHAT_TEMPLATE
    ).save_pretrained(target)
