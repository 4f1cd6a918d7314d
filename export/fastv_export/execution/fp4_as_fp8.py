"""Values of E2M1 as the same values of E4M3: ONNX Runtime has no operator that takes the former."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from jaxtyping import UInt8

_BITS = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
_PAIRS = (_BITS[None, :] | (_BITS[:, None].astype(np.uint16) << 8)).astype("<u2").reshape(-1)
"""Of every byte that holds two values, the lower half first."""


def widened(packed: UInt8[np.ndarray, " n"]) -> UInt8[np.ndarray, " 2n"]:
    """Bytes of two values each as bytes of one."""
    pairs: np.ndarray = _PAIRS[packed]
    return pairs.view(np.uint8)
