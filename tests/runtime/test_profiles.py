"""The optimisation profile of a run: the narrowest that supports its shapes, or an error that says which are."""

from __future__ import annotations

import pytest

from fastv_runtime.backends.tensorrt.profile_choice import OptimizationProfile, choose_profile

CACHE = (1, 2, 100, 8)
PREFILL: OptimizationProfile = {"hidden": ((1, 1, 64), (1, 90, 64)), "past_key_0": (CACHE, CACHE)}
DECODE: OptimizationProfile = {"hidden": ((1, 1, 64), (1, 1, 64)), "past_key_0": (CACHE, CACHE)}


@pytest.mark.parametrize(("rows", "chosen"), [(1, 1), (2, 0), (90, 0)])
def test_one_row_takes_the_decode_profile(rows: int, chosen: int) -> None:
    shapes = {"hidden": (1, rows, 64), "past_key_0": CACHE}
    assert choose_profile(shapes, [PREFILL, DECODE]) == chosen
    assert choose_profile(shapes, [DECODE, PREFILL]) == 1 - chosen
    assert choose_profile(shapes, [PREFILL]) == 0


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"hidden": (1, 91, 64), "past_key_0": CACHE}, "hidden is 1x91x64 .* 1x1x64 to 1x90x64 or 1x1x64 to 1x1x64"),
        ({"hidden": (1, 5, 64), "past_key_0": (1, 2, 99, 8)}, "past_key_0 is 1x2x99x8 .* for 1x2x100x8"),
        ({"hidden": (5, 64), "past_key_0": CACHE}, "hidden is 5x64"),
    ],
)
def test_what_no_profile_bears_is_named(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_profile(shapes, [PREFILL, DECODE])
