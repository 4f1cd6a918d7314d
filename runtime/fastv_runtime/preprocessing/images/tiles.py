"""Layout `tiles`: images cut into tiles by the checkpoint's own image processor, with text around the tiles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fastv_runtime.config.tile_layouts import TilesVision
from fastv_runtime.hf import load_image_processor
from fastv_runtime.preprocessing.images.brightness import in_rgb
from fastv_runtime.preprocessing.images.fixed import UNNORMALISED, check_shape, pixels_as_seen
from fastv_runtime.preprocessing.visual import GraphRun, Piece, View, Visual

if TYPE_CHECKING:
    from jaxtyping import Float


class TileImages:
    """Images of any size; one run of the graph per tile."""

    def __init__(self, directory: Path, vision: TilesVision, settings: Mapping[str, Any] | None = None):
        """settings: of the image processor, instead of its own and of the layout's."""
        self._processor = load_image_processor(directory)
        self._vision = vision
        self._settings = {**vision.settings, **(settings or {})}

    def __call__(self, image: Image.Image) -> Visual:
        tiles, rows, columns = self._cut(image)
        check_shape(tiles[:1], (1, 3, self._vision.tile, self._vision.tile))
        return Visual(
            kind="image",
            graph="vision",
            pieces=tuple(Piece({"pixel_values": tile[None]}, self._vision.side**2) for tile in tiles),
            text=self._text(rows, columns),
            views=lambda: self._views(image),
        )

    def _cut(self, image: Image.Image, **settings: Any) -> tuple[Float[np.ndarray, "tiles 3 H W"], int, int]:
        """The tiles row by row, then the whole image; rows and columns of tiles, both 0 if it is not cut."""
        batch = self._processor(images=in_rgb(image), return_tensors="np", **(self._settings | settings))
        values = np.ascontiguousarray(batch["pixel_values"], np.float32)
        tiles = values.reshape(-1, *values.shape[-3:])  # some processors nest the tiles of one prompt
        if "rows" in batch:
            return tiles, batch["rows"][0][0], batch["cols"][0][0]
        return tiles, *tile_grid(len(tiles) - 1, image.width / image.height)

    def _text(self, rows: int, columns: int) -> tuple[str | GraphRun, ...]:
        marks, run = self._vision.text, GraphRun(self._vision.side**2)
        parts: list[str | GraphRun] = [marks.start]
        for row in range(1, rows + 1):
            for column in range(1, columns + 1):
                parts += [marks.tile.format(row=row, column=column), run]
            parts.append(marks.row_end)
        parts += [marks.tiles_end if rows else "", marks.whole, run, marks.end]
        return tuple(part for part in parts if part)

    def _views(self, image: Image.Image) -> list[View]:
        """The whole image, and the tiles put together."""
        side = self._vision.side
        tiles, rows, _ = self._cut(image, **UNNORMALISED)
        numbers = np.arange(len(tiles) * side**2).reshape(len(tiles), side, side)
        views = [View(pixels_as_seen(tiles[-1]), numbers[-1])]
        if rows:
            views.append(View(pixels_as_seen(_join(tiles[:-1], rows)), _join(numbers[:-1, None], rows)[0]))
        return views


def tile_grid(tiles: int, aspect: float) -> tuple[int, int]:
    """Rows and columns in which `tiles` tiles come nearest an image's aspect (width / height); 0 tiles have none.

    Image processors that cut by aspect choose it among all numbers of tiles; once that is known, so is the grid.
    """
    grids = [(rows, tiles // rows) for rows in range(1, tiles + 1) if tiles % rows == 0]
    return min(grids, key=lambda grid: abs(aspect - grid[1] / grid[0]), default=(0, 0))


def _join(tiles: np.ndarray, rows: int) -> np.ndarray:
    """Tiles [tiles, channels, h, w], row by row, as one image [channels, H, W]."""
    count, channels, height, width = tiles.shape
    grid = tiles.reshape(rows, count // rows, channels, height, width)
    return grid.transpose(2, 0, 3, 1, 4).reshape(channels, rows * height, -1)
