from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from tests.families.row import Row
from tests.families.rows.smolvlm import TILE_TOKENS, write_tiny_smolvlm


def inputs(path: Path, images: list[Image.Image], question: str) -> dict[str, Any]:
    """What transformers' processor makes of images and a question."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    processor = Idefics3Processor(
        AutoImageProcessor.from_pretrained(path, backend="pil"), tokenizer, image_seq_len=TILE_TOKENS
    )
    content = [{"type": "image"}] * len(images) + [{"type": "text", "text": question}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return dict(processor(images=[images], text=[text], return_tensors="pt"))


ROWS = [
    Row(
        "idefics3",
        partial(
            write_tiny_smolvlm,
            config=Idefics3Config,
            model=Idefics3ForConditionalGeneration,
            image_processor=Idefics3ImageProcessorPil,
        ),
        cases=(((40, 40),), ((300, 60),), ((50, 40), (30, 80))),
        inputs=inputs,
        options={"max_images": 2, "max_text": 192},
    )
]
