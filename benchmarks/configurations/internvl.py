"""InternVL3 (OpenGVLab/InternVL3-*-hf): InternViT-300M at 448 pixels, pixels shuffled to 256 tokens a tile, Qwen2.5.

From transformers' conversion script and the printed modules of InternVL3-1B.
"""

from __future__ import annotations

from configurations.parts import QWEN2_05B, Part

CONFIGURATIONS: dict[str, Part] = {
    "internvl3-1b": {
        "model_type": "internvl",
        "vision_config": {
            "model_type": "internvl_vision",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "attention_bias": True,
            "use_qk_norm": False,
            "norm_type": "layer_norm",
            "image_size": [448, 448],
            "patch_size": [14, 14],
            "layer_scale_init_value": 0.1,
        },
        # Untied: the published 1.88 GB of bf16 are what a head of its own makes.
        "text_config": QWEN2_05B | {"vocab_size": 151674, "tie_word_embeddings": False},
        "image_token_id": 151667,
        "image_seq_length": 256,
        "downsample_ratio": 0.5,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": False,
    }
}
