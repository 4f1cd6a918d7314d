"""What plans are compared with: the unpruned model on fewer visual tokens, without any look at what they are about.

`smaller-image`: the image itself is resized, so that the family makes as many tokens of it; towers that take one size
alone cannot. `pooled`: tokens of the image as it is are averaged over neighbours, at the position of the middle one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image

from fastv_calib.samples.inputs import DecoderInputs, InputMaker
from fastv_export.calibration import BASELINES
from fastv_runtime.config.layouts import AnyresVision, FixedVision, Vision
from fastv_runtime.config.tile_layouts import TilesVision
from fastv_runtime.preprocessing import Visual

SMALLER, POOLED = BASELINES
ASPECT = 0.5
"""How much a bin of another shape than square counts beside another number of bins."""


def baselines_of(vision: Vision) -> tuple[str, ...]:
    """Those that are possible where images are laid out like this."""
    return (POOLED,) if isinstance(vision, FixedVision) else BASELINES


def smaller(maker: InputMaker, images: Sequence[Image.Image], visuals: Sequence[Visual], keep: float) -> list[Visual]:
    """Images resized to about `keep` of the visual tokens that they become, or to the fewest that the family makes."""
    least = _least(maker.preparation.vision)
    return [
        maker.preparation.of_image_within(image, max(least, round(visual.tokens * keep)))
        for image, visual in zip(images, visuals, strict=True)
    ]


def tower_share(visuals: Sequence[Visual], whole: Sequence[Visual]) -> float:
    """Rows that the tower makes for some visuals, of those for others."""
    made, all_rows = (sum(piece.rows for visual in those for piece in visual.pieces) for those in (visuals, whole))
    return made / all_rows


def pooled(inputs: DecoderInputs, grids: Sequence[Int[np.ndarray, "rows columns"]], keep: float) -> DecoderInputs:
    """About `keep` of the visual tokens that stand for places: means of neighbours on each grid, deepstack's as well.

    grids: numbers of visual tokens by place, as `InputMaker.grids` has them. Tokens without a place, such as those that
    end a row, stay. A mean has the position of the token in the middle, as tokens that stay of a pruned prompt have
    theirs: what lies between two of them is as far apart as before.
    """
    places = inputs.visual.nonzero()[:, 0]
    bins = [[int(row) for row in places[each]] for grid in grids for each in _bins(grid, keep)]
    pooled_rows = {row for each in bins for row in each}
    bins += [[row] for row in range(inputs.visual.numel()) if row not in pooled_rows]
    bins.sort(key=_middle)
    middles = torch.tensor([_middle(each) for each in bins])
    return DecoderInputs(
        embedded=_means(inputs.embedded, bins),
        position_ids=inputs.position_ids[..., middles],
        visual=inputs.visual[middles],
        deepstack=tuple(_means(rows, bins) for rows in inputs.deepstack),
    )


def grid_within(rows: int, columns: int, keep: float) -> tuple[int, int]:
    """Rows and columns of a grid of about `keep` of the places of another, and about its shape."""
    wanted = max(1.0, keep * rows * columns)

    def off(size: tuple[int, int]) -> float:
        shape = (size[0] / rows) / (size[1] / columns)
        return abs(log(size[0] * size[1] / wanted)) + ASPECT * abs(log(shape))

    return min(((row, column) for row in range(1, rows + 1) for column in range(1, columns + 1)), key=off)


def _least(vision: Vision) -> int:
    """Fewest visual tokens that an image can be limited to."""
    match vision:
        case AnyresVision():
            return min(map(vision.tokens_at, vision.pinpoints))
        case TilesVision():
            return vision.side**2
        case _:
            return 1


def _bins(grid: Int[np.ndarray, "rows columns"], keep: float) -> list[Int[np.ndarray, " some"]]:
    """Visual tokens that become one, for each place of the smaller grid."""
    rows, columns = grid.shape
    size = grid_within(rows, columns, keep)
    edges = [np.arange(count + 1) * whole // count for count, whole in zip(size, grid.shape, strict=True)]
    found = [
        grid[top:bottom, left:right].reshape(-1)
        for top, bottom in zip(edges[0][:-1], edges[0][1:], strict=True)
        for left, right in zip(edges[1][:-1], edges[1][1:], strict=True)
    ]
    return [each for each in (one[one >= 0] for one in found) if each.size]


def _middle(rows: Sequence[int]) -> int:
    """The row whose position a bin has, of rows in raster order."""
    return rows[(len(rows) - 1) // 2]


def _means(rows: Float[torch.Tensor, "1 S D"], bins: Sequence[Sequence[int]]) -> Float[torch.Tensor, "1 bins D"]:
    return torch.stack([rows[0, each].mean(0) for each in bins])[None]
