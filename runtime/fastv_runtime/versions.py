"""Our own version, and whether packages that we reach into are neither older than needed nor newer than was tested.

pyproject.toml says both, once: a package that it caps is one we reach into. The installed metadata of fastv-edge
repeats its lines, so there is no second table to disagree with them. No package is imported here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.version import Version

from fastv_runtime.errors import UserError


def _own_version() -> str:
    try:
        return version("fastv-edge")
    except PackageNotFoundError:  # run from its sources, not installed
        return "0+sources"


__version__ = _own_version()


def untested(extras: Sequence[str] = ()) -> str | None:
    """One line about installed packages that are newer than was tested; None where there are none.

    Looks at what fastv-edge needs and what these extras of it add; what is not installed is left to whoever imports it.
    Raises UserError for a package that is too old.
    """
    newer = []
    for requirement, least, cap in _capped(extras):
        try:
            found = Version(version(requirement.name))
        except PackageNotFoundError:
            continue
        if found < least:
            raise UserError(
                f"{requirement.name} {found} is installed, {least} or newer is needed: pip install '{requirement.name}"
                f"{requirement.specifier}'"
            )
        # As pip sees it: a pre-release of the cap is newer too.
        if not requirement.specifier.contains(found, prereleases=True):
            newer.append(f"{requirement.name}: tested up to {_before(cap)}, found {found}")
    return "; ".join(newer) or None


def _capped(extras: Sequence[str]) -> Iterator[tuple[Requirement, Version, Version]]:
    """What pyproject.toml gives both a least version and a cap, with the two; for this Python."""
    try:
        lines = requires("fastv-edge") or ()
    except PackageNotFoundError:  # run from its sources, not installed: nothing says what was tested
        return
    for requirement in map(Requirement, lines):
        applies = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)
        )
        bounds = {each.operator: Version(each.version) for each in requirement.specifier}
        if applies and bounds.keys() == {">=", "<"}:
            yield requirement, bounds[">="], bounds["<"]


def _before(cap: Version) -> str:
    """The last release line below a cap: 5.24 of <5.25."""
    *head, last = cap.release
    return ".".join(map(str, (*head, last - 1)))
