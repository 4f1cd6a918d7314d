from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, LlamaConfig, SmolVLMConfig, SmolVLMForConditionalGeneration
from transformers.models.smolvlm import processing_smolvlm
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from tests.families.row import Row
from tests.tiny import tiny_tokenizer

if TYPE_CHECKING:
    from fastv_runtime.preprocessing.videos.decoding import Video

TILE = 36
TILE_TOKENS = 9
MARKS = ("<fake_token_around_image>", "<image>", "<global-img>")
CHAT_TEMPLATE = processing_smolvlm.DEFAULT_CHAT_TEMPLATE.replace(
    "{% elif line['type'] == 'video' %}{{ '<video>' }}", ""
)
"""As published: without videos, for which transformers' processor takes a template of its own."""


def write_tiny_smolvlm(
    path: Path,
    config: Any = SmolVLMConfig,
    model: Any = SmolVLMForConditionalGeneration,
    image_processor: Any = SmolVLMImageProcessorPil,
) -> None:
    """Tiles of 9 tokens, four along an edge at most, an image processor as the published ones."""
    torch.manual_seed(0)
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    tokenizer = tiny_tokenizer(*MARKS[::2], *tiles, "<end_of_utterance>")
    tokenizer.chat_template = CHAT_TEMPLATE
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": TILE,
        "patch_size": 6,
        "initializer_range": 0.2,
    }
    image = tokenizer.convert_tokens_to_ids("<image>")
    made = model(config(vision_config=vision, text_config=text.to_dict(), image_token_id=image))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 1:
                # Norms and biases: left at one and zero, one that is lost or swapped would go unnoticed.
                parameter.uniform_(0.5, 1.5)
    made.save_pretrained(path)
    tokenizer.save_pretrained(path)
    image_processor(size={"longest_edge": 4 * TILE}, max_image_size={"longest_edge": TILE}).save_pretrained(path)


def image_inputs(path: Path, images: list[Image.Image], question: str, **settings: Any) -> dict[str, Any]:
    """What transformers' processor makes of images, from its parts: as a whole it wants num2words and torchvision."""
    image_processor = AutoImageProcessor.from_pretrained(path, backend="pil")
    batch = image_processor([images], return_row_col_info=True, return_tensors="pt", **settings)
    grids = zip(batch.pop("rows")[0], batch.pop("cols")[0], strict=True)
    texts = [processing_smolvlm.get_image_prompt_string(*grid, TILE_TOKENS, *MARKS) for grid in grids]
    return dict(batch) | _text_inputs(path, "image", texts, question)


def video_inputs(path: Path, video: Video, question: str) -> dict[str, Any]:
    """The same for a video."""
    image_processor = AutoImageProcessor.from_pretrained(path, backend="pil")
    batch = image_processor([list(video.frames)], do_image_splitting=False, return_tensors="pt")
    parts = SimpleNamespace(
        image_seq_len=TILE_TOKENS, image_token="<image>", fake_image_token=MARKS[0], global_image_token=MARKS[2]
    )
    metadata = SimpleNamespace(fps=video.fps, timestamps=video.timestamps, duration=video.duration)
    with patch.object(processing_smolvlm, "num2words", {5: "five"}.__getitem__):
        text = processing_smolvlm.SmolVLMProcessor.replace_video_token(
            cast(Any, parts), dict(batch) | {"video_metadata": [metadata]}, 0
        )
    return dict(batch) | _text_inputs(path, "video", [text], question)


def _text_inputs(path: Path, kind: str, texts: list[str], question: str) -> dict[str, Any]:
    """The tokens of a prompt in which each marker became one of the texts."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    content = [{"type": kind}] * len(texts) + [{"type": "text", "text": question}]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=processing_smolvlm.DEFAULT_CHAT_TEMPLATE,
        tokenize=False,
        add_generation_prompt=True,
    )
    first, *rest = prompt.split(f"<{kind}>")
    expanded = first + "".join(text + part for text, part in zip(texts, rest, strict=True))
    return dict(tokenizer(expanded, return_tensors="pt"))


ROWS = [
    Row(
        "smolvlm",
        write_tiny_smolvlm,
        cases=(((40, 40),), ((300, 60),), ((50, 40), (30, 80)), ((60, 40),)),
        inputs=image_inputs,
        videos=(0, 0, 0, 5),
        video_inputs=video_inputs,
        options={"max_images": 2, "max_text": 192},
    ),
    Row(
        "smolvlm",
        write_tiny_smolvlm,
        cases=(((50, 40),), ((120, 30), (40, 20))),
        inputs=partial(image_inputs, size={"longest_edge": 2 * TILE}),
        options={"max_images": 2, "image_tokens": 7 * TILE_TOKENS},
        name="smolvlm_image_tokens",
    ),
]
