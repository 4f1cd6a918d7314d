"""Layout `anyres`: the whole image and its tiles go through the graph one by one, then an index packs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fastv_runtime.config.layouts import AnyresVision
from fastv_runtime.hf import load_image_processor, select_best_resolution
from fastv_runtime.preprocessing.images.brightness import in_rgb
from fastv_runtime.preprocessing.images.fixed import UNNORMALISED, check_shape, pixels_as_seen
from fastv_runtime.preprocessing.images.resample import bilinear, single
from fastv_runtime.preprocessing.visual import GraphRun, Pack, Piece, View, Visual

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class AnyresImages:
    """Images of any size. Each is laid out as if it were the prompt's only one.

    So does transformers' processor with a flat list of images; OneVision's does not tile nested lists.
    """

    def __init__(self, directory: Path, vision: AnyresVision):
        self._processor = load_image_processor(directory)
        self._vision = vision

    def __call__(self, image: Image.Image) -> Visual:
        pack = pack_index(self._vision, image.height, image.width)
        tiles = self._process(image)
        check_shape(tiles[:1], (1, 3, self._vision.tile, self._vision.tile))
        return Visual(
            kind="image",
            graph="vision",
            pieces=tuple(Piece({"pixel_values": tile[None]}, self._vision.side**2) for tile in tiles),
            text=(GraphRun(len(pack.index)),),
            views=lambda: self._views(image),
            pack=pack,
        )

    def _process(self, image: Image.Image, **settings: Any) -> Float[np.ndarray, "tiles 3 H W"]:
        """The whole image, then its tiles row by row."""
        pinpoints = [list(pinpoint) for pinpoint in self._vision.pinpoints]
        batch = self._processor(images=in_rgb(image), image_grid_pinpoints=pinpoints, return_tensors="np", **settings)
        return np.ascontiguousarray(batch["pixel_values"][0], np.float32)

    def _views(self, image: Image.Image) -> list[View]:
        """The whole image, and the tiles put together without their padding; newlines have no place in either."""
        vision = self._vision
        whole, *tiles = self._process(image, **UNNORMALISED)
        base = View(pixels_as_seen(whole), np.arange(vision.side**2).reshape(vision.side, vision.side))
        rows, columns = _tile_grid(vision, image.height, image.width)
        unpadded = _unpad(_tile_features(vision, rows, columns, 0), image.height, image.width)
        height, width = vision.shrunk(*unpadded.shape)
        if not height * width:
            return [base]
        numbers = vision.side**2 + np.arange(height * (width + 1)).reshape(height, width + 1)[:, :-1]
        mosaic = np.concatenate([np.concatenate(tiles[row * columns :][:columns], 2) for row in range(rows)], 1)
        # Features do not divide the pixels evenly (27 of 384): what is cut is rounded.
        top, left = (
            round((total * vision.side - kept) / 2 * vision.tile / vision.side)
            for total, kept in zip((rows, columns), unpadded.shape, strict=True)
        )
        seen = mosaic[:, top : mosaic.shape[1] - top, left : mosaic.shape[2] - left]
        return [base, View(pixels_as_seen(seen), numbers)]


def pack_index(vision: AnyresVision, height: int, width: int) -> Pack:
    """Which features of an image's tiles make its tokens, by its size in pixels.

    As `pack_image_features` of LLaVA-NeXT and LLaVA-OneVision in transformers.
    """
    whole, taps = vision.side**2, vision.packing
    rows, columns = _tile_grid(vision, height, width)
    newline = whole * (1 + rows * columns)
    grid = _unpad(_tile_features(vision, rows, columns, whole), height, width)
    size = vision.shrunk(*grid.shape)
    tiles = single(grid, taps) if size == grid.shape else bilinear(grid, *size)
    ends = single(np.full((size[0], 1), newline), taps)

    def joined(base: np.ndarray, rows: np.ndarray, ends: np.ndarray) -> np.ndarray:
        return np.concatenate([base, np.concatenate([rows, ends], axis=1).reshape(-1, taps)])

    return Pack(*map(joined, single(np.arange(whole), taps), tiles, ends))


def _tile_grid(vision: AnyresVision, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of tiles for an image of that size."""
    best = select_best_resolution((height, width), vision.pinpoints)
    return best[0] // vision.tile, best[1] // vision.tile


def _tile_features(vision: AnyresVision, rows: int, columns: int, first: int) -> Int[np.ndarray, "h w"]:
    """Numbers of the features of tiles, counted tile by tile from `first`, laid out as in the image."""
    side = vision.side
    numbers = first + np.arange(rows * columns * side**2).reshape(rows, columns, side, side)
    return numbers.transpose(0, 2, 1, 3).reshape(rows * side, columns * side)


def _unpad(grid: Int[np.ndarray, "h w"], height: int, width: int) -> Int[np.ndarray, "rows columns"]:
    """The part of a grid that an image of that size covers, centred in it. As transformers' `unpad_image`."""
    rows, columns = grid.shape
    if width / height > columns / rows:
        cut = (rows - int(round(height * (columns / width), 7))) // 2
        return grid[cut : rows - cut]
    cut = (columns - int(round(width * (rows / height), 7))) // 2
    return grid[:, cut : columns - cut]
