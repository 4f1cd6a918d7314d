"""Which rankers there are: what is said of them, and which are refused where they cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastv_export import cli
from fastv_export.plan import CutOption, Options, make_plan
from fastv_export.rankers import CONTROLS, RANKERS
from fastv_export.rankers.base import Ranker
from fastv_runtime.config.layouts import FramesVideo
from fastv_runtime.errors import UserError
from tests.runtime.test_build_profiles import DECODER, FIXED

DOCS = Path(__file__).parents[2] / "docs" / "rankers.md"
HEAVY = ("torch", "onnx", "onnx_ir", "transformers")
WIDE = {"COLUMNS": "2000"}
"""Of a terminal, so that argparse breaks no line."""


@pytest.mark.parametrize("ranker", RANKERS.values(), ids=lambda ranker: ranker.name)
def test_the_documentation_says_what_help_says(ranker: Ranker) -> None:
    row = f"| `{ranker.name}` | {ranker.summary} |"
    assert row in DOCS.read_text(encoding="utf-8").splitlines(), f"add to docs/rankers.md: {row}"


def test_help_names_every_ranker_and_needs_neither_torch_nor_onnx() -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({HEAVY})); from {{0}}.cli import main; main(['--help'])"
    for package in ("fastv_export", "fastv_calib"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(package)], capture_output=True, text=True, env=os.environ | WIDE
        )
        assert done.returncode == 0, done.stderr
        for ranker in RANKERS.values():
            assert ranker.name in done.stdout
            assert package != "fastv_export" or f"{ranker.name}: {ranker.summary}" in done.stdout


def test_an_unknown_ranker_is_refused_by_name() -> None:
    options = Options(ranker="best")
    with pytest.raises(UserError, match=r"`ranker` best: no such ranker; known rankers: fastv, random, uniform"):
        make_plan(options, DECODER, FIXED, None)
    with pytest.raises(SystemExit) as failure:
        cli.main(["somewhere", "-o", "out", "--ranker", "best"])
    assert failure.value.code == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"layer": 1, "ranker": "rank-shift"},
            "`ranker` rank-shift: it compares the scores of two layers, and there is one between the decoder's "
            "beginning and the cut at layer 1: leave two or more, or use another ranker",
        ),
        (
            {"cuts": (CutOption(2, 0.5), CutOption(3, 0.2, "rank-shift"))},
            "`ranker` rank-shift: it compares the scores of two layers, and there is one between the cut at layer 2 "
            "and the cut at layer 3: leave two or more, or use another ranker",
        ),
        (
            {"ranker": "frame-change"},
            "`ranker` frame-change: it compares the frames of a video, and this model takes none: use another ranker",
        ),
        (
            {"layer": 2, "ranker": "rank-shift", "target": "trt", "max_visual": 4000, "keep": 0.1},
            "`ranker` rank-shift: it orders all of the 4128 tokens that may come to the cut at layer 2, and target trt "
            "orders at most 3840: lower `max_visual` or `image_tokens`, or use another ranker",
        ),
    ],
)
def test_a_ranker_that_cannot_be_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        make_plan(Options(**options), DECODER, FIXED, None)
    assert str(refused.value) == message


def test_rankers_that_can_be_are_planned() -> None:
    cuts = (CutOption(1, 0.5, "knorm"), CutOption(3, 0.2, "rank-shift"))
    assert [cut.signals for cut in make_plan(Options(cuts=cuts), DECODER, FIXED, None).cuts] == [
        ("key_norms",),
        ("scores", "earlier_scores"),
    ]
    video = FramesVideo(graph="vision", frames=4, image=FIXED, tokens_per_frame=FIXED.tokens)
    (cut,) = make_plan(Options(ranker="frame-change"), DECODER, FIXED, video).cuts
    assert cut.signals == ("scores", "change")


def test_controls_know_nothing() -> None:
    assert CONTROLS == ("random", "uniform")
