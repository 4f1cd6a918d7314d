"""The demo checkpoint is what its card says, as far as a few seconds can tell; `make evaluate` measures the whole."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from demo import heldout
from demo.evaluate import exact_match
from demo.questions import KINDS
from fastv_runtime import Pipeline
from tests.conftest import DEMO, MakeBundle

LIMIT = 16_000_000


@pytest.fixture(scope="module")
def samples() -> list[heldout.Sample]:
    return heldout.samples(80)


def test_held_out_samples_repeat_and_cover_every_kind(samples: list[heldout.Sample]) -> None:
    again = heldout.samples(8)
    for one, other in zip(samples, again, strict=False):
        assert (one.question, one.answer, one.patches) == (other.question, other.answer, other.patches)
        np.testing.assert_array_equal(np.asarray(one.image), np.asarray(other.image))
    assert Counter(sample.kind for sample in samples) == dict.fromkeys(KINDS, 10)


def test_questions_hang_on_few_patches_of_a_large_canvas(samples: list[heldout.Sample]) -> None:
    shares = [len(sample.patches) / 144 for sample in samples if sample.kind in ("color", "shape", "number", "where")]
    assert max(shares) < 0.1


def test_the_checkpoint_is_small() -> None:
    assert sum(path.stat().st_size for path in DEMO.iterdir()) <= LIMIT


@pytest.mark.parametrize(("options", "least"), [({"prune": False}, 0.9), ({"layer": 2, "keep": 0.5}, 0.9)])
def test_answers_are_right(
    make_bundle: MakeBundle, samples: list[heldout.Sample], options: dict[str, float | None], least: float
) -> None:
    assert _accuracy(make_bundle(DEMO, max_new_tokens=32, **options), samples) >= least


def test_attention_keeps_what_matters_and_chance_does_not(
    make_bundle: MakeBundle, samples: list[heldout.Sample]
) -> None:
    fastv, random = (
        _accuracy(make_bundle(DEMO, max_new_tokens=32, layer=2, keep=0.25, ranker=ranker), samples)
        for ranker in ("fastv", "random")
    )
    # 80 samples: three standard deviations of a difference of shares are at most 0.24.
    assert fastv > random + 0.24


def _accuracy(bundle: Path, samples: list[heldout.Sample]) -> float:
    return exact_match(Pipeline.load(bundle, threads=1), samples)["all"]
