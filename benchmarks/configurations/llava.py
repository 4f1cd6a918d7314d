"""LLaVA-1.5: a CLIP-L/14 tower at 336 pixels and Vicuna 1.5 (config.json of llava-hf/llava-1.5-*-hf)."""

from __future__ import annotations

from typing import Any

CLIP_L_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}

VICUNA_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32064,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}

VICUNA_13B = VICUNA_7B | {
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
}

LLAVA_15: dict[str, Any] = {
    "model_type": "llava",
    "vision_config": CLIP_L_336,
    "image_token_index": 32000,
    "image_seq_length": 576,
    "pad_token_id": 32001,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "projector_hidden_act": "gelu",
    "tie_word_embeddings": False,
}

THIN_LLAVA_QWEN2_05B: dict[str, Any] = {
    "model_type": "llava",
    "vision_config": CLIP_L_336
    | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
    "text_config": {
        "model_type": "qwen2",
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        "tie_word_embeddings": True,
    },
    "image_token_index": 151935,
    "tie_word_embeddings": True,
}
"""Not a published model: the decoder of Qwen2-0.5B behind a thin tower, to measure the decoder alone."""

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "llava-1.5-7b": LLAVA_15 | {"text_config": VICUNA_7B},
    "llava-1.5-13b": LLAVA_15 | {"text_config": VICUNA_13B},
    "thin-llava-qwen2-0.5b": THIN_LLAVA_QWEN2_05B,
}
