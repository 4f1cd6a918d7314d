"""The table of family tests: every module here holds one or more `Row`s in `ROWS`."""

from __future__ import annotations

import importlib
import pkgutil

from tests.families.row import Row

ROWS: list[Row] = [
    row
    for module in pkgutil.iter_modules(__path__)
    for row in importlib.import_module(f"{__name__}.{module.name}").ROWS
]
