"""What the report shows of single samples: which ones, which places are kept, and how that is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fastv_calib.measurement.outcomes import Measured, PlanOutcome
from fastv_calib.report.evidence import CHANGED, COMMON_GRID, EXAMPLES, PANELS, Evidence, Panel, gather
from fastv_calib.report.images import SIDE, data_uri, kept_image
from fastv_calib.samples.data import Sample
from fastv_calib.samples.masks import packed, unpacked
from fastv_export.calibration import Calibration, CalibrationSettings, ChosenPlan, Lengths, Objectives
from fastv_runtime.preprocessing import View
from tests.calib.test_choose import hits, plan

MASK = np.array([[1, 0, 0], [1, 1, 0]], bool)
VIEW = View(Image.new("RGB", (30, 20), "red"), np.array([[0, 1, -1], [2, 3, 4]]))


@given(st.integers(1, 5).flatmap(lambda plans: st.integers(1, 40).map(lambda visual: (plans, visual))), st.integers(0))
def test_masks_survive(shape: tuple[int, int], seed: int) -> None:
    mask = np.random.default_rng(seed % 2**32).random(shape) < 0.3
    assert (unpacked(packed(mask), *shape) == mask).all()


def measured(kl: float, said: str | None = None, answer: str = "red", correct: bool | None = True) -> Measured:
    """Of one plan by `fastv`, which keeps tokens 0, 2 and 3, and of one by `random`, which keeps 1 and 4."""
    other = PlanOutcome(first=True, match=True, kl=0)
    return Measured(
        key="",
        text=7,
        visual=5,
        answer=answer,
        correct=correct,
        attention=(0.5,),
        outcomes=(PlanOutcome(first=said is None, match=said is None, kl=kl, said=said), other),
        kept=packed(np.array([[1, 0, 1, 1, 0], [0, 1, 0, 0, 1]], bool)),
    )


def evidence(taken: list[Measured], *, views: list[View] | None = None, chosen: bool = True) -> Evidence:
    fastv = plan(0.5, hits(1, 1), layer=2)
    random = fastv.model_copy(update={"point": fastv.point.ranked_by("random")})
    choice = ChosenPlan(
        cuts=fastv.point.cuts,
        length="exact",
        max_text=16,
        image_tokens=None,
        fixed_lengths=(20,),
        precision="fp32",
    )
    calibration = Calibration(
        schema_version=1,
        family="llava",
        source={},
        settings=CalibrationSettings(
            layers=(2,), keeps=(0.5,), rankers=("fastv", "random"), answer_tokens=1, image_tokens=None
        ),
        objectives=Objectives(min_agreement=0.9, max_memory=None, precision="float32", max_new_tokens=1),
        samples=len(taken),
        answers=0,
        lengths=Lengths(text_p50=7, text_p95=7, text_max=7, visual_max=5),
        attention=(0.5,),
        activations="",
        plans=(fastv, random),
        pareto=(0,),
        chosen=choice if chosen else None,
        warnings=(),
    )
    samples = [Sample((Path("a.png"),), f"Question {number}?", "red", "") for number in range(len(taken))]
    done: list[int] = []
    found = gather(calibration, samples, taken, lambda _: views or [VIEW], lambda: done.append(1))
    assert len(done) == len(taken)
    return found


def test_changed_examples_come_first() -> None:
    # Every answer is another, so that variety does not decide.
    taken = [measured(0.1 * n, answer=f"a{n}") for n in range(5)]
    taken += [measured(0.1 * n, said="blue …", answer=f"b{n}") for n in range(6)]
    taken.append(measured(9, answer="wrong", correct=False))
    shown = evidence(taken).examples
    assert [each.changed for each in shown] == [True] * CHANGED + [False] * (EXAMPLES - CHANGED)
    assert [each.unpruned for each in shown] == ["b5", "b4", "b3", "b2", "a4", "a3"]
    assert {each.pruned for each in shown[:CHANGED]} == {"blue …"} and shown[-1].pruned == "a3"
    assert [(each.kept, each.visual, each.known) for each in shown] == [(3, 5, "red")] * EXAMPLES
    # Where few are alike, more of the others are shown; an answer that was not shown goes before one that was.
    assert [each.changed for each in evidence(taken[5:11]).examples] == [True] * EXAMPLES
    twice = [measured(3, answer="x"), measured(2, answer="x"), measured(1, answer="y")]
    assert [each.unpruned for each in evidence(twice).examples] == ["x", "y", "x"]


def test_places_follow_the_views() -> None:
    found = evidence([measured(0)], chosen=False)
    assert found.plan.point.ranker == "fastv"  # the best that may be chosen
    assert found.own_grid
    np.testing.assert_array_equal(found.heat["fastv"], [[1, 0, np.nan], [1, 1, 0]])
    np.testing.assert_array_equal(found.heat["random"], [[0, 1, np.nan], [0, 0, 1]])
    np.testing.assert_array_equal(found.examples[0].panels[0].kept, MASK)
    assert found.texts == [7]


def test_images_of_several_grids_are_laid_over_each_other() -> None:
    halves = View(VIEW.image, np.array([[0, 1]]))  # the left one is kept
    found = evidence([measured(0)], views=[VIEW, *[halves] * PANELS])
    assert not found.own_grid
    (example,) = found.examples
    assert (len(example.panels), example.left_out) == (PANELS, 1)
    heat = found.heat["fastv"]
    assert heat.shape == (COMMON_GRID, COMMON_GRID)
    assert heat[0, 0] == 1 and heat[0, -1] == 0 and heat[-1, 6] == 1
    assert heat[0, 6] == pytest.approx(PANELS / (PANELS + 1))


def test_a_drawing_veils_what_is_dropped() -> None:
    drawn = kept_image(Panel(VIEW.image, MASK), "<label>")
    assert 'class="veil" d="M1 0h2v1H1zM2 1h1v1H2z"' in drawn
    # Around both rows: above, between, below; left of all, right of each.
    assert 'class="outline" d="M0 0H1M1 1H2M0 2H2M0 0V2M1 0V1M2 1V2"' in drawn
    assert 'viewBox="0 0 3 2"' in drawn and "&lt;label&gt;" in drawn


def test_images_are_scaled_down() -> None:
    import base64
    from io import BytesIO

    uri = data_uri(Image.new("RGB", (3000, 1000)))
    image = Image.open(BytesIO(base64.b64decode(uri.split(",")[1])))
    assert image.format == "JPEG" and image.size == (SIDE, round(SIDE / 3))
