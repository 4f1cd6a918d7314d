"""Plans of bundles that are there: no graph depends on how much its cuts keep, only the room for it does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
