"""Calibration of decoders that are not Llama: right where they are exported, refused before hours of work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastv_calib.calibrator import Calibrator
from fastv_calib.measurement.sweep import Sweep
from fastv_calib.samples.inputs import InputMaker
from fastv_calib.settings import Asked
from fastv_export.calibration import Objectives
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.families import FAMILIES
from fastv_export.points import PointCut
from fastv_export.verify.reference import load_model
from fastv_runtime.errors import UserError
from tests.cases.decoders import EXPORTED, config
from tests.cases.llava import llava_config, write_llava
from tests.conftest import noise_image

ASKED = Asked(layers=(2,), keeps=(0.5,), rankers=("fastv",), answer_tokens=4)
OBJECTIVES = Objectives(min_agreement=0.9, max_memory=None, precision="float32", max_new_tokens=8)


@pytest.mark.parametrize("what", [what for what in EXPORTED if "embeddings scaled" in what])
def test_layers_that_run_by_hand_are_given_what_the_decoder_gives_them(tmp_path: Path, what: str) -> None:
    name, options = EXPORTED[what]
    checkpoint = Checkpoint(write_llava(tmp_path / "source", config(name), options=options))
    family = FAMILIES["llava"]
    model = load_model(checkpoint.path, family)
    inputs = InputMaker(checkpoint, family, model)([noise_image(0)], "Where is the red circle?")
    sweep = Sweep(family.decoder(model), family.head(model), {2: {"fastv"}})
    dense = sweep.dense(inputs, frozenset(), 4)
    begun = sweep.begun(inputs, dense.tokens)
    (whole,) = sweep.chains(begun, [()])
    torch.testing.assert_close(whole.logits, dense.logits, atol=1e-4 * float(dense.logits.abs().max()), rtol=0)
    # What comes to a cut is what the decoder's own forward showed there.
    plan = (PointCut(layer=2, keep=0.5, ranker="fastv"),)
    (ours,), (theirs,) = sweep.chains(begun, [plan]), sweep.chains(dense, [plan])
    assert torch.equal(ours.rows, theirs.rows)
    torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-4 * float(theirs.logits.abs().max()), rtol=0)


def test_what_cannot_be_exported_is_not_measured(tmp_path: Path) -> None:
    llava_config(config("Gemma2Config"), options={"head_dim": 8}).save_pretrained(tmp_path / "source")
    with pytest.raises(UserError, match="decoder 'gemma2' has pre_feedforward_layernorm"):
        Calibrator(tmp_path / "source", ASKED, OBJECTIVES)
