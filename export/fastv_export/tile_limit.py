"""How many tiles of an image the user's limit supports."""

from __future__ import annotations

from fastv_runtime.errors import UserError


def tiles_within(image_tokens: int, tile: int) -> int:
    """Tiles of `tile` visual tokens each in `image_tokens`; UserError if there is room for none."""
    if image_tokens < tile:
        raise UserError(f"`image_tokens` {image_tokens}: one tile of this model is {tile} tokens: give {tile} or more")
    return image_tokens // tile
