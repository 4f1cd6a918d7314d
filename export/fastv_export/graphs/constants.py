"""Constants of graphs that are written by hand."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape


def constant(tape: Tape, value: float | list[int]) -> ir.Value:
    """A constant: f32 scalar or i64 vector."""
    array = np.asarray(value, np.int64 if isinstance(value, list) else np.float32)
    return tape.op("Constant", [], {"value": ir.tensor(array)})
