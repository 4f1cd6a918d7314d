"""Decoders that a LLaVA may be given, by what is special about them."""

from __future__ import annotations

from typing import Any

import transformers

THETA = {"rope_theta": 10000.0}

EXPORTED: dict[str, tuple[str, dict[str, Any]]] = {
    "embeddings scaled inside their module, tied": ("GemmaConfig", {"head_dim": 8, "tie_word_embeddings": True}),
    "embeddings scaled by the decoder": (
        "GraniteConfig",
        {
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.3,
            "logits_scaling": 4.0,
        },
    ),
    "rope longrope": (
        "LlamaConfig",
        {
            "rope_parameters": {
                "rope_type": "longrope",
                "factor": 4.0,
                "short_factor": [1.0, 1.5, 2.0, 2.5],
                "long_factor": [3.0, 4.0, 5.0, 6.0],
                "original_max_position_embeddings": 128,
                **THETA,
            }
        },
    ),
    "rope yarn": (
        "LlamaConfig",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32,
                **THETA,
            }
        },
    ),
    "half of each head rotated, in pairs": ("GlmConfig", {"head_dim": 16}),
    "norms on queries and keys": ("Qwen3Config", {"head_dim": 16}),
}
"""Class and options of the decoder's config."""

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "four norms, soft caps": (
        "Gemma2Config",
        {"head_dim": 8},
        "'gemma2' has pre_feedforward_layernorm, post_feedforward_layernorm in layer 0",
    ),
    "four norms, windows": ("Gemma3TextConfig", {"head_dim": 8}, "'gemma3_text' has pre_feedforward_layernorm"),
    "four norms": ("Glm4Config", {"head_dim": 16}, "'glm4' has post_self_attn_layernorm, post_mlp_layernorm"),
    "norms after": ("Olmo2Config", {}, "'olmo2' has no input_layernorm in layer 0"),
    "both at once": ("CohereConfig", {}, "'cohere' has no post_attention_layernorm in layer 0"),
    "both at once, windows": ("Cohere2Config", {}, "'cohere2' has no post_attention_layernorm in layer 0"),
    "both at once, by a switch": (
        "StableLmConfig",
        {"use_parallel_residual": True},
        "'stablelm' has no post_attention_layernorm in layer 0",
    ),
    "phi": ("PhiConfig", {}, "'phi' has no norm"),
    "other names": ("GPTNeoXConfig", {}, "'gpt_neox' has no embed_tokens, norm"),
    "experts": ("MixtralConfig", {}, r"'mixtral' has more than one MLP, such as experts, in layer 0"),
    "experts, one shared": ("Qwen2MoeConfig", {}, "'qwen2_moe' has more than one MLP"),
    "experts in some layers": ("Qwen3MoeConfig", {"mlp_only_layers": [0]}, "'qwen3_moe' has more.* in layer 1"),
    "experts, sinks": ("GptOssConfig", {"head_dim": 8}, "'gpt_oss' has more than one MLP"),
    "chunks, experts": ("Llama4TextConfig", {"head_dim": 8}, "'llama4_text' has no mlp"),
    "layers without attention": ("Qwen3NextConfig", {}, "'qwen3_next' has no self_attn in layer 0"),
    "compressed keys": ("DeepseekV3Config", {"first_k_dense_replace": 9}, "does not say head_dim in the attention of"),
}
"""Refused by the config alone, and the words for it."""

REFUSED_AS_BUILT: dict[str, tuple[str, dict[str, Any], str]] = {
    "queries scaled by position": (
        "Ministral3Config",
        {"head_dim": 8},
        "'ministral3' computes from position_ids, beside the rotary embedding",
    ),
    "keywords kept from the attention": (
        "StableLmConfig",
        {},
        "'stablelm' does not hand on to its attention what layer 0 is given for it",
    ),
    "two attentions at once": ("DiffLlamaConfig", {}, "'diffllama' attends to something else than what it caches"),
}
"""Refused when a few rows have gone through the model."""

SHORT: dict[str, tuple[str, dict[str, Any], str]] = {
    "rope dynamic": (
        "LlamaConfig",
        {"max_position_embeddings": 64, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, **THETA}},
        r"supports at most 64 \(rope_type dynamic, .*\): lower `max_text`, `max_images`, `max_visual`, `image_tokens`",
    ),
    "rope longrope": ("LlamaConfig", EXPORTED["rope longrope"][1], r"supports at most 128 \(rope_type longrope"),
    "window": ("MistralConfig", {"sliding_window": 48}, r"supports at most 48 \(sliding_window 48\)"),
    "window of some layers": (
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": 48, "max_window_layers": 1},
        r"supports at most 48 \(sliding_window 48\)",
    ),
}
"""Exported for short plans alone."""


def config(name: str) -> type:
    """A decoder's config class."""
    found: type = getattr(transformers, name)
    return found
