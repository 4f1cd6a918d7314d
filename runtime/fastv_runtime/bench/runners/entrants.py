"""Which runners bundles make: each bundle one, or one for each keep that is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastv_runtime.backends.registry import BACKENDS, backend_for
from fastv_runtime.bench.runners.bundle import BackendChoice
from fastv_runtime.config.bundle import Bundle
from fastv_runtime.config.plan import Length, Plan
from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.keep import AUTO, Keep, read_keep

Entrant = tuple[BackendChoice, Bundle]
"""A runner to be: a bundle, and how it runs."""


def check_settings(
    plans: Sequence[Plan], keeps: Sequence[Keep], length: Length | None, share: float | None = None
) -> None:
    """UserError for values of `keep`, `share` and `length` that make no sense, or that no bundle of these plans takes.

    `share`: of `keep` auto.
    """
    pruning = [plan for plan in plans if plan.prunes]
    for name, given in (("keep", keeps), ("length", length)):
        if given and not pruning:
            raise UserError(f"`{name}`: none of these bundles prunes: add one that does, or leave it out")
    if share is not None and AUTO not in keeps:
        raise UserError(f"`share` {share:g}: is of `keep` auto: add it, or leave `share` out")
    for keep in keeps:
        if keeps.count(keep) > 1:
            raise UserError(f"`keep` {_said(keep)}: given twice")
        for plan in pruning:
            read_keep(plan, keep, share if keep == AUTO else None)


def _said(keep: Keep) -> str:
    return keep if isinstance(keep, str) else f"{keep:g}"


def entrants_of(
    bundles: Mapping[str, Bundle],
    keeps: Sequence[Keep],
    common: BackendChoice,
    share: float | None = None,
    computes: Sequence[str] = (),
) -> list[Entrant]:
    """Every bundle, and one that prunes once for each of `keeps`, where there are any: each is a runner of its own.

    common: how all of them run. An unpruned bundle has neither keep nor length. share: of `keep` auto. computes: each
    is once more one of its own, of bundles whose backend can be told what to compute in. Raises UserError where none
    can.
    """
    entrants = _pruned(bundles, keeps, common, share)
    if not computes:
        return entrants
    for compute in computes:
        if computes.count(compute) > 1:
            raise UserError(f"`compute` {compute}: given twice")
    told = [bool(BACKENDS[_backend(choice, bundle)].computes) for choice, bundle in entrants]
    if not any(told):
        raise UserError(f"`compute` {computes[0]}: no bundle's backend can be told what to compute in: leave it out")
    made: list[Entrant] = []
    for (choice, bundle), takes in zip(entrants, told, strict=True):
        if not takes:
            made.append((choice, bundle))
            continue
        for compute in computes:
            called = choice.name if len(computes) == 1 else f"{choice.name} {compute}"
            made.append((choice.model_copy(update={"name": called, "compute": compute}), bundle))
    return made


def _backend(choice: BackendChoice, bundle: Bundle) -> str:
    return choice.backend or backend_for({graph.dialect for graph in bundle.manifest.graphs.values()})


def _pruned(
    bundles: Mapping[str, Bundle], keeps: Sequence[Keep], common: BackendChoice, share: float | None
) -> list[Entrant]:
    made: list[Entrant] = []
    for name, bundle in bundles.items():
        own = {"path": str(bundle.path), "name": name}
        if not bundle.manifest.plan.prunes:
            made.append((common.model_copy(update=own | {"length": None}), bundle))
            continue
        for keep in keeps or (None,):
            called = name if keep is None else f"{name} keep {_said(keep)}"
            asked = {"name": called, "keep": keep, "share": share if keep == AUTO else None}
            made.append((common.model_copy(update=own | asked), bundle))
    return made
