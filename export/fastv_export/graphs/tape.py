"""A tape for graphs that are written by hand: operators are added one after another."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir import tape


class Tape(tape.Tape):
    """onnx_ir's tape, with what all of these graphs need."""

    def constant(self, value: float | list[int] | np.ndarray) -> ir.Value:
        """A constant: f32 scalar, i64 vector, or an array as it is."""
        if not isinstance(value, np.ndarray):
            value = np.asarray(value, np.int64 if isinstance(value, list) else np.float32)
        return self.op("Constant", [], {"value": ir.tensor(value)})

    def to_float(self, value: ir.Value) -> ir.Value:
        """A cast to f32."""
        return self.op("Cast", [value], {"to": ir.DataType.FLOAT})

    def to_int(self, value: ir.Value) -> ir.Value:
        """A cast to i64."""
        return self.op("Cast", [value], {"to": ir.DataType.INT64})
