"""Canonical -> `ort` dialect: RMSNorm, and the residual sum before it, as one operator (onnxscript's fusions)."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript.rewriter.ort_fusions.rms_normalization import fuse_rms_normalization
from onnxscript.rewriter.ort_fusions.skip_normalization import fuse_skip_rms_normalization

from fastv_export.passes.common.tidy import hidden_weights


def lower_to_rms_norm(model: ir.Model) -> int:
    """Rewrite in place; returns how many norms there were."""
    with hidden_weights(model.graph):
        count = fuse_rms_normalization(model)
        fuse_skip_rms_normalization(model)
    for node in model.graph:
        # The fusions' name for it is ONNX Runtime's, in ONNX's own domain, where no checker knows it.
        if node.op_type == "SimplifiedLayerNormalization":
            node.op_type = "RMSNormalization"
    return int(count)
