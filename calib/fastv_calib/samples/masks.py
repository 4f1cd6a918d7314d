"""Which visual tokens each plan keeps of a sample, in few characters: a bit a token, deflated."""

from __future__ import annotations

import base64
import zlib

import numpy as np
from jaxtyping import Bool


def packed(kept: Bool[np.ndarray, "plans V"]) -> str:
    """Text of a mask by plan and visual token."""
    return base64.b64encode(zlib.compress(np.packbits(kept, axis=1).tobytes(), 9)).decode("ascii")


def unpacked(text: str, plans: int, visual: int) -> Bool[np.ndarray, "plans V"]:
    """The mask that `packed` made the text of."""
    bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(plans, -1)
    return np.unpackbits(bits, axis=1, count=visual).astype(bool)
