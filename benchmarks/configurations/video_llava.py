"""Video-LLaVA (LanguageBind/Video-LLaVA-7B-hf): a CLIP-L/14 at 224 pixels for images, another for video, Vicuna."""

from __future__ import annotations

from configurations.parts import CLIP_L, VICUNA_7B, Part

CONFIGURATIONS: dict[str, Part] = {
    "video-llava-7b": {
        "model_type": "video_llava",
        "vision_config": CLIP_L | {"image_size": 224},
        "text_config": VICUNA_7B | {"pad_token_id": 0},
        "image_token_index": 32000,
        "video_token_index": 32001,
        "pad_token_id": 32002,
        "image_seq_length": 256,
        "video_seq_length": 2056,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": False,
    }
}
