"""Graph passes, one file each. All leave deferred weights unread."""

from fastv_export.passes.group_query_attention import lower_to_group_query_attention
from fastv_export.passes.tidy import tidy

__all__ = ["lower_to_group_query_attention", "tidy"]
