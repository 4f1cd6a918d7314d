"""Bounds of an image or video processor's settings, looked at before transformers computes with them.

transformers takes any value, and fails with an exception of whatever library meets it first, or makes NaN of pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from fastv_runtime.errors import UserError
from fastv_runtime.strict_json import read_model

FILES = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")
"""Where checkpoints have them."""

MOST_SIDE = 16384
"""Pixels of a side: above those of any model, and an image of so many still fits a memory."""

MOST_VALUE = 255
"""Largest value of a pixel before it is rescaled."""


def _for_each_channel(value: Any) -> Any:
    return [value] * 3 if isinstance(value, int | float) and not isinstance(value, bool) else value


def _sides(value: Any) -> Any:
    if isinstance(value, list):
        return dict(zip(("height", "width"), value, strict=False))
    return {"height": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


Side = Annotated[int, Field(ge=1, le=MOST_SIDE)]
Pixels = Annotated[int, Field(ge=1, le=MOST_SIDE**2)]
Mean = Annotated[float, Field(ge=-MOST_VALUE, le=MOST_VALUE, allow_inf_nan=False)]
Deviation = Annotated[float, Field(ge=1e-6, le=MOST_VALUE, allow_inf_nan=False)]


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class ProcessorSize(_Read):
    """A size in pixels by any of transformers' names for it."""

    height: Side | None = None
    width: Side | None = None
    max_height: Side | None = None
    max_width: Side | None = None
    shortest_edge: Pixels | None = None
    longest_edge: Pixels | None = None
    min_pixels: Pixels | None = None
    max_pixels: Pixels | None = None

    @model_validator(mode="after")
    def _edges(self) -> ProcessorSize:
        """Both edges together are Qwen2-VL's limits of an area; one alone is a side."""
        if self.shortest_edge is None or self.longest_edge is None:
            for name in ("shortest_edge", "longest_edge"):
                if (getattr(self, name) or 0) > MOST_SIDE:
                    raise ValueError(f"{name} is {getattr(self, name)}: must be at most {MOST_SIDE}")
        return self


Size = Annotated[ProcessorSize, BeforeValidator(_sides)]


class VideoSampling(_Read):
    """Where SmolVLM2 has the size of a video's frames."""

    video_size: Size | None = None


class ProcessorSettings(_Read):
    """Settings that decide sizes and values of pixels; null is transformers' default."""

    image_mean: Annotated[list[Mean], Field(min_length=3, max_length=3), BeforeValidator(_for_each_channel)] | None = (
        None
    )
    image_std: (
        Annotated[list[Deviation], Field(min_length=3, max_length=3), BeforeValidator(_for_each_channel)] | None
    ) = None
    rescale_factor: Annotated[float, Field(gt=0, le=MOST_VALUE, allow_inf_nan=False)] | None = None
    resample: Annotated[int, Field(ge=0, le=5)] | None = None
    size: Size | None = None
    crop_size: Size | None = None
    max_image_size: Size | None = None
    video_sampling: VideoSampling | None = None
    min_pixels: Pixels | None = None
    max_pixels: Pixels | None = None
    image_grid_pinpoints: list[list[Side]] | None = None
    do_resize: bool | None = None
    do_center_crop: bool | None = None
    do_rescale: bool | None = None
    do_normalize: bool | None = None
    do_pad: bool | None = None
    do_convert_rgb: bool | None = None
    do_image_splitting: bool | None = None
    crop_to_patches: bool | None = None


class ProcessorFile(ProcessorSettings):
    """A file of settings, its own or those of the processors in it."""

    image_processor: ProcessorSettings | None = None
    video_processor: ProcessorSettings | None = None


def check_processor(directory: Path) -> None:
    """UserError, with file and field, for settings in `directory` that no image processor could use."""
    for name in FILES:
        if (directory / name).is_file():
            read_model(directory / name, ProcessorFile, "mend the file, or copy it again")


def not_finite(directory: Path) -> UserError:
    """Error for pixels that settings in `directory` made NaN or infinite."""
    files = " or ".join(name for name in FILES if (directory / name).is_file())
    return UserError(
        f"{directory}: the image processor makes pixels that are no numbers: mend image_mean, image_std or "
        f"rescale_factor in {files}"
    )
