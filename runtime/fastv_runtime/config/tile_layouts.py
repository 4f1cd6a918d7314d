"""Layouts `tiles`, of images and of videos: tiles one by one, with text around them that the family says."""

from __future__ import annotations

from typing import Literal

from fastv_runtime.config.base import StrictModel, TensorSpec


class TileText(StrictModel):
    """What stands in the prompt around the tiles of one image."""

    start: str = ""
    tile: str = ""
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
    tile: int
    """Pixels on each side of a tile."""
    side: int
    """Visual tokens on each side of a tile."""
    max_tiles: int
    """Most tiles of one image, the whole counted."""
    settings: dict[str, bool | int | dict[str, int]]
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

    start: str = ""
    """May name the {count} of frames in words and the {duration} of the video, H:MM:SS."""
    frame: str = ""
    """Before each frame; may name its {number}, counted from 1, and its {time}, MM:SS."""
    between: str = ""
    end: str = ""


class TilesVideo(StrictModel):
    """Every frame of a video is an image that is not cut, with text around the frames."""

    layout: Literal["tiles"] = "tiles"
    graph: Literal["vision"] = "vision"
    frames: int
    """Frames that are sampled unless the user asks for another number."""
    image: TilesVision
    """How a frame is seen."""
    text: FrameText

    @property
    def tokens(self) -> int:
        """Visual tokens of a video of `frames` frames."""
        return self.frames * self.image.tokens
