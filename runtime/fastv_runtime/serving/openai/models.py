"""The one model of a server, as `GET /v1/models` lists it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from fastv_runtime.config.bundle import Manifest
from fastv_runtime.serving.settings import ServeSettings


class ServedCut(BaseModel):
    layer: int
    """K."""
    keep: float
    ranker: str


class ServedBundle(BaseModel):
    """The extension `fastv` of a model: what its bundle supports."""

    cuts: list[ServedCut]
    keep: float | str
    """Of requests that say nothing of it."""
    prunes: bool
    takes_videos: bool
    max_new_tokens: int
    max_text: int
    """Text tokens of a prompt."""
    max_visual: int
    """Visual tokens of a prompt."""


def model_object(manifest: Manifest, settings: ServeSettings, created: int) -> dict[str, Any]:
    """created: seconds since 1970."""
    plan = manifest.plan
    facts = ServedBundle(
        cuts=[ServedCut(layer=cut.layer, keep=cut.keep, ranker=cut.ranker) for cut in plan.cuts],
        keep=plan.keep if settings.keep is None else settings.keep,
        prunes=plan.prunes,
        takes_videos=manifest.video is not None,
        max_new_tokens=plan.max_new_tokens,
        max_text=plan.max_text,
        max_visual=plan.max_visual,
    )
    return {
        "id": settings.model_name,
        "object": "model",
        "created": created,
        "owned_by": "fastv-edge",
        "fastv": facts.model_dump(),
    }
