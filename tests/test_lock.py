"""requirements/lock.txt pins what pyproject.toml asks for, for every Python, and names nothing that it should not."""

from __future__ import annotations

from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LINES = [
    line
    for line in (Path(__file__).parent.parent / "requirements" / "lock.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
EXTRAS = ("", "dev", "export", "fastvlm", "rtx-build")
"""What `make demo` and `make test` install."""


def pins(python: str, machine: str) -> dict[str, str]:
    """Package to version."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_python_implementation": "CPython",
    }
    found = {}
    for line in LINES:
        pin = Requirement(line.split("  #")[0])
        if pin.marker is None or pin.marker.evaluate(environment):
            (each,) = pin.specifier
            assert each.operator == "==", line
            assert pin.name not in found, f"{pin.name} has two versions on Python {python}"
            found[canonicalize_name(pin.name)] = each.version
    return found


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", PYTHONS)
def test_what_is_asked_for_is_pinned(python: str, machine: str) -> None:
    pinned = pins(python, machine)
    asked = [Requirement(line) for line in requires("fastv-edge") or ()]
    asked = [each for each in asked if any(each.marker is None or each.marker.evaluate({"extra": e}) for e in EXTRAS)]
    assert len(asked) > 20
    for each in asked:
        assert each.specifier.contains(pinned[canonicalize_name(each.name)]), f"{each}: make lock"


def test_no_index_is_named_and_no_cuda_build_asked_for() -> None:
    text = "\n".join(LINES)
    assert not any(word in text for word in ("://", "--index", "--extra-index", "--find-links", "--hash"))
    names = {Requirement(line.split("  #")[0]).name for line in LINES}
    assert {name for name in names if name.startswith(("nvidia", "cuda"))} == {"nvidia-ml-py"}
    assert not names & {"triton", "torchvision"}


def test_the_newest_transformers_tested_is_locked() -> None:
    (asked,) = {line for line in requires("fastv-edge") or () if line.startswith("transformers")}
    cap = next(each.version for each in Requirement(asked).specifier if each.operator == "<")
    major, minor = map(int, pins("3.12", "x86_64")["transformers"].split(".")[:2])
    assert cap == f"{major}.{minor + 1}"
