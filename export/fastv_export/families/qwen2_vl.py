"""Qwen2-VL: a tower for any size, its patches merged by four, M-RoPE (arXiv 2409.12191)."""

from __future__ import annotations

from fastv_export.families.qwen_patches import QwenPatches


class Qwen2VL(QwenPatches):
    model_type = "qwen2_vl"
