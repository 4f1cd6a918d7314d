"""What an export reads beside the weights: a tokenizer of meaningless words and the family's image processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastv_runtime.errors import UserError

PLAIN = {"image_token_id": "<image>", "video_token_id": "<video>"}
QWEN_VL = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
VISUAL_TOKENS: dict[str, dict[str, str]] = {
    "llava": PLAIN,
    "llava_next": PLAIN,
    "llava_onevision": PLAIN,
    "fast_vlm": PLAIN,
    "video_llava": PLAIN,
    "idefics3": PLAIN,
    "smolvlm": PLAIN,
    "qwen2_vl": QWEN_VL,
    "qwen2_5_vl": QWEN_VL,
    "qwen3_vl": QWEN_VL,
    "internvl": {"image_token_id": "<IMG_CONTEXT>"},
}
"""Placeholders by model type: the config's attribute with the id, and the token."""

TILES = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
BEFORE_IMAGE: dict[str, list[str]] = {
    "idefics3": ["<global-img>", *TILES, "<fake_token_around_image>"],
    "smolvlm": ["<global-img>", *TILES, "<fake_token_around_image>"],
    "internvl": ["<img>", "</img>"],
}
"""Tokens whose ids end right before the image token's."""

TEXT_TOKENS = {"bos_token_id": "<s>", "eos_token_id": "</s>", "pad_token_id": "<pad>"}
QWEN_TEXT_TOKENS = {"bos_token_id": "<|endoftext|>", "eos_token_id": "<|im_end|>", "pad_token_id": "<pad>"}
SMOL_TEXT_TOKENS = {"bos_token_id": "<|endoftext|>", "eos_token_id": "<end_of_utterance>", "pad_token_id": "<|im_end|>"}


def check_known(model_type: str) -> None:
    """Raises UserError for a model type that has no tokenizer and image processor here."""
    if model_type not in VISUAL_TOKENS:
        known = ", ".join(VISUAL_TOKENS)
        raise UserError(
            f"model type {model_type!r}: its special tokens and image processor are not known; known: {known}"
        )


def write_tokenizer(path: Path, config: Any) -> None:
    """One word per id (w0, w1 and so on), the family's special tokens at the ids that the config gives them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = _special_tokens(config)
    words = {special.get(index, f"w{index}"): index for index in range(config.get_text_config().vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=next(iter(words))))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(special.values()))
    named = {
        attribute.removesuffix("_id"): special[index]
        for attribute in TEXT_TOKENS
        if (index := _id(config, attribute)) in special
    }
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=[token for token in special.values() if token not in named.values()],
        **named,
    ).save_pretrained(path)


def _special_tokens(config: Any) -> dict[int, str]:
    """Token by id; where the config gives two tokens one id, the first stands."""
    special: dict[int | None, str] = {}
    for attribute, token in VISUAL_TOKENS[config.model_type].items():
        special[_id(config, attribute)] = token
    before = BEFORE_IMAGE.get(config.model_type, [])
    for index, token in enumerate(before, config.image_token_id - len(before)):
        special[index] = token
    text = config.get_text_config()
    names = QWEN_TEXT_TOKENS if "qwen" in text.model_type else TEXT_TOKENS
    names = SMOL_TEXT_TOKENS if config.model_type in ("idefics3", "smolvlm") else names
    for attribute, token in names.items():
        special.setdefault(_id(config, attribute), token)
    if names is QWEN_TEXT_TOKENS and (end := _id(config, "eos_token_id")) is not None:
        special.setdefault(end - 1, "<|im_start|>")
    return {index: token for index, token in special.items() if index is not None and 0 <= index < text.vocab_size}


def _id(config: Any, attribute: str) -> int | None:
    """A token's id, from the whole model's config or its text model's, as they were given."""
    for part in (config, config.get_text_config()):
        # Not getattr, behind which Idefics3 keeps a padding token that it calls deprecated.
        index = vars(part).get(part.attribute_map.get(attribute, attribute))
        if isinstance(index, int):
            return index
    return None


def write_image_processor(path: Path, config: Any) -> None:
    """The settings of the family's published image processor, in its torch-free form."""
    _image_processor(config).save_pretrained(path)


def _image_processor(config: Any) -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    vision = config.vision_config
    match config.model_type:
        # Video-LLaVA's own class is not needed for images; it does what CLIP's does.
        case "llava" | "video_llava":
            return CLIPImageProcessorPil(**_cropped(vision.image_size))
        case "fast_vlm":
            return CLIPImageProcessorPil(**_cropped(1024), image_mean=[0.0] * 3, image_std=[1.0] * 3)
        case "llava_next":
            from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

            return LlavaNextImageProcessorPil(
                **_cropped(vision.image_size), image_grid_pinpoints=config.image_grid_pinpoints
            )
        case "llava_onevision":
            from transformers.models.llava_onevision import image_processing_pil_llava_onevision as onevision

            return onevision.LlavaOnevisionImageProcessorPil(
                size=_square(vision.image_size),
                image_mean=[0.5] * 3,
                image_std=[0.5] * 3,
                image_grid_pinpoints=config.image_grid_pinpoints,
            )
        case "qwen2_vl" | "qwen2_5_vl" | "qwen3_vl":
            from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

            patches = {"patch_size": vision.patch_size, "merge_size": vision.spatial_merge_size}
            if config.model_type == "qwen3_vl":
                pixels = {"shortest_edge": 65536, "longest_edge": 16777216}
                return Qwen2VLImageProcessorPil(**patches, size=pixels, image_mean=[0.5] * 3, image_std=[0.5] * 3)
            return Qwen2VLImageProcessorPil(**patches, size={"shortest_edge": 3136, "longest_edge": 12845056})
        case "internvl":
            from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
            from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

            return GotOcr2ImageProcessorPil(
                size=_square(vision.image_size[0]),
                image_mean=IMAGENET_DEFAULT_MEAN,
                image_std=IMAGENET_DEFAULT_STD,
            )
        case "idefics3" | "smolvlm":
            from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
            from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

            kind = Idefics3ImageProcessorPil if config.model_type == "idefics3" else SmolVLMImageProcessorPil
            tile = vision.image_size
            return kind(size={"longest_edge": 4 * tile}, max_image_size={"longest_edge": tile})
    raise AssertionError(f"{config.model_type} is in VISUAL_TOKENS without an image processor")


def _cropped(size: int) -> dict[str, Any]:
    return {"size": {"shortest_edge": size}, "crop_size": _square(size)}


def _square(size: int) -> dict[str, int]:
    return {"height": size, "width": size}
