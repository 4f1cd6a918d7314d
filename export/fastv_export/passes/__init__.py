"""Graph passes, one file each. All leave deferred weights unread."""

from fastv_export.passes.dynamic_int8 import lower_to_dynamic_int8
from fastv_export.passes.float_activations import quantise_float_activations
from fastv_export.passes.group_query_attention import lower_to_group_query_attention
from fastv_export.passes.inverse_permutation import lower_argsort
from fastv_export.passes.last_row import keep_last_row
from fastv_export.passes.matmul_nbits import lower_to_matmul_nbits
from fastv_export.passes.multi_head_attention import lower_to_multi_head_attention
from fastv_export.passes.opset import declare_opset
from fastv_export.passes.plain_attention import lower_to_plain_attention
from fastv_export.passes.plain_scatter import lower_to_where
from fastv_export.passes.rms_norm import lower_to_rms_norm
from fastv_export.passes.rotary_embedding import lower_to_rotary_embedding
from fastv_export.passes.row_reshapes import fold_row_reshapes
from fastv_export.passes.scale_inputs import Scaled, scale_inputs
from fastv_export.passes.scatter_reduction import drop_scatter_reduction
from fastv_export.passes.static_int8 import quantise_activations
from fastv_export.passes.tidy import tidy
from fastv_export.passes.weight_only import left_whole, quantise_weights

__all__ = [
    "Scaled",
    "declare_opset",
    "drop_scatter_reduction",
    "fold_row_reshapes",
    "keep_last_row",
    "left_whole",
    "lower_argsort",
    "lower_to_dynamic_int8",
    "lower_to_group_query_attention",
    "lower_to_matmul_nbits",
    "lower_to_multi_head_attention",
    "lower_to_plain_attention",
    "lower_to_rms_norm",
    "lower_to_rotary_embedding",
    "lower_to_where",
    "quantise_activations",
    "quantise_float_activations",
    "quantise_weights",
    "scale_inputs",
    "tidy",
]
