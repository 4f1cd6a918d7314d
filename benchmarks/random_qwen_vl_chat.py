"""Qwen-VL-Chat of 2023, which transformers has no class for: its tensors by name and shape, and its tokenizer's file.

Names as in the published checkpoint. Shapes follow the published config: `visual` is a ViT with a resampler of 256
queries; position tables were trained on a 16 x 16 grid and stayed that size.
"""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

from random_weights import Shapes

QUERIES = 256
GRID = 256
"""Positions in the tower's and the resampler's tables."""

SPECIAL_BEFORE_IMAGE = 214
"""Ids between the first special token and <img>: three of the chat format, 205 extra, six of references and boxes."""


def parameter_shapes(config: dict[str, Any]) -> Shapes:
    """Every tensor of the checkpoint, in the order of the modules."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    inner = config["kv_channels"] * config["num_attention_heads"]
    branch = config["intermediate_size"] // 2
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (vocabulary, hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"transformer.h.{layer}"
        shapes |= {
            f"{prefix}.ln_1.weight": (hidden,),
            f"{prefix}.attn.c_attn.weight": (3 * inner, hidden),
            f"{prefix}.attn.c_attn.bias": (3 * inner,),
            f"{prefix}.attn.c_proj.weight": (hidden, inner),
            f"{prefix}.ln_2.weight": (hidden,),
            f"{prefix}.mlp.w1.weight": (branch, hidden),
            f"{prefix}.mlp.w2.weight": (branch, hidden),
            f"{prefix}.mlp.c_proj.weight": (hidden, branch),
        }
    shapes["transformer.ln_f.weight"] = (hidden,)
    shapes |= {f"transformer.visual.{name}": shape for name, shape in _visual(config["visual"]).items()}
    return shapes | {"lm_head.weight": (vocabulary, hidden)}


def _visual(visual: dict[str, Any]) -> Shapes:
    width, output, patch = visual["width"], visual["output_dim"], visual["patch_size"]
    inner = int(width * visual["mlp_ratio"])
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (GRID, width),
        "proj": (output, output),
        "conv1.weight": (width, 3, patch, patch),
        **_norm("ln_pre", width),
    }
    for layer in range(visual["layers"]):
        prefix = f"transformer.resblocks.{layer}"
        shapes |= {
            **_norm(f"{prefix}.ln_1", width),
            **_norm(f"{prefix}.ln_2", width),
            **_linear(f"{prefix}.attn.in_proj", width, 3 * width),
            **_linear(f"{prefix}.attn.out_proj", width, width),
            **_linear(f"{prefix}.mlp.c_fc", width, inner),
            **_linear(f"{prefix}.mlp.c_proj", inner, width),
        }
    return shapes | {
        "attn_pool.pos_embed": (QUERIES, output),
        "attn_pool.query": (QUERIES, output),
        "attn_pool.kv_proj.weight": (output, width),
        "attn_pool.attn.in_proj_weight": (3 * output, output),
        "attn_pool.attn.in_proj_bias": (3 * output,),
        **_linear("attn_pool.attn.out_proj", output, output),
        **_norm("attn_pool.ln_q", output),
        **_norm("attn_pool.ln_kv", output),
        **_norm("ln_post", output),
    }


def _linear(name: str, columns: int, rows: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def write_beside(path: Path, config: dict[str, Any], dtype: str) -> None:
    """config.json, generation_config.json, tokenizer_config.json and qwen.tiktoken. `dtype`: torch's name of it.

    The vocabulary is as long as it must be for the special tokens behind it to have the ids of the config.
    """
    first_special = config["visual"]["image_start_id"] - SPECIAL_BEFORE_IMAGE
    chat = {"chat_format": "chatml", "eos_token_id": first_special, "pad_token_id": first_special}
    tokenizer = {"model_max_length": 8192, "tokenizer_class": "QWenTokenizer"}
    for name, content in (
        ("config.json", config | {"torch_dtype": dtype}),
        ("generation_config.json", chat),
        ("tokenizer_config.json", tokenizer),
    ):
        (path / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (path / "qwen.tiktoken").write_text(_vocabulary(first_special), encoding="ascii")


def _vocabulary(size: int) -> str:
    """A byte-pair vocabulary, a token in base64 and its rank on each line: the bytes, then tokens longer by a byte."""
    generator = random.Random(0)
    tokens = [bytes([value]) for value in range(256)]
    known = set(tokens)
    while len(tokens) < size:
        merged = generator.choice(tokens) + generator.choice(tokens[:256])
        if merged not in known:
            known.add(merged)
            tokens.append(merged)
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
