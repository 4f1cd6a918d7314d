"""Model families: where an architecture keeps its parts. One small file each, registered by `model_type`."""

from __future__ import annotations

import importlib
import pkgutil

from fastv_export.families.base import FAMILIES, Family, family_of

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["FAMILIES", "Family", "family_of"]
