"""Which runners bundles make: each bundle one, or one for each keep that is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastv_runtime.bench.runners.bundle import BackendChoice
from fastv_runtime.config.bundle import Bundle
from fastv_runtime.config.lengths import check_keep
from fastv_runtime.config.plan import Length, Plan
from fastv_runtime.errors import UserError

Entrant = tuple[BackendChoice, Bundle]
"""A runner to be: a bundle, and how it runs."""


def check_settings(plans: Sequence[Plan], keeps: Sequence[float], length: Length | None) -> None:
    """UserError for values of `keep` and `length` that make no sense, or that no bundle of these plans takes."""
    pruning = [plan for plan in plans if plan.prunes]
    for name, given in (("keep", keeps), ("length", length)):
        if given and not pruning:
            raise UserError(f"`{name}`: none of these bundles prunes: add one that does, or leave it out")
    for keep in keeps:
        if keeps.count(keep) > 1:
            raise UserError(f"`keep` {keep:g}: given twice")
        check_keep(pruning[0], keep)


def entrants_of(bundles: Mapping[str, Bundle], keeps: Sequence[float], common: BackendChoice) -> list[Entrant]:
    """Every bundle, and one that prunes once for each of `keeps`, where there are any: each is a runner of its own.

    common: how all of them run. An unpruned bundle has neither keep nor length.
    """
    made: list[Entrant] = []
    for name, bundle in bundles.items():
        own = {"path": str(bundle.path), "name": name}
        if not bundle.manifest.plan.prunes:
            made.append((common.model_copy(update=own | {"length": None}), bundle))
            continue
        for keep in keeps or (None,):
            called = name if keep is None else f"{name} keep {keep:g}"
            made.append((common.model_copy(update=own | {"name": called, "keep": keep}), bundle))
    return made
