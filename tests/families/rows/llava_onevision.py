"""LLaVA-OneVision; a tile is 33 pixels and 5 x 5 features, and grids of more than two tiles are shrunk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from tests.families.row import Row
from tests.tiny import CHAT_TEMPLATE, tiny_tokenizer, vary_vectors

if TYPE_CHECKING:
    from fastv_runtime.preprocessing.videos.decoding import Video

TILE = 33
PINPOINTS = [[TILE * rows, TILE * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
ASPECT = "anyres_max_2"


def write(path: Path) -> None:
    """A tiny random LLaVA-OneVision, its head tied to its embedding table as in the 0.5B model."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer("<video>")
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=TILE,
        patch_size=6,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        tie_word_embeddings=True,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=PINPOINTS,
        vision_aspect_ratio=ASPECT,
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    vary_vectors(model)
    model.save_pretrained(path)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(path)
    LlavaOnevisionImageProcessorPil(
        size={"height": TILE, "width": TILE}, image_grid_pinpoints=PINPOINTS, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(path)


class _Processor(LlavaOnevisionProcessor):
    """transformers' own, but for its video half, which needs torchvision."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        return (
            None
            if argument_name == "video_processor"
            else super().check_argument_for_proper_class(argument_name, argument)
        )


def processor_and_text(path: Path, kinds: list[str], question: str) -> tuple[_Processor, str]:
    processor = _Processor(
        AutoImageProcessor.from_pretrained(path, backend="pil"),
        AutoTokenizer.from_pretrained(path),
        num_image_tokens=25,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=ASPECT,
        chat_template=CHAT_TEMPLATE,
    )
    content = [*({"type": kind} for kind in kinds), {"type": "text", "text": question}]
    return processor, processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def inputs(path: Path, images: list[Image.Image], question: str) -> dict[str, Any]:
    processor, text = processor_and_text(path, ["image"] * len(images), question)
    return dict(processor(images=images, text=text, return_tensors="pt", add_special_tokens=False))


def video_inputs(path: Path, video: Video, question: str) -> dict[str, Any]:
    """Frames as transformers' video processor is configured to make them: squeezed to a square, and normalised."""
    processor, text = processor_and_text(path, ["video"], question)
    squeeze = SiglipImageProcessorPil(
        size={"height": TILE, "width": TILE},
        resample=Image.Resampling.BICUBIC,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    pixels = squeeze(images=list(video.frames), return_tensors="pt")["pixel_values"][None]
    expanded = text.replace("<video>", processor.replace_video_token({"pixel_values_videos": pixels}, 0))
    return {
        **processor.tokenizer(expanded, return_tensors="pt", add_special_tokens=False),
        "pixel_values_videos": pixels,
    }


ROWS = [
    Row(
        "llava_onevision",
        write,
        # One image on two tiles; a wide and a tall one; a large one that is shrunk; a video.
        cases=(((64, 31),), ((300, 30), (32, 200)), ((120, 110),), ((50, 40),)),
        videos=(0, 0, 0, 3),
        inputs=inputs,
        video_inputs=video_inputs,
        options={"max_images": 2},
    )
]
