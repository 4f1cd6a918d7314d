"""A tiny random Qwen-VL-Chat as it is published: the original's names, layouts, config.json and qwen.tiktoken."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import tiktoken
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer
from transformers.convert_slow_tokenizer import bytes_to_unicode

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = [
    *["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    *[f"<|extra_{index}|>" for index in range(205)],
    *["<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<img>", "</img>", "<imgpad>"],
]
CORPUS = [
    "You are a helpful assistant. What color is the circle? Picture 1: system user",
    "the theme's 数字 数字 naïve aaaa ",
]
MERGES = 60

IMAGE_SIZE = 112
TOKENS = 256 + MERGES + len(SPECIAL)
CONFIG: dict[str, Any] = {
    "architectures": ["QWenLMHeadModel"],
    "auto_map": {
        "AutoConfig": "configuration_qwen.QWenConfig",
        "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
    },
    "hidden_size": 256,
    "intermediate_size": 384,
    "kv_channels": 64,
    "layer_norm_epsilon": 1e-6,
    "max_position_embeddings": 8192,
    "model_type": "qwen",
    "no_bias": True,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "seq_length": 256,
    "tie_word_embeddings": False,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
    "visual": {
        "heads": 2,
        "image_size": IMAGE_SIZE,
        "image_start_id": TOKENS - 3,
        "layers": 2,
        "mlp_ratio": 4.9231,
        "n_queries": 16,
        "output_dim": 256,
        "patch_size": 14,
        "width": 64,
    },
    "vocab_size": TOKENS,
}


def write_tiny_qwen_vl(path: Path) -> Path:
    """16 visual tokens per image; the tables of positions are for 16 x 16 and 4 x 4, the patches are 8 x 8."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    generation = {"chat_format": "chatml", "eos_token_id": TOKENS - len(SPECIAL)}
    (path / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    write_vocabulary(path / "qwen.tiktoken")
    generator = torch.Generator().manual_seed(0)
    tensors = {name: _random(name, shape, generator).bfloat16() for name, shape in _shapes().items()}
    save_file(tensors, path / "model.safetensors")
    return path


def write_vocabulary(file: Path) -> None:
    """Bytes, then merges learnt from a few words, in tiktoken's format."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Sequence([Split(Regex(PATTERN), "isolated"), ByteLevel(False, use_regex=False)])
    trainer = BpeTrainer(vocab_size=256 + MERGES, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    assert len(vocabulary) == 256 + MERGES
    lines = [b64encode(bytes(byte_of[each] for each in token)) + b" %d\n" % rank for token, rank in vocabulary]
    file.write_bytes(b"".join(lines))


def original_tokenizer(file: Path) -> tiktoken.Encoding:
    """The tokenizer that the original is built on. (tiktoken's own loader caches by path, which tests reuse.)"""
    ranks = {b64decode(token): int(rank) for token, rank in map(bytes.split, file.read_bytes().splitlines())}
    special = {token: len(ranks) + index for index, token in enumerate(SPECIAL)}
    return tiktoken.Encoding("qwen", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)


def _shapes() -> dict[str, tuple[int, ...]]:
    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"] // 2
    visual = CONFIG["visual"]
    width, patch, queries = visual["width"], visual["patch_size"], visual["n_queries"]
    tower, pool = "transformer.visual.", "transformer.visual.attn_pool."
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (TOKENS, hidden),
        "transformer.ln_f.weight": (hidden,),
        "transformer.rotary_emb.inv_freq": (CONFIG["kv_channels"] // 2,),
        "lm_head.weight": (TOKENS, hidden),
        tower + "conv1.weight": (width, 3, patch, patch),
        tower + "positional_embedding": (256, width),
        tower + "proj": (hidden, hidden),
        pool + "query": (queries, hidden),
        pool + "pos_embed": (queries, hidden),
        pool + "kv_proj.weight": (hidden, width),
        pool + "attn.in_proj_weight": (3 * hidden, hidden),
        pool + "attn.in_proj_bias": (3 * hidden,),
        **_affine(pool + "attn.out_proj", hidden, hidden),
        **_affine(pool + "ln_q", hidden),
        **_affine(pool + "ln_kv", hidden),
        **_affine(tower + "ln_pre", width),
        **_affine(tower + "ln_post", hidden),
    }
    for layer in range(CONFIG["num_hidden_layers"]):
        name = f"transformer.h.{layer}."
        shapes |= {
            name + "ln_1.weight": (hidden,),
            name + "ln_2.weight": (hidden,),
            **_affine(name + "attn.c_attn", 3 * hidden, hidden),
            name + "attn.c_proj.weight": (hidden, hidden),
            name + "mlp.w1.weight": (inner, hidden),
            name + "mlp.w2.weight": (inner, hidden),
            name + "mlp.c_proj.weight": (hidden, inner),
        }
    wide = int(width * visual["mlp_ratio"])
    for block in range(visual["layers"]):
        name = f"{tower}transformer.resblocks.{block}."
        shapes |= {
            **_affine(name + "ln_1", width),
            **_affine(name + "ln_2", width),
            **_affine(name + "attn.in_proj", 3 * width, width),
            **_affine(name + "attn.out_proj", width, width),
            **_affine(name + "mlp.c_fc", wide, width),
            **_affine(name + "mlp.c_proj", width, wide),
        }
    return shapes


def _affine(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {name + ".weight": shape, name + ".bias": shape[:1]}


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Of a size at which attention is far from uniform and no norm is the identity."""
    if ".ln_" in name and name.endswith("weight"):
        return torch.empty(shape).uniform_(0.5, 1.5, generator=generator)
    if len(shape) == 1:
        return 0.3 * torch.randn(shape, generator=generator)
    tables = ("wte", "positional_embedding", "pos_embed", "query")
    fan_in = 1 if any(table in name for table in tables) else torch.Size(shape[1:]).numel()
    return 1.5 * fan_in**-0.5 * torch.randn(shape, generator=generator)
