"""Names in a graph for OpenVINO: its caches, copies of some for what is no attention, how much is rounded alike."""

from __future__ import annotations

BEAM = "beam_idx"
"""An input that a graph with states has for OpenVINO's sake: which of several beams' caches go on. There is one."""
ROUNDING_GROUP = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
"""OpenVINO's name of how many inputs of a product share a range; a file says it among its runtime options."""
_COPY = "again_"
_PAST, _PRESENT = "past_", "present_"


def again(cache: str) -> str:
    """The copy of `past_key_0` or `present_key_0`."""
    return _COPY + cache


def is_past(name: str) -> bool:
    """Whether an input is a cache, or a copy of one."""
    return name.removeprefix(_COPY).startswith(_PAST)


def present_of(past: str) -> str:
    """The output whose next input is `past_key_0`, or a copy."""
    return past.replace(_PAST, _PRESENT)


def past_of(variable: str) -> tuple[str, bool]:
    """Of an OpenVINO state, the input that it was (`past_key_0`), and whether it is a copy of that one.

    variable: as OpenVINO names what it makes of an input and an output: both names, one after the other.
    """
    name = variable.removeprefix(_COPY)
    return name.split(_COPY)[0].split(_PRESENT)[0], variable.startswith(_COPY)
