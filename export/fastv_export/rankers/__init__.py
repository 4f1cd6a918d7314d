"""Ways to choose the visual tokens that stay, by the names of the option `ranker`: one small file each.

To add one: write the file, list it below, and name it in `fastv_runtime.config.bundle.Ranker` and in `cli.RANKERS`. Use
operators that TensorRT 10.3 has (`tests/export/tensorrt_operators.py`), and no K of a TopK that depends on data.
"""

from __future__ import annotations

from fastv_export.rankers.base import Ranker
from fastv_export.rankers.dart import DART
from fastv_export.rankers.fastv import FASTV
from fastv_export.rankers.fastv_uniform import FASTV_UNIFORM
from fastv_export.rankers.pre_rope import PRE_ROPE
from fastv_export.rankers.random import RANDOM
from fastv_export.rankers.uniform import UNIFORM

RANKERS: dict[str, Ranker] = {each.name: each for each in (FASTV, RANDOM, UNIFORM, FASTV_UNIFORM, PRE_ROPE, DART)}
"""Rankers by name."""
