"""To what size Qwen's video processors scale frames: sides that patches divide, within limits of pixels."""

from __future__ import annotations

import math

Size = tuple[int, int]
"""Height and width in pixels."""
Limits = tuple[int, int]
"""Fewest and most pixels."""

GROUP = 2
"""Frames that Qwen3-VL's processor counts as one when it shares out a clip's pixels."""


def frame_size(size: Size, factor: int, limits: Limits) -> Size:
    """Of a frame whose limits are its own, as an image's. Source: `smart_resize` of Qwen2-VL in transformers.

    Raises ValueError for slivers.
    """
    return _within(size, factor, 1, 1, limits)


def clip_frame_size(size: Size, factor: int, limits: Limits, frames: int, group: int = GROUP) -> Size:
    """Of each of so many frames whose limits hold for all together. Source: `smart_resize` of Qwen3-VL's videos."""
    height, width = size
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    counted = round(frames / group) * group or frames  # transformers refuses fewer frames than one group
    return _within((height, width), factor, frames, counted, limits)


def _within(size: Size, factor: int, frames: int, counted: int, limits: Limits) -> Size:
    """`frames` is what the scale comes from, `counted` what is held against the limits: transformers has both."""
    height, width = size
    if max(size) / min(size) > 200:
        raise ValueError(f"absolute aspect ratio must be smaller than 200, got {max(size) / min(size):.0f}")
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    least, most = limits
    if counted * rows * columns > most:
        beta = math.sqrt(frames * height * width / most)
        rows, columns = (max(factor, math.floor(side / beta / factor) * factor) for side in size)
    elif counted * rows * columns < least:
        beta = math.sqrt(least / (frames * height * width))
        rows, columns = (math.ceil(side * beta / factor) * factor for side in size)
    return rows, columns
