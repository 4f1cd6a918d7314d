"""Which optimisation profile of a TensorRT engine a run takes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

Shape = tuple[int, ...]
OptimizationProfile = Mapping[str, tuple[Shape, Shape]]
"""Smallest and largest shape of every input."""


def choose_profile(shapes: Mapping[str, Shape], profiles: Sequence[OptimizationProfile]) -> int:
    """The narrowest profile that supports the shapes: of a prefill and a decode profile, one row takes the decode one.

    An engine with one profile takes that. Raises ValueError, naming the input, where none supports them.
    """
    fitting = [number for number, profile in enumerate(profiles) if not _misfits(shapes, profile)]
    if fitting:
        return min(fitting, key=lambda number: sum(prod(high) for _, high in profiles[number].values()))
    name = _misfits(shapes, profiles[0])[0]
    ranges = " or ".join(f"{_text(low)} to {_text(high)}" for low, high in (profile[name] for profile in profiles))
    raise ValueError(f"{name} is {_text(shapes[name])} and the engine was built for {ranges}")


def _misfits(shapes: Mapping[str, Shape], profile: OptimizationProfile) -> list[str]:
    return [
        name
        for name, (low, high) in profile.items()
        if len(shapes[name]) != len(low)
        or not all(least <= size <= most for least, size, most in zip(low, shapes[name], high, strict=True))
    ]


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))
