"""What a text of the exporter's own gives to products, against transformers' own states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.processor_files import copy_processor
from fastv_export.checkpoint.streamed import stream_model
from fastv_export.exporting import export_bundle
from fastv_export.families import FAMILIES
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_export.quantization.text_activations import TEXT, text_activations
from fastv_export.verify.reference import load_model
from fastv_runtime.config.bundle import Tokens
from fastv_runtime.config.plan import Weights
from fastv_runtime.generation.prompts.prompt import PromptBuilder
from fastv_runtime.hf import load_tokenizer


@torch.no_grad()
def test_activations_are_those_of_the_text_as_a_prompt(tiny_llava: Path, tmp_path: Path) -> None:
    family = FAMILIES["llava"]
    copy_processor(tiny_llava, tmp_path / "processor")
    tokens = Tokens(image=3, stop=(1,))
    found = text_activations(
        stream_model(Checkpoint(tiny_llava), family), family, PromptBuilder(tmp_path / "processor", tokens), 200
    )
    model = load_model(tiny_llava, family)
    ids = load_tokenizer(tmp_path / "processor")("<s>USER: " + TEXT, add_special_tokens=False)["input_ids"][:200]
    layers = model.model.language_model.layers
    states = model.model.language_model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    for index in (0, 3):
        sizes = layers[index].input_layernorm(states[index])[0].abs().amax(0)
        given = found[f"layers.{index}.self_attn.q_proj"]
        # What the text leaves small an image may not.
        expected = sizes.clamp_min(float(sizes.median()))
        np.testing.assert_allclose(given.max_abs.numpy(), expected.numpy(), rtol=1e-4)
    assert set(found) == {
        f"layers.{index}.{name}"
        for index in range(5)
        for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
    }


def test_int8_products_are_scaled_by_it_and_no_others(tiny_llava: Path, tmp_path: Path) -> None:
    def noted(weights: Weights, name: str) -> list[str]:
        notes: list[str] = []
        progress = Progress(None)
        progress.note = notes.append  # type: ignore[method-assign]
        options = Options(max_new_tokens=8, weights=weights, verify=False)
        export_bundle(tiny_llava, tmp_path / name, options, progress)
        return [each for each in notes if "scales" in each]

    # Five layers with four inputs each.
    (note,) = noted(Weights(bits=8, block=None), "int8")
    assert note.startswith(
        "scales by a text of the exporter's own: 20 inputs of linear layers; 0 are as well off without"
    )
    assert noted(Weights(bits=8, block=32), "blocks") == []
