"""LLaVA-OneVision (llava-hf/llava-onevision-qwen2-*-ov-hf): SigLIP at 384 pixels, tiles, Qwen2.

Vocabularies as transformers' conversion leaves them: two tokens more, padded to a multiple of 64.
"""

from __future__ import annotations

from configurations.parts import QWEN2_05B, QWEN2_7B, Part

LLAVA_ONEVISION: Part = {
    "model_type": "llava_onevision",
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 26,  # the last of SigLIP's 27 is dropped
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
        "vision_use_head": False,
    },
    "image_token_index": 151646,
    "video_token_index": 151647,
    "image_grid_pinpoints": [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)],
    "vision_aspect_ratio": "anyres_max_9",
    "use_image_newline_parameter": True,
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
    "projector_hidden_act": "gelu",
}

CONFIGURATIONS: dict[str, Part] = {
    # Tied: the published 1.79 GB of fp16 have no room for a second table.
    "llava-onevision-0.5b": LLAVA_ONEVISION
    | {"text_config": QWEN2_05B | {"vocab_size": 152000}, "tie_word_embeddings": True},
    "llava-onevision-7b": LLAVA_ONEVISION
    | {"text_config": QWEN2_7B | {"vocab_size": 152128}, "tie_word_embeddings": False},
}
