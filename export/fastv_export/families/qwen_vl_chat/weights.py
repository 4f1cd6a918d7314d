"""Qwen-VL's published tensors by the parameters that they become: other names, and three other layouts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch.nn.functional import interpolate

from fastv_export.checkpoint.checkpoint import Checkpoint, StoredTensor

LAYER = r"^transformer\.h\.(\d+)\."
BLOCK = r"^transformer\.visual\.transformer\.resblocks\.(\d+)\."
TO_LAYER = r"language_model.model.layers.\1."
TO_BLOCK = r"visual.encoder.layers.\1."
RENAMES = (
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^transformer\.wte\.", "language_model.model.embed_tokens."),
    (r"^transformer\.ln_f\.", "language_model.model.norm."),
    (LAYER + r"ln_1\.", TO_LAYER + "input_layernorm."),
    (LAYER + r"ln_2\.", TO_LAYER + "post_attention_layernorm."),
    (LAYER + r"attn\.c_attn\.", TO_LAYER + "self_attn.qkv_proj."),
    (LAYER + r"attn\.c_proj\.", TO_LAYER + "self_attn.o_proj."),
    # The original computes w1(x) * silu(w2(x)).
    (LAYER + r"mlp\.w1\.", TO_LAYER + "mlp.up_proj."),
    (LAYER + r"mlp\.w2\.", TO_LAYER + "mlp.gate_proj."),
    (LAYER + r"mlp\.c_proj\.", TO_LAYER + "mlp.down_proj."),
    (BLOCK + r"ln_1\.", TO_BLOCK + "layer_norm1."),
    (BLOCK + r"ln_2\.", TO_BLOCK + "layer_norm2."),
    (BLOCK + r"attn\.in_proj\.", TO_BLOCK + "self_attn.qkv_proj."),
    (BLOCK + r"attn\.out_proj\.", TO_BLOCK + "self_attn.out_proj."),
    (BLOCK + r"mlp\.c_fc\.", TO_BLOCK + "mlp.fc1."),
    (BLOCK + r"mlp\.c_proj\.", TO_BLOCK + "mlp.fc2."),
    (r"^transformer\.visual\.attn_pool\.attn\.in_proj_", "visual.resampler.qkv_proj."),
    (r"^transformer\.visual\.attn_pool\.attn\.", "visual.resampler."),
    (r"^transformer\.visual\.attn_pool\.pos_embed$", "visual.resampler.query_positions"),
    (r"^transformer\.visual\.attn_pool\.", "visual.resampler."),
    (r"^transformer\.visual\.positional_embedding$", "visual.positions"),
    (r"^transformer\.visual\.(?=conv1\.|ln_pre\.|ln_post\.|proj$)", "visual."),
)
"""Stored name -> parameter name. `qkv_proj` stands for three parameters."""


def mapped_weights(checkpoint: Checkpoint, tower: Any) -> dict[str, StoredTensor]:
    """The stored tensor of each parameter of a QwenVLModel; tower: its CLIPVisionConfig."""
    return {
        name: tensor
        for stored in checkpoint.tensors.values()
        for name, tensor in _parameters(_renamed(stored.name), stored, tower)
    }


def _renamed(stored: str) -> str:
    """Empty for what is no parameter here, such as rotary frequencies."""
    for pattern, name in RENAMES:
        renamed, count = re.subn(pattern, name, stored)
        if count:
            return renamed
    return ""


def _parameters(name: str, tensor: StoredTensor, tower: Any) -> Iterator[tuple[str, StoredTensor]]:
    """The parameters that one stored tensor holds."""
    patches = (tower.image_size // tower.patch_size) ** 2
    if ".qkv_proj." in name:
        if name.startswith("visual.encoder."):
            tensor = _head_by_head(tensor, tower.num_attention_heads)
        rows = tensor.shape[0] // 3
        for index, part in enumerate("qkv"):
            yield name.replace("qkv_proj", f"{part}_proj"), tensor.rows(index * rows, (index + 1) * rows)
    elif name == "visual.positions":
        yield name, _resized(tensor, patches)
    elif name == "visual.resampler.query_positions":
        yield name, tensor
        yield "visual.resampler.key_positions", _resized(tensor, patches)
    elif name:
        yield name, tensor


def _head_by_head(tensor: StoredTensor, heads: int) -> StoredTensor:
    """Rows stored as [head, (q, k, v), channel], in the order (q, k, v), head, channel."""
    return tensor.rearranged(
        tensor.shape,
        lambda values: values.reshape(heads, 3, -1, *values.shape[1:]).swapaxes(0, 1).reshape(values.shape),
    )


def _resized(tensor: StoredTensor, patches: int) -> StoredTensor:
    """A square table of positions for another number of patches, by the original's bicubic interpolation."""
    if tensor.shape[0] == patches:
        return tensor
    return tensor.rearranged((patches, *tensor.shape[1:]), lambda values: _interpolated(values, patches), dtype="F32")


def _interpolated(table: Float[np.ndarray, "P C"], patches: int) -> Float[np.ndarray, "Q C"]:
    before, after = round(table.shape[0] ** 0.5), round(patches**0.5)
    square = torch.from_numpy(table.astype(np.float32)).reshape(1, before, before, -1).permute(0, 3, 1, 2)
    resized = interpolate(square, size=(after, after), mode="bicubic", align_corners=False)
    return resized[0].permute(1, 2, 0).flatten(0, 1).numpy()
