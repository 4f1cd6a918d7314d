"""The page: whole, self-contained, and true to the report."""

from __future__ import annotations

from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from fastv_runtime.bench.models import Report
from fastv_runtime.bench.output.bars import stage_bars
from fastv_runtime.bench.output.curves import keep_plot, ratio_plot
from fastv_runtime.bench.output.page import best, markdown, page
from fastv_runtime.config.lengths import with_keep
from fastv_runtime.report.svg import ticks
from tests.runtime.bench.runners import DENSE, KEPT, PRUNED, QUIET, TEXT, WORKLOAD, report_of, turn


@pytest.fixture(scope="module")
def report() -> Report:
    return report_of(
        {
            "dense": [turn()] * 5,
            "keep50": [turn(60, pruned=TEXT + KEPT)] * 5,
            "keep25": [turn(45, pruned=TEXT + KEPT // 2)] * 5,
        },
        plans={"dense": DENSE, "keep50": PRUNED, "keep25": with_keep(PRUNED, 0.25)},
    )


class Elements(HTMLParser):
    """What a page is made of; `left`: elements that were opened and not closed."""

    VOID = ("meta", "br", "link", "img", "input", "hr")

    def __init__(self, text: str):
        super().__init__()
        self.left: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.links += [f"{name}={value}" for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.left.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.left.pop() == tag


def test_the_page_loads_nothing_and_is_well_formed(report: Report) -> None:
    text = page(report)
    elements = Elements(text)
    assert elements.left == [] and elements.links == []
    assert "http" not in text and "@import" not in text and "url(" not in text
    for words in ("1.81× as fast to the first token", "bundle.json 0000", report.command, "a board", "MAXN_SUPER"):
        assert words in text, words


def test_drawings_are_xml_and_say_their_figures(report: Report) -> None:
    plot, gains = keep_plot(report), ratio_plot(report, "ttft")
    assert plot is not None and gains is not None
    for drawing, words in (
        (plot, "keep50, 576"),
        (gains, "1.81×"),
        (stage_bars(report, WORKLOAD.name), "vision: 20.0"),
    ):
        assert words in "".join(ElementTree.fromstring(drawing).itertext())
    assert ratio_plot(report, "joules") is None


def test_the_best_gain_is_one_that_repeats_can_tell(report: Report) -> None:
    found = best(report)
    assert found is not None and (found.runner, found.quantity) == ("keep25", "ttft")
    unsure = report_of({"dense": [turn(100), turn(100)], "pruned": [turn(50), turn(110)]})
    assert best(unsure) is None
    assert "No gain that these repeats can tell" in page(unsure)


def test_a_report_without_a_baseline_has_a_page() -> None:
    alone = report_of({"pruned": [turn()]}, complete=False)
    text = page(alone)
    assert "Interrupted." in text and "What pruning gains" not in text


def test_names_cannot_write_into_the_page() -> None:
    text = page(report_of({"<b>dense</b>": [turn()]}, plans={"<b>dense</b>": DENSE}))
    assert "<b>dense" not in text and "&lt;b&gt;dense" in text


def test_a_noisy_machine_is_called_noisy_on_the_page() -> None:
    busy = QUIET.model_copy(update={"load_of_others": 0.4})
    assert "This machine was noisy." in page(report_of({"dense": [turn()]}, conditions=busy))


def test_the_table_can_be_pasted(report: Report) -> None:
    header, rule, *rows = markdown(report).splitlines()
    assert header.count("|") == rule.count("|") == rows[0].count("|")
    assert len(rows) == 3 and "| 576 visual tokens | keep50 |" in rows[1]


@pytest.mark.parametrize(("low", "high"), [(0, 1041), (0.93, 1.71), (0, 3e-3), (5, 5)])
def test_ticks_are_round_and_span_what_they_should(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low and found[-1] >= high - 1e-9
    assert len(found) <= 7
