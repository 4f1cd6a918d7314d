"""How a model sees, as the manifest records it: what its vision graph takes and how many visual tokens come of it.

Each class is one layout. `fastv_runtime.preprocessing` turns an image into what a layout's graph takes.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fastv_runtime.config.base import Pixels, StrictModel, TensorSpec, TokenCount
from fastv_runtime.config.tile_layouts import Frames, TilesVideo, TilesVision

Aspect = Literal["crop", "pad"]
"""What becomes of an image that is not as the tower wants it: cropped as the checkpoint's image processor does, or
centred on a square of the mean colour first."""


class FixedVision(StrictModel):
    """Every image at one size becomes `rows` x `columns` visual tokens, in raster order, and those before them."""

    layout: Literal["fixed"] = "fixed"
    image_height: Pixels
    image_width: Pixels
    rows: Pixels
    columns: Pixels
    leading: int = Field(default=0, ge=0, le=1000)
    """Tokens before these that stand for no place in the image: a tower's class token."""
    aspect: Aspect = "crop"

    @property
    def tokens(self) -> int:
        """Most visual tokens that one image becomes."""
        return self.leading + self.rows * self.columns

    @property
    def feature_rows(self) -> int | str:
        """Rows of the vision graph's output: a number, or a dynamic axis by its symbol."""
        return self.tokens

    @property
    def packing(self) -> int:
        """Features that are mixed into one visual token by the graph `pack`; 0 if there is no such graph."""
        return 0

    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs of the vision graph."""
        return (TensorSpec(name="pixel_values", dtype="float32", shape=(1, 3, self.image_height, self.image_width)),)

    def axes(self) -> dict[str, int]:
        """Dynamic axes of the vision graph's inputs and outputs: each is this multiple of N, its visual tokens."""
        return {}


class AnyresVision(StrictModel):
    """An image is seen whole and, larger, in tiles (LLaVA-NeXT's "anyres").

    Its tokens: those of the whole, then the grid of the tiles without the padding, each row ended by a newline token.
    """

    layout: Literal["anyres"] = "anyres"
    tile: Pixels
    """Pixels on each side of a tile; the whole image is squeezed into as many."""
    side: Pixels
    """Features on each side of a tile."""
    pinpoints: tuple[tuple[Pixels, Pixels], ...] = Field(min_length=1, max_length=1000)
    """Sizes (height, width in pixels) on which the tiles of an image are laid out."""
    max_tiles: int | None = Field(default=None, ge=1, le=1000)
    """Grids of clearly more features than so many tiles have are shrunk (OneVision's "anyres_max_9"); None: never."""

    @model_validator(mode="after")
    def _tiles_fit(self) -> AnyresVision:
        if self.side > self.tile:
            raise ValueError(f"side is {self.side}: a tile of {self.tile} pixels has no more features than pixels")
        for pinpoint in self.pinpoints:
            if min(pinpoint) < self.tile:
                raise ValueError(f"pinpoints has {list(pinpoint)}: no tile of {self.tile} pixels fits in it")
        return self

    @property
    def tokens(self) -> int:
        """Most visual tokens that one image becomes."""
        return max(map(self.tokens_at, self.pinpoints))

    def tokens_at(self, pinpoint: tuple[int, int]) -> int:
        """Most visual tokens of an image that is laid out on a pinpoint: its shape decides what is padding."""
        rows, columns = self.grid(pinpoint)
        # Padding is cut away in equal parts, above and below or left and right.
        grids = [(kept, columns) for kept in range(rows, -1, -2)] + [(rows, kept) for kept in range(columns, -1, -2)]
        return self.side**2 + max(rows * (columns + 1) for rows, columns in (self.shrunk(*grid) for grid in grids))

    def grid(self, pinpoint: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of features of a pinpoint's tiles."""
        height, width = pinpoint
        return height // self.tile * self.side, width // self.tile * self.side

    def shrunk(self, rows: int, columns: int) -> tuple[int, int]:
        """To what size a grid without its padding is shrunk. arXiv 2408.03326, section 3.2; as transformers has it."""
        if self.max_tiles is None:
            return rows, columns
        ratio = math.sqrt(rows * columns / (self.max_tiles * self.side**2))
        return (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)

    @property
    def feature_rows(self) -> int | str:
        """Rows of the vision graph's output: it sees one tile."""
        return self.side**2

    @property
    def packing(self) -> int:
        """Features that are mixed into one visual token: four where grids are shrunk, which is bilinear."""
        return 1 if self.max_tiles is None else 4

    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs of the vision graph."""
        return (TensorSpec(name="pixel_values", dtype="float32", shape=(1, 3, self.tile, self.tile)),)

    def axes(self) -> dict[str, int]:
        """No axis of the vision graph is dynamic."""
        return {}


class PatchesVision(StrictModel):
    """An image of any size is cut into P patches; each block of `merge` x `merge` of them becomes a visual token.

    Sides are in pixels for `patch`, in visual tokens for `window`.
    """

    layout: Literal["patches"] = "patches"
    channels: int = Field(ge=1, le=16)
    patch: Pixels
    frames_per_patch: int = Field(ge=1, le=1000)
    """A patch holds as many frames of a video; an image stands for all of them."""
    merge: int = Field(ge=1, le=1000)
    max_tokens: TokenCount
    """Most visual tokens of one image: larger ones are scaled down."""
    window: int = Field(default=0, ge=0, le=1000)
    """Some layers attend only within windows of this side; 0 if none does."""
    position_side: int = Field(default=0, ge=0, le=100_000)
    """A learned square of positions of this side is stretched over every image; 0 if there is none."""

    @property
    def tokens(self) -> int:
        """Most visual tokens that one image becomes."""
        return self.max_tokens

    @property
    def feature_rows(self) -> int | str:
        """Rows of the vision graph's output: a number, or a dynamic axis by its symbol."""
        return "N"

    @property
    def packing(self) -> int:
        """Features that are mixed into one visual token by the graph `pack`; 0 if there is no such graph."""
        return 0

    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs of the vision graph. `fastv_runtime.preprocessing.images.grid` makes all but the pixels."""
        width = self.channels * self.frames_per_patch * self.patch**2
        inputs = [
            TensorSpec(name="pixel_values", dtype="float32", shape=("P", width)),
            TensorSpec(name="position_ids", dtype="int64", shape=("P", 2)),
        ]
        if self.window:
            inputs += [
                TensorSpec(name="window_index", dtype="int64", shape=("N",)),
                TensorSpec(name="window_slots", dtype="int64", shape=("W", (self.window * self.merge) ** 2)),
                TensorSpec(name="window_places", dtype="int64", shape=("P",)),
            ]
        if self.position_side:
            inputs += [
                TensorSpec(name="interp_indices", dtype="int64", shape=("P", 4)),
                TensorSpec(name="interp_weights", dtype="float32", shape=("P", 4)),
            ]
        return tuple(inputs)

    def axes(self) -> dict[str, int]:
        """Dynamic axes by symbol: each is this multiple of N, or free of it where that is 0 (W windows)."""
        return {"N": 1, "P": self.merge**2} | ({"W": 0} if self.window else {})


Vision = Annotated[FixedVision | AnyresVision | PatchesVision | TilesVision, Field(discriminator="layout")]
"""Any layout of images."""


class FramesVideo(StrictModel):
    """Every frame of a video goes through `graph` by itself; its tokens follow those of the frame before."""

    layout: Literal["frames"] = "frames"
    graph: Literal["vision", "video"]
    frames: Frames
    """Frames that are sampled unless the user asks for another number."""
    image: FixedVision
    tokens_per_frame: TokenCount
    """Rows of the graph's output: `image.tokens`, and one more where the tower's class token stays."""

    @property
    def tokens(self) -> int:
        """Visual tokens of a video of `frames` frames."""
        return self.frames * self.tokens_per_frame


class PooledVideo(StrictModel):
    """Every frame goes through `vision` as one tile; its features are pooled to half as many rows and columns.

    One newline token ends the video (LLaVA-OneVision).
    """

    layout: Literal["pooled"] = "pooled"
    graph: Literal["vision"] = "vision"
    frames: Frames
    """Frames that are sampled unless the user asks for another number."""
    tile: Pixels
    """Pixels on each side that a frame is squeezed into."""
    side: Pixels
    """Features on each side of a frame."""

    @property
    def pooled(self) -> int:
        """Visual tokens on each side of a frame."""
        return math.ceil(self.side / 2)

    @property
    def tokens(self) -> int:
        """Visual tokens of a video of `frames` frames."""
        return self.frames * self.pooled**2 + 1


class PatchesVideo(StrictModel):
    """Frames in groups of `image.frames_per_patch`: one run of the graph `vision` per group, a time step."""

    layout: Literal["patches"] = "patches"
    graph: Literal["vision"] = "vision"
    frames: Frames
    """Frames that are sampled unless the user asks for another number."""
    image: PatchesVision
    """How one time step is seen: at most `image.tokens` visual tokens."""
    clip_limits: bool = False
    """The processor's limits of size hold for all frames together, not for each."""
    ticks_per_second: float | None = Field(default=None, gt=0, le=1e6, allow_inf_nan=False)
    """How far positions advance along the time axis in a second; None if they advance by one each time step."""
    step_text: tuple[str, str] | None = None
    """Text before and after each time step's placeholders, `{seconds}` being its time; None if there is none."""

    @property
    def tokens(self) -> int:
        """Most visual tokens of a video of `frames` frames."""
        return -(-self.frames // self.image.frames_per_patch) * self.image.tokens


VideoLayout = Annotated[FramesVideo | PooledVideo | PatchesVideo | TilesVideo, Field(discriminator="layout")]
"""Any layout of videos."""
