"""Plans that a target cannot run are refused before anything is traced."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastv_export.api import _unsplit
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.cli import TARGETS, main
from fastv_export.families import FAMILIES
from fastv_export.fastest import AUTO_TARGET
from fastv_export.plan import Options, decoder_dimensions, make_plan, position_note
from fastv_export.quantization.presets import FEW_BITS, FLOATING
from fastv_export.targets import TARGETS as DIALECTS
from fastv_runtime import UserError
from fastv_runtime.config.lengths import capacity
from fastv_runtime.config.plan import Plan, Weights


def test_the_command_offers_every_target() -> None:
    assert [*DIALECTS, AUTO_TARGET] == list(
        TARGETS
    )  # the command keeps names of its own, so that --help needs no torch


@pytest.mark.parametrize("target", ["trt", "trt-rtx", "trt-legacy"])
def test_more_tokens_than_tensorrt_picks_are_refused(tiny_llava: Path, target: str) -> None:
    most = {"keep": 0.5, "max_text": 128, "max_visual": 7424, "target": target}
    assert capacity(_plan(tiny_llava, Options(**most))).pruned == 3840
    with pytest.raises(
        UserError,
        match=rf"`max_text` 129, 7424 visual tokens and `keep` 0\.5 leave 3841 tokens and target {target} picks "
        "at most 3840: lower `max_visual`, `image_tokens` or `keep`",
    ):
        _plan(tiny_llava, Options(**{**most, "max_text": 129}))


def test_nothing_is_picked_elsewhere(tiny_llava: Path) -> None:
    for options in (Options(keep=0.5, max_visual=9000), Options(max_visual=9000, prune=False, target="trt")):
        assert capacity(_plan(tiny_llava, options)).pruned > 3840


def test_weights_in_blocks_are_refused_where_there_is_no_operator(tiny_llava: Path) -> None:
    weights = Weights(bits=4, block=64)
    with pytest.raises(UserError, match="`precision` int4: target trt-legacy has no weights in blocks: use"):
        _plan(tiny_llava, Options(target="trt-legacy", weights=weights))
    with pytest.raises(UserError, match="int8 `block` 64: TensorRT builds no such weights: leave `block` out"):
        _plan(tiny_llava, Options(target="trt", weights=Weights(bits=8, block=64)))
    assert _plan(tiny_llava, Options(target="trt", weights=weights)).weights == weights
    for target in ("trt", "trt-legacy"):
        assert _plan(tiny_llava, Options(target=target, weights=Weights(bits=8, block=None))).weights is not None


def test_steps_of_fixed_lengths_fit_the_text(tiny_llava: Path) -> None:
    assert _plan(tiny_llava, Options(length="fixed")).text_step == 32
    assert _plan(tiny_llava, Options(max_text=20)).text_step == 20
    assert _plan(tiny_llava, Options(length="fixed", max_text=20, text_step=20)).text_step == 20
    for step in (0, -1, 129):
        with pytest.raises(UserError, match=rf"`text_step` {step}: must be 1 to 128"):
            _plan(tiny_llava, Options(length="fixed", text_step=step))
    for options in (Options(text_step=16), Options(prune=False, length="fixed", text_step=16)):
        with pytest.raises(UserError, match="`text_step` 16: steps are of fixed pruned lengths: add `length` fixed"):
            _plan(tiny_llava, options)


def _plan(source: Path, options: Options) -> Plan:
    family = FAMILIES["llava"]
    config = family.config(Checkpoint(source))
    return make_plan(options, decoder_dimensions(config, family), family.vision(config, None), None)


def test_blocks_that_do_not_fit_are_refused(tiny_llava: Path) -> None:
    with pytest.raises(UserError, match="linear layers have 64 inputs, which are no whole blocks of 128"):
        _plan(tiny_llava, Options(weights=Weights(bits=4, block=128)))


@pytest.mark.parametrize(
    "options, message",
    [
        (["--precision", "int8", "--int8-parts", "vision"], "--int8-parts: they keep 8 bits where others have 4: add"),
        (["--int8-parts", "vision"], "--int8-parts: they keep 8 bits where others have 4: add --precision int4"),
        (
            ["--precision", "int4", "--no-prune", "--int8-parts", "prefix"],
            "--int8-parts prefix: an unpruned decoder has none",
        ),
    ],
)
def test_parts_that_mean_nothing_are_refused(
    options: list[str], message: str, tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as failure:
        main([str(tiny_llava), "-o", str(tmp_path / "out.fastv"), *options])
    assert failure.value.code == 2
    assert message in capsys.readouterr().err


def test_without_a_prefix_the_first_layer_keeps_its_bits() -> None:
    assert _unsplit(FEW_BITS["int4"], None).wide == ("vision", "first", "values", "head")
    assert _unsplit(FLOATING["nvfp4"], None).wide == ("first", "attention", "head")


def test_a_plan_beyond_the_trained_positions_is_said(tiny_llava: Path) -> None:
    plan = _plan(tiny_llava, Options(max_text=100, max_new_tokens=28))
    longest = 100 + plan.max_visual + 28
    assert position_note(plan, None) is None and position_note(plan, longest) is None
    note = position_note(plan, longest - 1)
    assert note is not None and f"take {longest} positions" in note and f"max_position_embeddings {longest - 1}" in note
