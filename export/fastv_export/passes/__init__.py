"""Graph passes, one file each. All leave deferred weights unread."""

from fastv_export.passes.group_query_attention import lower_to_group_query_attention
from fastv_export.passes.multi_head_attention import lower_to_multi_head_attention
from fastv_export.passes.opset import declare_opset
from fastv_export.passes.tidy import tidy
from fastv_export.passes.weight_only import quantise_weights

__all__ = [
    "declare_opset",
    "lower_to_group_query_attention",
    "lower_to_multi_head_attention",
    "quantise_weights",
    "tidy",
]
