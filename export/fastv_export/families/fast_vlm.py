"""FastVLM: FastViTHD, a convolutional tower from timm, at one large size; an MLP; Qwen2 (arXiv 2412.13303)."""

from __future__ import annotations

from math import isqrt
from typing import Any

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.families.base import Family
from fastv_export.hf import models as hf_models
from fastv_runtime.config.layouts import FixedVision
from fastv_runtime.errors import UserError, missing_extra


class FastVlm(Family):
    model_type = "fast_vlm"
    towers = ("timm_wrapper",)

    def config(self, checkpoint: Checkpoint) -> Any:
        _import_timm()  # transformers' config object asks for it too, at length
        return super().config(checkpoint)

    def vision(self, config: Any, image_tokens: int | None) -> FixedVision:
        """The tower takes any size; the config records how many tokens come of the one that it was trained at."""
        side = isqrt(config.image_seq_length)
        if side * side != config.image_seq_length:
            raise UserError(f"image_seq_length {config.image_seq_length} in config.json: must be a square")
        size = side * hf_models.timm_stride(config.vision_config)
        return FixedVision(image_height=size, image_width=size, rows=side, columns=side, aspect=self.aspect(config))


def _import_timm() -> None:
    try:
        import timm  # noqa: F401
    except ImportError as error:
        raise missing_extra(error.name or "timm", "fastvlm") from None
    except RuntimeError as error:
        # What torchvision, which timm imports, raises when it was built for another torch.
        raise UserError(
            f"timm cannot be imported: {error}: torchvision does not match torch, install both from one index"
        ) from None
