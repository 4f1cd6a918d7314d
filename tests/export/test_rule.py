"""The rule of thumb for the cut of a model of which nothing is known, and that an export says that it is one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastv_export.api import PLACE_NOTE
from fastv_export.cli import main as fastv_export
from fastv_export.plan import CutOption, Options, make_plan, plan_lines
from tests.runtime.test_build_profiles import DECODER, FIXED


@pytest.mark.parametrize(("layers", "layer"), [(2, 1), (3, 1), (6, 1), (24, 4), (30, 5), (32, 5), (40, 7)])
def test_a_sixth_of_the_layers_see_all_visual_tokens(layers: int, layer: int) -> None:
    decoder = DECODER.model_copy(update={"num_hidden_layers": layers})
    (cut,) = make_plan(Options(), decoder, FIXED, None).cuts
    assert (cut.layer, cut.keep) == (layer, 0.4)
    (shared,) = make_plan(Options(share=0.9), decoder, FIXED, None).cuts
    assert (shared.layer, shared.keep) == (layer, 0.5)


@pytest.mark.parametrize(("flags", "said"), [([], True), (["--keep", "0.5"], True), (["--layer", "2"], False)])
def test_an_export_says_that_it_is_a_rule_of_thumb(
    flags: list[str], said: bool, tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fastv_export([str(tiny_llava), "-o", str(tmp_path / "out.fastv"), "--no-verify", "--json", *flags])
    printed = capsys.readouterr()
    assert (PLACE_NOTE in " ".join(printed.err.split())) == said
    layers = json.loads((tiny_llava / "config.json").read_text())["text_config"]["num_hidden_layers"]
    (cut,) = json.loads(printed.out)["plan"]["cuts"]
    assert cut["layer"] == (max(1, round(layers / 6)) if said else 2)
    assert cut["keep"] == (0.5 if "--keep" in flags else 0.4)


def test_a_cut_that_drops_nothing_is_said() -> None:
    cuts = (CutOption(1, 1), CutOption(2, 0.5), CutOption(3, 0.499))
    plan = make_plan(Options(cuts=cuts), DECODER, FIXED, None)
    notes = [line for line in plan_lines(plan, "ort", FIXED) if line.startswith("note")]
    assert [line.split(" drops none of the ")[1].split()[0] for line in notes] == [str(FIXED.tokens), "72"]
    assert "the cut at layer 1 " in notes[0] and "the cut at layer 3 " in notes[1]
