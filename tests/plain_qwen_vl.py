"""Qwen-VL read a second time, from its paper and published layouts, in plain torch: the oracle of its family's tests.

It shares nothing with the exporter: stored names as they are, whole sequences instead of caches, and where it prunes,
rows are taken out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import sqrt
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional as F


class PlainQwenVL:
    """Weights of a checkpoint in fp32, by their stored names."""

    def __init__(self, path: Path):
        self.config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        self.weights = {name: tensor.float() for name, tensor in load_file(path / "model.safetensors").items()}

    def embed(self, token_ids: list[int], features: list[torch.Tensor]) -> torch.Tensor:
        """Embeddings [S, D], each image's features between its `<img>` and `</img>`."""
        embedded = self.weights["transformer.wte.weight"][token_ids].clone()
        start = self.config["visual"]["image_start_id"]
        begins = [index for index, token in enumerate(token_ids) if token == start]
        ends = [index for index, token in enumerate(token_ids) if token == start + 1]
        for begin, end, rows in zip(begins, ends, features, strict=True):
            embedded[begin + 1 : end] = rows
        return embedded

    def features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Visual tokens [N, D] of one image [3, H, W]."""
        visual = self.config["visual"]
        patch, heads = visual["patch_size"], visual["heads"]
        get = self._section("transformer.visual.")
        x = F.conv2d(pixel_values[None], get("conv1.weight"), stride=patch)[0].flatten(1).T
        x = x + _bicubic(get("positional_embedding"), x.shape[0])
        x = self._layer_norm("transformer.visual.ln_pre", x)
        for block in range(visual["layers"]):
            name = f"transformer.visual.transformer.resblocks.{block}."
            mixed = self._linear(name + "attn.in_proj", self._layer_norm(name + "ln_1", x))
            # Head by head: its queries, its keys, its values.
            q, k, v = mixed.view(x.shape[0], heads, 3, -1).permute(2, 1, 0, 3)
            x = x + self._linear(name + "attn.out_proj", _attend(q, k, v).flatten(1))
            inner = F.gelu(self._linear(name + "mlp.c_fc", self._layer_norm(name + "ln_2", x)))
            x = x + self._linear(name + "mlp.c_proj", inner)
        return self._layer_norm("transformer.visual.ln_post", self._resample(x)) @ get("proj")

    def _resample(self, patches: torch.Tensor) -> torch.Tensor:
        pool = "transformer.visual.attn_pool."
        get = self._section(pool)
        heads = self.config["visual"]["output_dim"] // 128
        values = self._layer_norm(pool + "ln_kv", patches @ get("kv_proj.weight").T)
        keys = values + _bicubic(get("pos_embed"), patches.shape[0])
        queries = self._layer_norm(pool + "ln_q", get("query")) + get("pos_embed")
        weights, biases = get("attn.in_proj_weight").chunk(3), get("attn.in_proj_bias").chunk(3)
        q, k, v = (
            F.linear(rows, weight, bias).view(rows.shape[0], heads, -1).transpose(0, 1)
            for rows, weight, bias in zip((queries, keys, values), weights, biases, strict=True)
        )
        return self._linear(pool + "attn.out_proj", _attend(q, k, v).flatten(1))

    def logits(
        self, embedded: torch.Tensor, layer: int | None = None, dropped: Mapping[int, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [V] of the last row, and the scores that it gives at layer K - 1 to the rows that come there.

        layer: K. dropped: by layer, indices of rows that are taken out before it.
        """
        heads, epsilon = self.config["num_attention_heads"], self.config["layer_norm_epsilon"]
        x, positions = embedded, torch.arange(embedded.shape[0])
        scores = torch.empty(0)
        for index in range(self.config["num_hidden_layers"]):
            if dropped is not None and index in dropped:
                kept = ~torch.isin(positions, dropped[index])
                x, positions = x[kept], positions[kept]
            name = f"transformer.h.{index}."
            mixed = self._linear(name + "attn.c_attn", self._rms_norm(name + "ln_1", x, epsilon))
            q, k, v = (part.view(len(x), heads, -1).transpose(0, 1) for part in mixed.chunk(3, dim=-1))
            q, k = self._rotate(q, positions), self._rotate(k, positions)
            if layer is not None and index == layer - 1:
                last = (q[:, -1:] @ k.transpose(1, 2)).squeeze(1) / sqrt(q.shape[-1])
                scores = last.softmax(-1).mean(0)
            x = x + self._linear(name + "attn.c_proj", _attend(q, k, v, causal=True).flatten(1))
            y = self._rms_norm(name + "ln_2", x, epsilon)
            inner = self._linear(name + "mlp.w1", y) * F.silu(self._linear(name + "mlp.w2", y))
            x = x + self._linear(name + "mlp.c_proj", inner)
        last_row = self._rms_norm("transformer.ln_f", x[-1:], epsilon)
        return (last_row @ self.weights["lm_head.weight"].T)[0], scores

    def _rotate(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Rotary embedding of [heads, S, Dh]: channel i turns with channel i + Dh / 2."""
        half = x.shape[-1] // 2
        frequency = self.config["rotary_emb_base"] ** (-torch.arange(half) / half)
        angle = positions[:, None] * frequency
        first, second = x[..., :half], x[..., half:]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def _section(self, prefix: str):  # type: ignore[no-untyped-def]
        return lambda name: self.weights[prefix + name]

    def _linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weights[name + ".weight"], self.weights.get(name + ".bias"))

    def _layer_norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[name + ".weight"], self.weights[name + ".bias"], 1e-6)

    def _rms_norm(self, name: str, x: torch.Tensor, epsilon: float) -> torch.Tensor:
        return x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt() * self.weights[name + ".weight"]


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool = False) -> torch.Tensor:
    """Softmax attention of [heads, rows, channels], to [rows, heads, channels]; causal: rows after one are not seen."""
    scores = q @ k.transpose(1, 2) / sqrt(q.shape[-1])
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[1:]).triu(1).bool(), -torch.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1)


def _bicubic(table: torch.Tensor, rows: int) -> torch.Tensor:
    """A square table of positions [P, C] for another square number of them."""
    before, after = int(sqrt(table.shape[0])), int(sqrt(rows))
    square = table.view(before, before, -1).permute(2, 0, 1)[None]
    return F.interpolate(square, (after, after), mode="bicubic", align_corners=False)[0].permute(1, 2, 0).flatten(0, 1)
