"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL (Qwen/*-Instruct): any resolution, rotary positions in three dimensions.

Qwen3-VL's text sizes were read at the source, its tower's in configurations that other runtimes test with: 24 layers,
tapped after layers 5, 11 and 17.
"""

from __future__ import annotations

from configurations.parts import QWEN2_05B, QWEN2_15B, Part, default_rope

TOKENS: Part = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}
MROPE = default_rope(1000000.0, mrope_section=[16, 24, 24])

QWEN2_VL_2B: Part = {
    "model_type": "qwen2_vl",
    "vision_config": {
        "model_type": "qwen2_vl_vision",
        "depth": 32,
        "embed_dim": 1280,
        "hidden_size": 1536,
        "num_heads": 16,
        "mlp_ratio": 4,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    "text_config": QWEN2_15B | {"model_type": "qwen2_vl_text", "rope_parameters": MROPE},
    "tie_word_embeddings": True,
    **TOKENS,
}

QWEN25_VL_3B: Part = {
    "model_type": "qwen2_5_vl",
    "vision_config": {
        "model_type": "qwen2_5_vl_vision",
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 2048,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
    "text_config": QWEN2_15B
    | {
        "model_type": "qwen2_5_vl_text",
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "max_position_embeddings": 128000,
        "max_window_layers": 70,
        "rope_parameters": MROPE,
    },
    "tie_word_embeddings": True,
    **TOKENS,
}

PEERS_QWEN25_VL: Part = {
    "model_type": "qwen2_5_vl",
    "vision_config": QWEN25_VL_3B["vision_config"]
    | {
        "depth": 4,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_heads": 4,
        "out_hidden_size": 896,
        "fullatt_block_indexes": [3],
    },
    "text_config": QWEN2_05B
    | {
        "model_type": "qwen2_5_vl_text",
        "vocab_size": 8000,
        "rope_parameters": default_rope(1000000.0, mrope_section=[8, 12, 12]),
        "bos_token_id": 7990,
        "eos_token_id": 7992,
        "pad_token_id": 7990,
    },
    "tie_word_embeddings": True,
    "vision_start_token_id": 7993,
    "vision_end_token_id": 7994,
    "image_token_id": 7996,
    "video_token_id": 7997,
}
"""Not a published model: what every other runtime loads too, the decoder of Qwen2-0.5B behind a thin tower."""

QWEN3_VL_2B: Part = {
    "model_type": "qwen3_vl",
    "vision_config": {
        "model_type": "qwen3_vl_vision",
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "out_hidden_size": 2048,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [5, 11, 17],
    },
    "text_config": {
        "model_type": "qwen3_vl_text",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-6,
        "rope_parameters": default_rope(5000000.0, mrope_section=[24, 20, 20], mrope_interleaved=True),
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "tie_word_embeddings": True,
    },
    "tie_word_embeddings": True,
    **TOKENS,
}

CONFIGURATIONS: dict[str, Part] = {
    "qwen2-vl-2b": QWEN2_VL_2B,
    "qwen2.5-vl-3b": QWEN25_VL_3B,
    "qwen3-vl-2b": QWEN3_VL_2B,
    "peers-qwen2.5-vl": PEERS_QWEN25_VL,
}
