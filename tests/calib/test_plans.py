"""Which plans are measured: defaults by a decoder's depth, chains that are asked for, and room for all at once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastv_calib import defaults
from fastv_calib.plans import MOST_CHAINS, default_chains, default_layers, points
from fastv_calib.settings import Asked
from fastv_export.calibration import BASELINES, CalibrationSettings
from fastv_export.points import said
from fastv_runtime.config.bundle import DecoderConfig
from fastv_runtime.config.layouts import FixedVision, PatchesVision, Vision
from fastv_runtime.errors import UserError

FIXED = FixedVision(image_height=8, image_width=8, rows=4, columns=4)
PATCHES = PatchesVision(channels=3, patch=2, frames_per_patch=1, merge=1, max_tokens=64)


def settled(count: int, vision: Vision = FIXED, **asked: object) -> CalibrationSettings:
    decoder = DecoderConfig(
        hidden_size=8,
        num_hidden_layers=count,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        intermediate_size=16,
        vocab_size=32,
        gated_mlp=True,
    )
    return Asked(**asked).settled(decoder, vision, None)  # type: ignore[arg-type]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.integers(2, 90),
    st.lists(st.sampled_from([0.05, 0.1, 0.25, 0.5, 0.75, 0.9]), min_size=1, max_size=4, unique=True),
)
def test_defaults_are_plans_of_any_depth(count: int, keeps: list[float]) -> None:
    layers = default_layers(count)
    assert 1 <= len(layers) <= 4 and layers == tuple(sorted(set(layers))) and 1 <= layers[0] <= layers[-1] < count
    chains = default_chains(count, layers, keeps)
    assert len(chains) <= MOST_CHAINS and len(set(chains)) == len(chains)
    singles = [layer + (count - layer) * keep for layer in layers for keep in keeps]
    for (first, more), (second, less) in chains:
        assert 1 <= first < second < count and 0 < less < more < 1 and less in keeps
        work = first + (second - first) * more + (count - second) * less
        # Rounding `more` to a hundredth moves the work by half of one for each layer between the cuts.
        assert min(abs(work - each) for each in singles) <= 0.0051 * (second - first)


def test_a_decoder_of_thirty_layers() -> None:
    """As of SmolLM2-135M: what is tried by default, and how much that is."""
    found = settled(30)
    assert found.layers == (2, 4, 10, 15)
    assert said(found.cuts[0]) == "4:0.79:fastv+10:0.5:fastv"
    assert "4:0.5:fastv+10:0.1:fastv" in map(said, found.cuts)
    assert len(points(found)) == (4 * 3 + 4) * len(defaults.RANKERS) == 64
    assert found.baselines == ("pooled",) and settled(30, PATCHES).baselines == BASELINES


def test_what_is_asked_for_is_all_that_is_measured() -> None:
    assert settled(30, layers=(3,)).cuts == ()
    both = settled(30, layers=(), cuts=(((4, 0.5), (10, 0.1, "dart")),), rankers=("fastv", "dart"))
    assert list(map(str, points(both))) == ["4:0.5:fastv+10:0.1:dart", "4:0.5+10:0.1 dart"]
    assert settled(30, cuts=(((4, 0.5, "fastv"),),), keeps=(0.25,)).layers == (2, 4, 10, 15)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"layers": (), "cuts": ()}, "`layers`: is empty"),
        ({"cuts": ((),)}, "a plan of 0 cuts: 1 to 8"),
        ({"cuts": (((4, 0.5), (10, 0.1)), ((4, 0.5), (10, 0.1)))}, "is measured already"),
        ({"layers": (), "cuts": (((4, 0.5, "fastv"), (10, 0.1, "random")),)}, "a control is not chosen"),
        ({"baselines": ("other",)}, "`baselines` other: not known; there are smaller-image, pooled"),
    ],
)
def test_what_makes_no_sense_is_one_line(asked: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        settled(30, **asked)
