"""Model families: where an architecture keeps its parts. One small file each, registered by `model_type`."""

from __future__ import annotations

from fastv_export.families.base import FAMILIES, Family, family_of
from fastv_export.families.llava import Llava

__all__ = ["FAMILIES", "Family", "Llava", "family_of"]
