"""Prompts that are too long for the memory at hand: estimated well enough, and refused before they are measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastv_calib.measurement import measure
from fastv_calib.measurement.room import attention_bytes
from fastv_calib.samples.data import Sample
from fastv_export.calibration import CalibrationSettings
from fastv_runtime.errors import UserError
from tests.conftest import noise_image
from tests.tiny import write_tiny_llava

HEADS, TOKENS = 4, 2500


def settings(**changes: object) -> CalibrationSettings:
    usual = {"layers": (1,), "keeps": (0.5,), "rankers": ("fastv",), "answer_tokens": 2, "image_tokens": None}
    return CalibrationSettings(**(usual | changes))  # type: ignore[arg-type]


def memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def test_a_long_prompt_takes_what_is_estimated_or_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_tiny_llava(tmp_path / "source", layers=2, max_position_embeddings=2 * TOKENS)
    noise_image(0).save(tmp_path / "image.png")
    measured = measure.load_measure(source, settings())

    def sample(prompt: str) -> Sample:
        return Sample(images=(tmp_path / "image.png",), prompt=prompt, answer=None, where="data.jsonl:1")

    measured(sample("What?"))  # what is allocated once
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    lengths = measured(sample("a " * (TOKENS // 2))).measured
    taken = memory("VmHWM") - before
    length = lengths.text + lengths.visual
    estimate = attention_bytes(HEADS, length, lengths.visual, settings())
    assert 0.6 * estimate < taken < 1.3 * estimate

    monkeypatch.setattr(measure, "available_memory", lambda: estimate - 1)
    with pytest.raises(
        UserError, match=rf"data.jsonl:1: the prompt has {length:,} tokens, and measuring it takes about"
    ):
        measured(sample("a " * (TOKENS // 2)))
    measured(sample("What?"))


def test_rankers_that_are_measured_together_and_scores_taken_twice_count() -> None:
    one = attention_bytes(HEADS, 1000, 0, settings())
    assert attention_bytes(2 * HEADS, 1000, 0, settings()) == 2 * one
    assert attention_bytes(HEADS, 2000, 0, settings()) == pytest.approx(4 * one, rel=0.01)
    assert attention_bytes(HEADS, 1000, 0, settings(rankers=("fastv", "uniform"))) == pytest.approx(2 * one, rel=0.01)
    pruned = attention_bytes(HEADS, 1000, 1000, settings())
    assert pruned < one
    # Half the rows each, and an answer's: less than the unpruned model on all of them, or hardly more.
    two = attention_bytes(HEADS, 1000, 1000, settings(rankers=("fastv", "uniform")))
    assert two == pruned
    assert attention_bytes(HEADS, 1000, 1000, settings(rankers=("pre-rope",))) == 2 * pruned
