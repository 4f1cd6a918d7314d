"""Plans of bundles that are there: no graph depends on how much its cuts keep, only the room for it does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastv_export.plan import CutOption
from fastv_runtime.config.bundle import Bundle, read_manifest


def cuts_at(*layers: int) -> tuple[CutOption, ...]:
    """Cuts for an export that has room for any `keep` at each of them: as much as one cut that keeps all tokens has."""
    return tuple(CutOption(layer, 1 - index * 1e-6) for index, layer in enumerate(layers))


def with_keeps(bundle: Path, keeps: Sequence[float]) -> Bundle:
    """A bundle whose cuts keep these fractions of a prompt's visual tokens."""
    manifest = read_manifest(bundle)
    plan = manifest.plan
    cuts = tuple(cut.model_copy(update={"keep": keep}) for cut, keep in zip(plan.cuts, keeps, strict=True))
    return Bundle(bundle, manifest.model_copy(update={"plan": plan.model_copy(update={"cuts": cuts})}))


def at_capacity(feeds: dict[str, np.ndarray], session: Any) -> dict[str, np.ndarray]:
    """Inputs of a session as long as it wants them: behind what is there, numbers that would win if they were read."""
    wanted = {each.name: each.shape for each in session.get_inputs()}
    return {name: _filled_up(array, wanted[name]) for name, array in feeds.items()}


def _filled_up(array: np.ndarray, shape: Sequence[int | str]) -> np.ndarray:
    more = [(0, axis - have if isinstance(axis, int) else 0) for axis, have in zip(shape, array.shape, strict=True)]
    return np.pad(array, more, constant_values=array.dtype.type(7)) if any(behind for _, behind in more) else array
