"""LLaVA-1.5 (llava-hf/llava-1.5-*-hf) and LLaVA-NeXT (llava-hf/llava-v1.6-*-hf): CLIP-L/14 at 336 pixels."""

from __future__ import annotations

from configurations.parts import CLIP_L_336, QWEN2_05B, VICUNA_7B, VICUNA_13B, Part, default_rope

LLAVA_15: Part = {
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

LLAVA_NEXT: Part = {
    "model_type": "llava_next",
    "vision_config": CLIP_L_336,
    "image_token_index": 32000,
    "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    "use_image_newline_parameter": True,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "projector_hidden_act": "gelu",
    "tie_word_embeddings": False,
}

MISTRAL_7B: Part = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32064,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_parameters": default_rope(1000000.0),
    "sliding_window": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}

THIN_LLAVA: Part = {
    "model_type": "llava",
    "vision_config": CLIP_L_336
    | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
    "text_config": QWEN2_05B,
    "image_token_index": 151935,
    "tie_word_embeddings": True,
}
"""Not a published model: the decoder of Qwen2-0.5B behind a thin tower, to measure the decoder alone."""

CLIP_LLAVA: Part = THIN_LLAVA | {"vision_config": CLIP_L_336}
"""Not a published model either: the same decoder behind LLaVA-1.5's tower."""

CONFIGURATIONS: dict[str, Part] = {
    "llava-1.5-7b": LLAVA_15 | {"text_config": VICUNA_7B},
    "llava-1.5-13b": LLAVA_15 | {"text_config": VICUNA_13B},
    "llava-v1.6-mistral-7b": LLAVA_NEXT | {"text_config": MISTRAL_7B},
    "llava-v1.6-vicuna-7b": LLAVA_NEXT | {"text_config": VICUNA_7B | {"pad_token_id": 0}},
    "thin-llava-qwen2-0.5b": THIN_LLAVA,
    "clip-llava-qwen2-0.5b": CLIP_LLAVA,
}
