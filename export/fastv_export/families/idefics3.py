"""Idefics3 and the first SmolVLM (256M, 500M, 2.2B): what SmolVLM2 is, for images alone (arXiv 2408.12637)."""

from __future__ import annotations

from typing import Any

from fastv_export.families.smolvlm import SmolVLM


class Idefics3(SmolVLM):
    model_type = "idefics3"
    video_marker = None

    def video(self, config: Any) -> None:
        return None
