"""The whole Qwen-VL as a torch module: stock Qwen2 decoder, stock CLIP layers, and a resampler of ours."""

from __future__ import annotations

from typing import Any

from transformers import LlavaConfig, PreTrainedModel, Qwen2ForCausalLM

from fastv_export.families.qwen_vl_chat.vision import Tower


class QwenVLConfig(LlavaConfig):
    """What LLaVA's config holds is enough: a decoder, a CLIP-like tower, and the visual tokens between them."""

    model_type = "qwen"


class QwenVLModel(PreTrainedModel):
    """`language_model` and `visual`, side by side."""

    config_class = QwenVLConfig
    _supports_sdpa = True

    def __init__(self, config: Any):
        super().__init__(config)
        self.language_model = Qwen2ForCausalLM(config.text_config)
        self.visual = Tower(config.vision_config, config.image_seq_length, config.text_config.hidden_size)
        self.post_init()  # type: ignore[no-untyped-call]
