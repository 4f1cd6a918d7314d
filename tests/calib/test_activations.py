"""Statistics of what products are given, against the states that transformers itself returns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fastv_calib.measurement.activations import StatisticsFiles
from fastv_calib.measurement.sweep import Sweep
from fastv_calib.samples.inputs import InputMaker
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.families import FAMILIES
from fastv_export.quantization.activations import read_activations
from fastv_export.quantization.observer import Observer, Statistics
from fastv_export.verify.reference import load_model
from fastv_runtime import UserError
from fastv_runtime.config.bundle import sha256
from tests.conftest import noise_image
from tests.families.row import stock_inputs

QUESTIONS = ("Where is it?", "Where is the red fox?")


def test_statistics_are_those_of_the_stock_models_states(tiny_llava: Path, tmp_path: Path) -> None:
    family = FAMILIES["llava"]
    model = load_model(tiny_llava, family)
    decoder, head = family.decoder(model), family.head(model)
    maker = InputMaker(Checkpoint(tiny_llava), family, model)
    # Scores without rotary embedding run a layer's attention twice, which must count once.
    sweep, observer = Sweep(decoder, head, {2: {"pre-rope"}}), Observer(decoder, head)
    files = StatisticsFiles(tmp_path / "files", "key")
    states: dict[str, list[torch.Tensor]] = {}
    for index, question in enumerate(QUESTIONS):
        image = noise_image(index)
        statistics: Statistics = {}
        with observer.observed(statistics):
            sweep.dense(maker([image], question), frozenset(), 1)
        files.add(str(index), statistics)
        with torch.no_grad():
            output = model.model(**stock_inputs(tiny_llava, [image], question), output_hidden_states=True)
        layer = decoder.layers[1]
        for name, rows in {
            "layers.1.self_attn.q_proj": layer.input_layernorm(output.hidden_states[1])[0],
            "head": output.last_hidden_state[0, -1:],
        }.items():
            states.setdefault(name, []).append(rows)
    sidecar = tmp_path / "all.activations.safetensors"
    digest = files.merge(["0", "1"], sidecar)
    found = read_activations(sidecar, digest)
    assert set(found) == {"head"} | {
        f"layers.{layer}.{name}"
        for layer in range(5)
        for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
    }
    for name, parts in states.items():
        rows, activation = torch.cat(parts), found[name]
        sizes = rows.square().mean(1, keepdim=True).sqrt()
        typical = rows / sizes * sizes.log().mean().exp()
        for actual, expected in (
            (activation.mean, rows.mean(0)),
            (activation.mean_abs, rows.abs().mean(0)),
            (activation.mean_square, rows.square().mean(0)),
            (activation.max_abs, rows.abs().amax(0)),
            (torch.tensor([activation.low, activation.high]), torch.stack(torch.aminmax(rows))),
            (activation.typical_square, typical.square().mean(0)),
        ):
            np.testing.assert_allclose(actual.numpy(), expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    assert found["layers.2.mlp.down_proj"].mean_abs.shape == (128,)

    sidecar.write_bytes(sidecar.read_bytes() + b"\0")
    with pytest.raises(UserError, match="its sha256 differs: run fastv-calibrate again"):
        read_activations(sidecar, digest)
    assert sha256(sidecar) != digest
    with pytest.raises(UserError, match=r"gone.safetensors: missing: fastv-calibrate wrote it beside its output"):
        read_activations(tmp_path / "gone.safetensors", digest)
