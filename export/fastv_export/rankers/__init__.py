"""Ways to choose the visual tokens that stay, by the names of the option `ranker`: one small file each.

To add one: write the file, whose RANKER says everything about it, and list the file below.

The help of commands reads these files too, where neither torch nor onnx is installed: they import both, and
numpy, only for type checking, or inside functions.
"""

from __future__ import annotations

from importlib import import_module

from fastv_export.rankers.base import Ranker

_FILES = (
    "fastv",
    "random",
    "uniform",
    "fastv_uniform",
    "pre_rope",
    "dart",
    "rank_shift",
    "varied_heads",
    "text_rows",
    "knorm",
    "coverage",
    "frame_change",
)
"""In the order in which help texts and messages name them."""
_RANKERS: list[Ranker] = [import_module(f"{__name__}.{file}").RANKER for file in _FILES]
RANKERS: dict[str, Ranker] = {ranker.name: ranker for ranker in _RANKERS}
"""Rankers by name."""
CONTROLS = tuple(ranker.name for ranker in _RANKERS if ranker.control)
"""Names of those that a calibration never chooses."""
