"""Layout `patches`: an image keeps its shape and roughly its size; the grid of patches follows from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fastv_runtime.config.layouts import PatchesVision
from fastv_runtime.errors import UserError
from fastv_runtime.hf import load_image_processor
from fastv_runtime.preprocessing.images.brightness import in_rgb
from fastv_runtime.preprocessing.images.grid import Grid, grid_inputs
from fastv_runtime.preprocessing.visual import GraphRun, Piece, View, Visual

if TYPE_CHECKING:
    from jaxtyping import Float


class PatchImages:
    """Images of any size, one run of the graph each."""

    def __init__(self, directory: Path, vision: PatchesVision):
        self._processor = load_image_processor(directory)
        self._vision = vision
        size = self._processor.size
        most = vision.max_tokens * (vision.patch * vision.merge) ** 2
        self._limits = {name: min(size[name], most) for name in ("shortest_edge", "longest_edge")}
        """Fewest and most pixels of an image: it is scaled to lie between."""

    def __call__(self, image: Image.Image) -> Visual:
        patches, grid = self.patches(image, size=self._limits)
        # An image stands for as many frames as a patch holds.
        piece = self.piece([patches] * self._vision.frames_per_patch, grid)
        return Visual(
            kind="image",
            graph="vision",
            pieces=(piece,),
            text=(GraphRun(piece.rows, (1, *grid)),),
            views=lambda: [self.view(image, grid)],
        )

    def patches(self, image: Image.Image, **settings: Any) -> tuple[Float[np.ndarray, "P C pixels"], Grid]:
        """One image or frame as normalised patches in merge order, and its grid.

        settings: of the image processor, instead of its own. Raises UserError.
        """
        vision = self._vision
        try:
            made = self._processor(images=in_rgb(image), temporal_patch_size=1, return_tensors="np", **settings)
        except ValueError as error:  # the processor refuses slivers
            raise UserError(f"an image of {image.width} x {image.height} pixels: {error}: crop it") from None
        _, rows, columns = (int(count) for count in made["image_grid_thw"][0])
        values = np.asarray(made["pixel_values"], np.float32)
        if values.shape != (rows * columns, vision.channels * vision.patch**2) or rows % vision.merge:
            raise UserError(
                f"the image processor made patches {list(values.shape)} where the vision graph takes patches of "
                f"{vision.patch} x {vision.patch} pixels: preprocessor_config.json and config.json of the checkpoint "
                "do not belong together"
            )
        grid = rows // vision.merge, columns // vision.merge
        if grid[0] * grid[1] > vision.max_tokens:
            raise UserError(
                f"an image of {image.width} x {image.height} pixels needs {grid[0] * grid[1]} visual tokens at least "
                f"and {vision.max_tokens} are supported: crop it, or export with a larger `export.image_tokens`"
            )
        return values.reshape(rows * columns, vision.channels, -1), grid

    def piece(self, frames: list[Float[np.ndarray, "P C pixels"]], grid: Grid) -> Piece:
        """One run of the graph: patches of all frames that share it."""
        pixel_values = np.stack(frames, axis=2).reshape(len(frames[0]), -1)
        return Piece({"pixel_values": pixel_values} | grid_inputs(self._vision, grid), grid[0] * grid[1])

    def view(self, image: Image.Image, grid: Grid, first: int = 0) -> View:
        """The image as the model sees it; its tokens are numbered from `first`."""
        rows, columns = grid
        side = self._vision.patch * self._vision.merge
        seen = in_rgb(image).resize((columns * side, rows * side), Image.Resampling.BICUBIC)
        return View(seen, first + np.arange(rows * columns).reshape(grid))
