"""SmolVLM (HuggingFaceTB/SmolVLM-*-Instruct, idefics3) and SmolVLM2 (smolvlm): SigLIP, pixels shuffled, Llama.

None is tied: published sizes (513 MB and 1.02 GB of bf16, 8.99 GB of fp32) are what a head of its own makes. Of
SmolVLM2-2.2B's config.json no copy could be read; its text sizes are those of SmolLM2-1.7B with 49,280 tokens, its rope
theta that of SmolLM2-1.7B and unconfirmed.
"""

from __future__ import annotations

from configurations.parts import Part, default_rope

SIGLIP_B_512: Part = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 512,
    "patch_size": 16,
}
SIGLIP_SO_384: Part = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}

SMOLLM2_135M: Part = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "vocab_size": 49280,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_parameters": default_rope(100000.0),
    "bos_token_id": 0,
    "eos_token_id": 49279,
    "pad_token_id": 2,
    "tie_word_embeddings": False,
}
SMOLLM2_360M = SMOLLM2_135M | {
    "hidden_size": 960,
    "intermediate_size": 2560,
    "num_hidden_layers": 32,
    "num_attention_heads": 15,
    "num_key_value_heads": 5,
}
SMOLLM2_17B = SMOLLM2_135M | {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "rope_parameters": default_rope(130000.0),
}


def _model(model_type: str, vision: Part, text: Part, scale_factor: int) -> Part:
    return {
        "model_type": model_type,
        "vision_config": vision | {"model_type": f"{model_type}_vision"},
        "text_config": text,
        "scale_factor": scale_factor,
        "image_token_id": 49190,
        "pad_token_id": 2,
        "tie_word_embeddings": False,
    }


CONFIGURATIONS: dict[str, Part] = {
    "smolvlm-256m": _model("idefics3", SIGLIP_B_512, SMOLLM2_135M, 4),
    "smolvlm-500m": _model("idefics3", SIGLIP_B_512, SMOLLM2_360M, 4),
    "smolvlm2-2.2b": _model("smolvlm", SIGLIP_SO_384, SMOLLM2_17B, 3),
}
