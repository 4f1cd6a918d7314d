"""The random Qwen2.5-VL that all peers load: `peers-qwen2.5-vl` with a tokenizer of bytes, a template and an image.

Other runtimes read more of a checkpoint than fastv-export does: a byte-level BPE whose splitting they recognise as
Qwen2's, a chat template that they can execute, and the processor's settings under the names of transformers 4.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
from configurations import configuration
from PIL import Image
from random_checkpoint import write_random_checkpoint

from fastv_export.progress import Progress

CONFIGURATION = "peers-qwen2.5-vl"
PIXELS = 672
"""Of the image's sides: 24 x 24 visual tokens of 28 x 28 pixels."""
QUESTION = "What is in the picture and where are they?"
"""Makes, with the template and the markers around the image, 60 tokens that are not visual."""
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
)
"""The last ids of the vocabulary, in this order."""
TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML with Qwen's markers around images."""


def write_checkpoint(out: Path, progress: Progress | None = None) -> None:
    """Write the checkpoint in fp32 to `out`, which must not exist."""
    config = configuration(CONFIGURATION)
    write_random_checkpoint(config, out, dtype="fp32", progress=progress)
    write_tokenizer(out, config.get_text_config().vocab_size)
    write_old_config(out)
    write_old_processor(out)


def write_tokenizer(out: Path, vocabulary: int) -> None:
    """A byte-level BPE of bytes, pairs and triples of lower-case letters, split as Qwen2's."""
    from transformers import Qwen2Tokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    words = sorted(bytes_to_unicode().values())
    merges: Any = list(islice(_merges(), vocabulary - len(words) - len(SPECIAL)))
    words += ["".join(pair) for pair in merges] + list(SPECIAL)
    tokenizer = Qwen2Tokenizer(
        vocab={word: index for index, word in enumerate(words)},
        merges=merges,
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIAL),
    )
    tokenizer.chat_template = TEMPLATE
    for old in ("tokenizer.json", "tokenizer_config.json"):
        (out / old).unlink(missing_ok=True)
    tokenizer.save_pretrained(out)
    settings = out / "tokenizer_config.json"
    known = json.loads(settings.read_text(encoding="utf-8"))
    known["additional_special_tokens"] = known.pop("extra_special_tokens")
    settings.write_text(json.dumps(known | {"chat_template": TEMPLATE}, indent=2) + "\n", encoding="utf-8")
    # What converters that do not read tokenizer.json look for.
    (out / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (out / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_old_config(out: Path) -> None:
    """Rotary settings under the names of transformers 4, which 5 reads as well."""
    file = out / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    text = config["text_config"]
    rope = text.pop("rope_parameters")
    text["rope_theta"] = rope["rope_theta"]
    text["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    del config["vision_config"]["rope_parameters"]
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_old_processor(out: Path) -> None:
    """Names of transformers 4 in preprocessor_config.json, and the template in a file of its own."""
    file = out / "preprocessor_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    size = settings["size"]
    settings |= {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "min_pixels": size["shortest_edge"],
        "max_pixels": size["longest_edge"],
    }
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (out / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}) + "\n", encoding="utf-8")


def write_image(path: Path) -> None:
    """An image of smooth noise, the same at every run, of PIXELS a side."""
    small = np.random.default_rng(0).integers(0, 256, (PIXELS // 24, PIXELS // 24, 3), dtype=np.uint8)
    Image.fromarray(small).resize((PIXELS, PIXELS), Image.Resampling.BILINEAR).save(path)


def _merges() -> Iterator[tuple[str, ...]]:
    pairs = list(product(string.ascii_lowercase, repeat=2))
    yield from pairs
    yield from (("".join(pair), letter) for pair in pairs for letter in string.ascii_lowercase)
