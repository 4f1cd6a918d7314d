"""Qwen-VL-Chat, the one family that transformers has no class for: weights, tokenizer and a resampler by hand."""

from __future__ import annotations

from fastv_export.families.qwen_vl_chat.family import QwenVLChat

__all__ = ["QwenVLChat"]
