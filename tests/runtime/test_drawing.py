"""The drawing kit that the pages of fastv-bench and fastv-calibrate share."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

import fastv_runtime.report
from fastv_runtime.report.numbers import share_interval, spread
from fastv_runtime.report.svg import Axes, bar, drawing, group, line, mark, share_ticks, text


def test_a_stretched_scale_keeps_its_ends_and_gives_the_upper_end_more_room() -> None:
    linear, stretched = (Axes((0.0, 1.0), (0.6, 1.0), 300, stretched=each) for each in (False, True))
    for y in (0.6, 1.0):
        assert stretched.at(0.5, y) == pytest.approx(linear.at(0.5, y))
    # Half of the distance to the end takes 1 - sqrt(0.5) of the height.
    (_, bottom), (_, middle), (_, top) = (stretched.at(0.5, y) for y in (0.6, 0.8, 1.0))
    assert (bottom - middle) / (bottom - top) == pytest.approx(1 - 0.5**0.5)


def test_labels_stand_outside_the_axes() -> None:
    axes = Axes((0.0, 1.0), (0.0, 1.0), 200, left=60, bottom=50, width=500, gap=10)
    left, bottom = axes.at(0, 0)
    drawn = drawing([axes.rows([0.0], ["nought"]), axes.columns([0.5], ["half"], "title", lines=False)], "", 200, 500)
    root = ElementTree.fromstring(drawn)
    places = {each.text: (float(each.get("x", 0)), float(each.get("y", 0))) for each in root.iter("text")}
    assert places["nought"][0] < left and bottom < places["half"][1] < places["title"][1] < 200
    assert len(list(root.iter("line"))) == 1  # across; none upright
    assert root.get("viewBox") == "0 0 500 200"


@pytest.mark.parametrize("lowest", [0.0, 0.37, 0.955, 1.0])
def test_ticks_of_shares_reach_down_to_the_lowest(lowest: float) -> None:
    found = share_ticks(lowest)
    assert found[0] <= lowest and found[-1] == 1 and len(found) > 1


def test_marks_explain_themselves_and_cannot_write_into_the_page() -> None:
    said = "<b> & more"
    parts = [bar(0, 0, 1, 1, "a", said), line((0, 0), (1, 1), "a", said), text(0, 0, said)]
    root = ElementTree.fromstring(group([*parts, mark(3, 5, 5, 2)], "plan", said, plan='"'))
    # The page's script reads the first title of a group.
    assert (root[0].tag, root[0].text) == ("title", said)
    assert [each.text for each in root.iter("title")] == [said] * 3
    assert root.get("data-plan") == '"'


def test_four_shapes_then_again() -> None:
    shapes = [mark(index, 5, 5, 2) for index in range(5)]
    assert len(set(shapes[:4])) == 4 and shapes[4] == shapes[0]


def test_numbers_are_as_precise_as_their_middle() -> None:
    assert spread(5.024, 4.7, 12.34) == "5.02 (4.70–12.34)"
    assert spread(1041.4, 999.6, 1200) == "1,041 (1,000–1,200)"
    assert share_interval(0.97, 0.9153, 0.99) == "97.0% (91.5–99.0)"


def test_the_kit_knows_nothing_of_who_draws() -> None:
    for file in Path(fastv_runtime.report.__file__).parent.glob("*.py"):
        assert "bench" not in file.read_text().split('"""', 2)[2], file
