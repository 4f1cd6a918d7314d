"""Graph passes, one file each. All leave deferred weights unread."""

from fastv_export.passes.common.last_row import keep_last_row
from fastv_export.passes.common.opset import declare_opset
from fastv_export.passes.common.patch_products import lower_patch_convolutions
from fastv_export.passes.common.tidy import tidy
from fastv_export.passes.openvino.growing_cache import lower_to_growing_cache
from fastv_export.passes.openvino.joined_projections import join_projections
from fastv_export.passes.openvino.stored_weights import lower_to_stored_weights
from fastv_export.passes.ort.dynamic_int8 import lower_to_dynamic_int8
from fastv_export.passes.ort.group_query_attention import lower_to_group_query_attention
from fastv_export.passes.ort.matmul_nbits import lower_to_matmul_nbits
from fastv_export.passes.ort.multi_head_attention import lower_to_multi_head_attention
from fastv_export.passes.ort.rms_norm import lower_to_rms_norm
from fastv_export.passes.ort.rotary_embedding import lower_to_rotary_embedding
from fastv_export.passes.ort.row_reshapes import fold_row_reshapes
from fastv_export.passes.quant.float_activations import quantize_float_activations
from fastv_export.passes.quant.scale_inputs import ScaledInputs, scale_inputs
from fastv_export.passes.quant.static_int8 import quantize_activations
from fastv_export.passes.quant.weight_only import left_whole, quantize_weights
from fastv_export.passes.trt.inverse_permutation import lower_argsort
from fastv_export.passes.trt.plain_attention import lower_to_plain_attention
from fastv_export.passes.trt.plain_scatter import lower_to_where
from fastv_export.passes.trt.scatter_reduction import drop_scatter_reduction

__all__ = [
    "ScaledInputs",
    "declare_opset",
    "drop_scatter_reduction",
    "fold_row_reshapes",
    "join_projections",
    "keep_last_row",
    "left_whole",
    "lower_argsort",
    "lower_patch_convolutions",
    "lower_to_dynamic_int8",
    "lower_to_group_query_attention",
    "lower_to_growing_cache",
    "lower_to_matmul_nbits",
    "lower_to_multi_head_attention",
    "lower_to_plain_attention",
    "lower_to_rms_norm",
    "lower_to_rotary_embedding",
    "lower_to_stored_weights",
    "lower_to_where",
    "quantize_activations",
    "quantize_float_activations",
    "quantize_weights",
    "scale_inputs",
    "tidy",
]
