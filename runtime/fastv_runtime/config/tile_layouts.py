"""Layouts `tiles`, of images and of videos: tiles one by one, with text around them that the family says."""

from __future__ import annotations

from collections.abc import Collection
from string import Formatter
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from fastv_runtime.config.base import Count, Pixels, StrictModel, TensorSpec

Frames = Annotated[int, Field(ge=1, le=100_000)]
"""Of one video."""


def _naming(*names: str) -> AfterValidator:
    """Of a text that names nothing else, and as it is: no widths, which could be gigabytes, and no attributes."""

    def check(text: str) -> str:
        try:
            fields = [(name, spec, conversion) for _, name, spec, conversion in Formatter().parse(text)]
        except ValueError as error:
            raise ValueError(f"{text!r}: {error}") from None
        for name, *how in fields:
            if name is not None and (name not in names or any(how)):
                raise ValueError(f"{text!r}: {_listed(names)} may stand in braces, and nothing else")
        return text

    return AfterValidator(check)


def _listed(names: Collection[str]) -> str:
    return " and ".join(names)


class TileText(StrictModel):
    """What stands in the prompt around the tiles of one image."""

    start: str = ""
    tile: Annotated[str, _naming("row", "column")] = ""
    """Before each tile; may name its {row} and {column}, counted from 1."""
    row_end: str = ""
    tiles_end: str = ""
    whole: str = ""
    """Before the whole image."""
    end: str = ""


class TilesVision(StrictModel):
    """An image is cut into equal tiles by the checkpoint's image processor; squeezed into one tile more, the whole
    comes last.

    An image that is not cut is the whole alone. Every tile goes through the graph by itself.
    """

    layout: Literal["tiles"] = "tiles"
    tile: Pixels
    """Pixels on each side of a tile."""
    side: Pixels
    """Visual tokens on each side of a tile."""
    max_tiles: int = Field(ge=1, le=1000)
    """Most tiles of one image, the whole counted."""
    settings: dict[str, bool | Count | dict[str, Count]]
    """What the image processor is told beside its own configuration."""
    text: TileText

    @property
    def tokens(self) -> int:
        """Most visual tokens that one image becomes."""
        return self.max_tiles * self.side**2

    @property
    def feature_rows(self) -> int | str:
        """Rows of the vision graph's output: it sees one tile."""
        return self.side**2

    @property
    def packing(self) -> int:
        """There is no graph `pack`."""
        return 0

    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs of the vision graph."""
        return (TensorSpec(name="pixel_values", dtype="float32", shape=(1, 3, self.tile, self.tile)),)

    def axes(self) -> dict[str, int]:
        """No axis of the vision graph is dynamic."""
        return {}


class FrameText(StrictModel):
    """What stands in the prompt around the frames of one video."""

    start: Annotated[str, _naming("count", "duration")] = ""
    """May name the {count} of frames in words and the {duration} of the video, H:MM:SS."""
    frame: Annotated[str, _naming("number", "time")] = ""
    """Before each frame; may name its {number}, counted from 1, and its {time}, MM:SS."""
    between: str = ""
    end: str = ""


class TilesVideo(StrictModel):
    """Every frame of a video is an image that is not cut, with text around the frames."""

    layout: Literal["tiles"] = "tiles"
    graph: Literal["vision"] = "vision"
    frames: Frames
    """Frames that are sampled unless the user asks for another number."""
    image: TilesVision
    """How a frame is seen."""
    text: FrameText

    @property
    def tokens(self) -> int:
        """Visual tokens of a video of `frames` frames."""
        return self.frames * self.image.tokens
