"""Processes that tests start, with the code that is being tested."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import fastv_calib
import fastv_export
import fastv_runtime


def run(python: str | Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python: what it is told about packages by the environment does not count, but the project is ours."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TRANSFORMERS"))}
    sources = (Path(str(module.__file__)).parents[1] for module in (fastv_runtime, fastv_export, fastv_calib))
    # Where the project is installed like any package, its folder holds all that a device must not have.
    environment["PYTHONPATH"] = os.pathsep.join(str(path) for path in sources if path.name != "site-packages")
    command = [str(python), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def over(usual: Sequence[str], given: Sequence[str]) -> list[str]:
    """Arguments with those that a test gives in place of the usual ones: no command takes an option twice."""
    kept, take = [], True
    for word in usual:
        take = word not in given if word.startswith("-") else take
        kept += [word] if take else []
    return [*kept, *given]
