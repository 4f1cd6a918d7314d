"""How a model sees, as the manifest records it: what its vision graph takes and how many visual tokens come of it.

Each class is one layout. `fastv_runtime.visuals` has the code that turns a picture into what a layout's graph takes.
"""

from __future__ import annotations

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


Vision = Annotated[FixedVision, Field(discriminator="layout")]
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


Video = Annotated[FramesVideo, Field(discriminator="layout")]
"""Any layout of videos."""
