"""Qwen-VL-Chat (2023): its published weights on stock classes and a small resampler of ours (arXiv 2308.12966).

The original ships its own Python, which is never run; its decoder is Qwen2 under other names. Past `seq_length` (2,048)
positions the original rescales rotary frequencies (dynamic NTK) and queries (log-n attention). The graphs do neither,
so a plan that reaches that far is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from fastv_export import hf
from fastv_export.checkpoint.checkpoint import Checkpoint, StoredTensor
from fastv_export.checkpoint.json_files import read_object
from fastv_export.families.base import Family
from fastv_export.families.qwen_vl_chat.processor import (
    END_OF_TEXT,
    IMAGE_PLACEHOLDER,
    IMAGE_START,
    SPECIAL_TOKENS,
    TURN_END,
    TURN_START,
    write_tokenizer,
)
from fastv_export.hf import models as hf_models
from fastv_runtime.config.layouts import FixedVision
from fastv_runtime.errors import UserError

QUERIES = 256
"""Visual tokens per image where the config does not say."""

FIXED = {"no_bias": True, "rotary_pct": 1.0, "scale_attn_weights": True}
"""Settings of every published checkpoint that the stock decoder has built in."""

TEXT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "seq_length",
    "layer_norm_epsilon",
    "rotary_emb_base",
)
VISUAL_FIELDS = ("image_size", "patch_size", "width", "layers", "heads", "mlp_ratio", "image_start_id")


class QwenVLChat(Family):
    model_type = "qwen"

    def model_class(self) -> Any:
        from fastv_export.families.qwen_vl_chat.model import QwenVLModel

        return QwenVLModel

    def config(self, checkpoint: Checkpoint) -> Any:
        """The published config.json as a QwenVLConfig of a stock Qwen2Config and CLIPVisionConfig."""
        from transformers import CLIPVisionConfig, Qwen2Config

        from fastv_export.families.qwen_vl_chat.model import QwenVLConfig

        published = _published(checkpoint.path)
        visual = published["visual"]
        text_config = Qwen2Config(
            vocab_size=published["vocab_size"],
            hidden_size=published["hidden_size"],
            # The published number counts both halves of the gated product.
            intermediate_size=published["intermediate_size"] // 2,
            num_hidden_layers=published["num_hidden_layers"],
            num_attention_heads=published["num_attention_heads"],
            num_key_value_heads=published["num_attention_heads"],
            max_position_embeddings=published["seq_length"],
            rms_norm_eps=published["layer_norm_epsilon"],
            rope_parameters={"rope_type": "default", "rope_theta": float(published["rotary_emb_base"])},
        )
        vision_config = CLIPVisionConfig(
            image_size=visual["image_size"],
            patch_size=visual["patch_size"],
            hidden_size=visual["width"],
            intermediate_size=int(visual["width"] * visual["mlp_ratio"]),
            num_hidden_layers=visual["layers"],
            num_attention_heads=visual["heads"],
            hidden_act="gelu",
            layer_norm_eps=1e-6,
        )
        return QwenVLConfig(
            text_config=text_config,
            vision_config=vision_config,
            image_token_index=visual["image_start_id"] - _offset(IMAGE_START) + _offset(IMAGE_PLACEHOLDER),
            image_seq_length=visual.get("n_queries", QUERIES),
        )

    def build(self, config: Any) -> Any:
        # The tower is no PreTrainedModel, so it does not get the default by itself.
        return hf_models.build(self.model_class(), config, attention="sdpa")

    def weights(self, model: Any, checkpoint: Checkpoint) -> dict[str, StoredTensor]:
        from fastv_export.families.qwen_vl_chat.weights import mapped_weights

        return mapped_weights(checkpoint, model.config.vision_config)

    def load(self, checkpoint: Checkpoint) -> Any:
        """By the same map of weights as an export: transformers has no reader for these files."""
        from fastv_export.checkpoint.skeleton import stored_parameters  # which imports the families

        model = self.build(self.config(checkpoint))
        stored = stored_parameters(model, self.weights(model, checkpoint), checkpoint)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.from_numpy(stored[id(parameter)].read().astype(np.float32)))
        hf_models.attend(model, "eager")
        return model

    def decoder(self, model: Any) -> Any:
        return hf_models.decoder(model.language_model)

    def head(self, model: Any) -> nn.Module:
        return hf_models.head(model.language_model)

    def encode(self, model: Any, **inputs: torch.Tensor) -> Float[torch.Tensor, "N D"]:
        features: torch.Tensor = model.visual(inputs["pixel_values"])[0]
        return features

    def last_logits(
        self, model: Any, token_ids: torch.Tensor, pixels: dict[str, torch.Tensor], visual: torch.Tensor, rows: int
    ) -> Float[torch.Tensor, "rows V"]:
        """There is no stock forward of the whole: features in the places of their tokens, as the original has it."""
        embedded = hf.embeddings_of(self.decoder(model))(token_ids)
        embedded = embedded.masked_scatter(visual[..., None], self.encode(model, **pixels))
        return hf_models.last_logits_of_embedded(model.language_model, embedded, rows)

    def vision(self, config: Any, image_tokens: int | None) -> FixedVision:
        """The grid is that of the resampler's queries, whose positions are laid out like the image's."""
        size, side = config.vision_config.image_size, round(config.image_seq_length**0.5)
        return FixedVision(image_height=size, image_width=size, rows=side, columns=side)

    def max_positions(self, config: Any) -> hf_models.Limit:
        return hf_models.Limit(config.text_config.max_position_embeddings, "seq_length of its config.json")

    def stop_tokens(self, checkpoint: Checkpoint, config: Any) -> tuple[int, ...]:
        """Those of the chat format, which the original's code names and its generation config does not."""
        first = config.image_token_id - _offset(IMAGE_PLACEHOLDER)
        return tuple(first + _offset(token) for token in (TURN_END, TURN_START, END_OF_TEXT))

    def write_processor(self, checkpoint: Checkpoint, target: Path) -> None:
        config = self.config(checkpoint)
        target.mkdir()
        write_tokenizer(checkpoint.path, target, config.image_token_id)
        hf_models.write_clip_processor(target, config.vision_config.image_size)


def _published(directory: Path) -> dict[str, Any]:
    """config.json, all that is read of it there; UserError for what is not Qwen-VL-Chat."""
    file = directory / "config.json"
    published: dict[str, Any] = read_object(file)
    visual = published.get("visual")
    if not isinstance(visual, dict) or not visual:
        raise UserError(f"{file}: a Qwen language model that sees no images: give a checkpoint of Qwen-VL-Chat")
    missing = [name for name in TEXT_FIELDS if name not in published]
    missing += [f"visual.{name}" for name in VISUAL_FIELDS if name not in visual]
    if missing:
        raise UserError(f"{file}: it lacks {', '.join(missing)}: download the checkpoint again")
    for name, value in FIXED.items():
        if published.get(name, value) != value:
            raise UserError(f"{file}: {name} is {published[name]}: only {value} is supported, as Qwen-VL-Chat has it")
    generation = directory / "generation_config.json"
    if generation.is_file():
        chat_format = read_object(generation).get("chat_format", "chatml")
        if chat_format != "chatml":
            raise UserError(f"{generation}: chat_format is {chat_format!r}: give the Chat variant, which speaks chatml")
    return published


def _offset(token: str) -> int:
    """Distance of a special token's id from the first one's."""
    return SPECIAL_TOKENS.index(token)
