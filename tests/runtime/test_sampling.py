"""Sampling: greedy is argmax; the cut distributions are what their definitions say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fastv_runtime import Sampling, UserError, limits
from fastv_runtime.generation.sampling import Sampler, distribution

logit_vectors = arrays(np.float32, st.integers(2, 50), elements=st.floats(-20, 20, width=32))


@given(logit_vectors)
def test_greedy_is_argmax(logits: np.ndarray) -> None:
    assert Sampler(Sampling()).pick(logits) == int(np.argmax(logits))


@given(logit_vectors, st.floats(0.1, 5), st.integers(0, 60), st.floats(0.01, 1))
def test_a_distribution_sums_to_one_and_keeps_the_likeliest(
    logits: np.ndarray, temperature: float, top_k: int, top_p: float
) -> None:
    probabilities = distribution(logits, Sampling(temperature, top_k, top_p))
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities[np.argmax(logits)] > 0
    if top_k:
        assert np.count_nonzero(probabilities) <= top_k


@pytest.mark.parametrize("temperature", [limits.COOLEST, limits.HOTTEST])
def test_the_ends_of_temperature_give_probabilities(temperature: float) -> None:
    logits = np.array([-3e4, 0, 2e4, 3e4], np.float32)
    probabilities = distribution(logits, Sampling(temperature))
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(), 1)
    if temperature == limits.COOLEST:
        np.testing.assert_array_equal(probabilities, [0, 0, 0, 1])


def test_temperature_alone_is_softmax() -> None:
    logits = np.asarray([1.0, 2.0, 4.0], np.float32)
    expected = np.exp(logits / 2) / np.exp(logits / 2).sum()
    np.testing.assert_allclose(distribution(logits, Sampling(temperature=2)), expected, rtol=1e-6)


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    logits = np.log(np.asarray([0.1, 0.5, 0.15, 0.25], np.float32))
    assert np.flatnonzero(distribution(logits, Sampling(1, top_p=0.7))).tolist() == [1, 3]
    assert np.flatnonzero(distribution(logits, Sampling(1, top_p=0.4))).tolist() == [1]


def test_samples_follow_the_distribution() -> None:
    logits = np.log(np.asarray([0.2, 0.3, 0.5], np.float32))
    sampler = Sampler(Sampling(temperature=1, seed=3))
    counts = np.bincount([sampler.pick(logits) for _ in range(4000)], minlength=3) / 4000
    np.testing.assert_allclose(counts, [0.2, 0.3, 0.5], atol=0.03)


def test_a_seed_repeats_and_another_differs() -> None:
    logits = np.zeros(1000, np.float32)

    def draw(seed: int) -> list[int]:
        sampler = Sampler(Sampling(temperature=1, seed=seed))
        return [sampler.pick(logits) for _ in range(20)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.parametrize(
    "settings",
    [
        *({"temperature": value} for value in (-1, float("nan"), float("inf"), 1e-320, 1e9)),
        *({"repetition_penalty": value} for value in (0, 1e-320, 1e9)),
        *({"top_k": -1}, {"top_p": 0}, {"top_p": 1.5}, {"seed": -1}),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"^`{next(iter(settings))}` "):
        Sampling(**settings)  # type: ignore[arg-type]
