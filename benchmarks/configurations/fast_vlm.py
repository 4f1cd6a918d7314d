"""FastVLM (apple/FastVLM-*, as transformers' conversion of them has it): FastViTHD at 1024 pixels, Qwen2.

From the conversion script of transformers' fast_vlm and the config.json of apple/FastVLM-0.5B (sizes, tied table,
end token). The conversion adds one token and pads the table to a multiple of 64.
"""

from __future__ import annotations

from configurations.parts import QWEN2_05B, QWEN2_7B, QWEN2_15B, Part

FAST_VLM: Part = {
    "model_type": "fast_vlm",
    "vision_config": {
        "model_type": "timm_wrapper",
        "architecture": "fastvit_mci3",
        "do_pooling": True,
        "global_pool": "avg",
        "hidden_size": 3072,
        "model_args": {"inference_mode": True},
    },
    "image_token_index": 151646,
    "image_seq_length": 256,
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
    "projector_hidden_act": "gelu",
}

CONFIGURATIONS: dict[str, Part] = {
    "fastvlm-0.5b": FAST_VLM | {"text_config": QWEN2_05B | {"vocab_size": 152000}, "tie_word_embeddings": True},
    "fastvlm-1.5b": FAST_VLM | {"text_config": QWEN2_15B | {"vocab_size": 152000}, "tie_word_embeddings": True},
    "fastvlm-7b": FAST_VLM | {"text_config": QWEN2_7B | {"vocab_size": 152128}, "tie_word_embeddings": False},
}
