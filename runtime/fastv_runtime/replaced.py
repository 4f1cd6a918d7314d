"""Outputs that would replace what the same command reads or writes: refused before any work."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from fastv_runtime.errors import UserError
from fastv_runtime.files import is_stream

BUNDLE_FILE = "bundle.json"
"""A directory that holds it is a bundle, as `fastv_runtime.config.bundle` has it, which takes long to import."""

Named = Iterable[tuple[str, str | Path | None]]
"""An option in backticks, and a path that it gives; None where it gives none."""


def check_replaced(outputs: Mapping[str, Path | None], inputs: Named = (), *, in_bundles: bool = False) -> None:
    """UserError where an output is one of the inputs, another output, or a file within a bundle.

    Links are followed. Devices and pipes replace nothing, and none of them need exist. outputs: by their options, in
    backticks. in_bundles: whether a bundle is a place for outputs.
    """
    taken = [(name, Path(path)) for name, path in inputs if path is not None]
    for name, path in outputs.items():
        if path is None or is_stream(path):
            continue
        for other, place in taken:
            if _same(path, place):
                raise UserError(f"{name} {path}: {other} is the same file: give another")
        bundle = None if in_bundles else _bundle_of(path)
        if bundle is not None:
            raise UserError(f"{name} {path}: is within the bundle {bundle}: give a place outside it")
        taken.append((name, path))


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):  # one that is not there yet
        return os.path.realpath(one) == os.path.realpath(other)


def _bundle_of(path: Path) -> Path | None:
    """The bundle that a path, or what it links to, lies in."""
    for place in (Path(os.path.realpath(path)), path.absolute()):
        for folder in place.parents:
            if (folder / BUNDLE_FILE).is_file():
                return folder
    return None
