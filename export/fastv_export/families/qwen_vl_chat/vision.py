"""The vision half of Qwen-VL: a ViT and the resampler that makes a fixed number of visual tokens of its patches."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from fastv_export.hf import models as hf_models

EPSILON = 1e-6
"""Of every LayerNorm here."""

RESAMPLER_HEAD = 128
"""Channels per attention head of the resampler."""


class Tower(nn.Module):
    """Pixels to visual tokens (arXiv 2308.12966, section 2.1).

    Patches, learned positions, stock CLIP layers with exact GELU, the resampler, a norm and a projection.
    config: a CLIPVisionConfig. queries: visual tokens per image. width: hidden size D of the language model.
    """

    def __init__(self, config: Any, queries: int, width: int):
        super().__init__()
        hidden, patch = config.hidden_size, config.patch_size
        patches = (config.image_size // patch) ** 2
        self.conv1 = nn.Conv2d(config.num_channels, hidden, patch, stride=patch, bias=False)
        self.positions = nn.Parameter(torch.empty(patches, hidden))
        self.ln_pre = nn.LayerNorm(hidden, eps=EPSILON)
        self.encoder = hf_models.clip_layers(config)
        self.resampler = Resampler(hidden, patches, queries, width)
        self.ln_post = nn.LayerNorm(width, eps=EPSILON)
        self.proj = nn.Parameter(torch.empty(width, width))

    def forward(self, pixel_values: Float[torch.Tensor, "B 3 H W"]) -> Float[torch.Tensor, "B N D"]:
        patches = self.conv1(pixel_values).flatten(2).transpose(1, 2)
        hidden = self.encoder(self.ln_pre(patches + self.positions)).last_hidden_state
        rows: torch.Tensor = self.ln_post(self.resampler(hidden))
        return rows @ self.proj


class Resampler(nn.Module):
    """One cross-attention from learned queries to the patches of an image.

    Positions are added to queries and keys, not to values.
    """

    def __init__(self, hidden: int, patches: int, queries: int, width: int):
        super().__init__()
        self.heads = width // RESAMPLER_HEAD
        self.query = nn.Parameter(torch.empty(queries, width))
        self.query_positions = nn.Parameter(torch.empty(queries, width))
        self.key_positions = nn.Parameter(torch.empty(patches, width))
        # The original has no projection where the widths agree.
        self.kv_proj = nn.Identity() if hidden == width else nn.Linear(hidden, width, bias=False)
        self.ln_q = nn.LayerNorm(width, eps=EPSILON)
        self.ln_kv = nn.LayerNorm(width, eps=EPSILON)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, patches: Float[torch.Tensor, "B P C"]) -> Float[torch.Tensor, "B N D"]:
        values = self.ln_kv(self.kv_proj(patches))
        queries = (self.ln_q(self.query) + self.query_positions).expand(patches.shape[0], -1, -1)
        mixed = scaled_dot_product_attention(
            self._heads(self.q_proj(queries)),
            self._heads(self.k_proj(values + self.key_positions)),
            self._heads(self.v_proj(values)),
        )
        rows: torch.Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return rows

    def _heads(self, rows: Float[torch.Tensor, "B R D"]) -> Float[torch.Tensor, "B H R Dh"]:
        heads: torch.Tensor = rows.unflatten(-1, (self.heads, -1))
        return heads.transpose(1, 2)
