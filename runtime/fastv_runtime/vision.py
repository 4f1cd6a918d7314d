"""How a model sees, as the manifest records it: what its vision graph takes and how many visual tokens come of it.

Each class is one layout. `fastv_runtime.visuals` has the code that turns a picture into what a layout's graph takes.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from fastv_runtime.schema import Model, TensorSpec

Aspect = Literal["crop", "pad"]
"""What becomes of a picture that is not as the tower wants it: cropped as the checkpoint's image processor does, or
centred on a square of the mean colour first."""


class FixedVision(Model):
    """Every picture at one size becomes `rows` x `columns` visual tokens, in raster order."""

    layout: Literal["fixed"] = "fixed"
    image_height: int
    image_width: int
    rows: int
    columns: int
    aspect: Aspect = "crop"

    @property
    def tokens(self) -> int:
        """Most visual tokens that one picture becomes."""
        return self.rows * self.columns

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


class AnyresVision(Model):
    """A picture is seen whole and, larger, in tiles (LLaVA-NeXT's "anyres").

    Its tokens: those of the whole, then the grid of the tiles without the padding, each row ended by a newline token.
    """

    layout: Literal["anyres"] = "anyres"
    tile: int
    """Pixels on each side of a tile; the whole picture is squeezed into as many."""
    side: int
    """Features on each side of a tile."""
    pinpoints: tuple[tuple[int, int], ...]
    """Sizes (height, width in pixels) on which the tiles of a picture are laid out."""
    max_tiles: int | None = None
    """Grids of clearly more features than so many tiles have are shrunk (OneVision's "anyres_max_9"); None: never."""

    @property
    def tokens(self) -> int:
        """Most visual tokens that one picture becomes."""
        return max(map(self.tokens_at, self.pinpoints))

    def tokens_at(self, pinpoint: tuple[int, int]) -> int:
        """Most visual tokens of a picture that is laid out on a pinpoint: its shape decides what is padding."""
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


Vision = Annotated[FixedVision | AnyresVision, Field(discriminator="layout")]
"""Any layout of pictures."""


class FramesVideo(Model):
    """Every frame of a video goes through `graph` by itself; its tokens follow those of the frame before."""

    layout: Literal["frames"] = "frames"
    graph: Literal["vision", "video"]
    frames: int
    """Frames that are sampled unless the user asks for another number."""
    picture: FixedVision
    tokens_per_frame: int
    """Rows of the graph's output: `picture.tokens`, and one more where the tower's class token stays."""

    @property
    def tokens(self) -> int:
        """Visual tokens of a video of `frames` frames."""
        return self.frames * self.tokens_per_frame


class PooledVideo(Model):
    """Every frame goes through `vision` as one tile; its features are pooled to half as many rows and columns.

    One newline token ends the video (LLaVA-OneVision).
    """

    layout: Literal["pooled"] = "pooled"
    graph: Literal["vision"] = "vision"
    frames: int
    """Frames that are sampled unless the user asks for another number."""
    tile: int
    """Pixels on each side that a frame is squeezed into."""
    side: int
    """Features on each side of a frame."""

    @property
    def pooled(self) -> int:
        """Visual tokens on each side of a frame."""
        return math.ceil(self.side / 2)

    @property
    def tokens(self) -> int:
        """Visual tokens of a video of `frames` frames."""
        return self.frames * self.pooled**2 + 1


Video = Annotated[FramesVideo | PooledVideo, Field(discriminator="layout")]
"""Any layout of videos."""
