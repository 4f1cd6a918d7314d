"""Scales of inputs: what they save on rows, and that a graph with them computes what transformers does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.weights import CheckpointTensor, Scratch
from fastv_export.execution.exact import with_exact_products
from fastv_export.exporting import export_bundle
from fastv_export.graphs import write as graphs_module
from fastv_export.graphs.save import save_graph
from fastv_export.passes import ScaledInputs, quantize_activations, quantize_weights, scale_inputs
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_export.quantization.activations import Activation
from fastv_export.quantization.scaling import Scale, activation_aware, smoothing
from fastv_export.quantization.weights import Quantization
from fastv_runtime.config.bundle import Bundle
from fastv_runtime.config.plan import Weights
from tests.activations import activation_of, tiny_activations
from tests.export.test_rounding import graph_of
from tests.tiny import write_tiny_llava

INPUTS, OUTPUTS, ROWS = 128, 32, 200


def untied(sizes: Scale) -> Scale:
    return sizes


def stored(folder: Path, values: torch.Tensor) -> CheckpointTensor:
    (folder / "config.json").write_text("{}")
    save_file({"stored": values}, folder / "model.safetensors")
    return CheckpointTensor("weight", Checkpoint(folder).tensors["stored"], "float32", Scratch(), transposed=True)


def test_the_chosen_scale_errs_less_on_the_rows_themselves(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(OUTPUTS, INPUTS, generator=generator)
    size = torch.rand(INPUTS, generator=generator) ** 8 * 10 + 0.1
    rows = (torch.randn(ROWS, INPUTS, generator=generator) + 0.5) * size
    rounding, tensor = Quantization(4, 64, importance=rows.square().mean(0)), stored(tmp_path, weights)
    scale = activation_aware([(tensor, rounding)], activation_of(rows), untied)
    assert scale is not None
    np.testing.assert_allclose(float(scale.log().mean()), 0, atol=1e-5)

    def error(scaled: Quantization) -> float:
        return float((rows @ (scaled.rounded(weights, torch.float32) - weights).t()).square().mean())

    assert error(rounding.scaled(scale)) < 0.9 * error(rounding)
    alike = activation_of(torch.full((4, INPUTS), 2.0))
    assert activation_aware([(tensor, rounding)], alike, untied) is None


def test_smoothing_is_smoothquants(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    weights, rows = (torch.randn(count, INPUTS, generator=generator) for count in (OUTPUTS, ROWS))
    weights[:, 5] = 0
    scale = smoothing([(stored(tmp_path, weights), Quantization(8, None))], activation_of(rows), untied)
    expected = (rows.abs().amax(0) / weights.abs().amax(0)).sqrt()
    used = torch.arange(INPUTS) != 5
    ratio = (scale / expected)[used]
    np.testing.assert_allclose(ratio.numpy(), float(ratio[0]), rtol=1e-5)
    assert torch.isfinite(scale).all() and scale.min() >= 1 / 256 and scale.max() <= 256


@pytest.fixture(scope="module")
def biased(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Activation]]:
    """A LLaVA whose products have biases and whose heads are grouped, and some activations."""
    source = write_tiny_llava(
        tmp_path_factory.mktemp("scaling") / "source", layers=3, attention_bias=True, mlp_bias=True
    )
    return source, tiny_activations(3)


def test_a_scaled_graph_computes_what_transformers_does_from_scaled_rounding(
    biased: tuple[Path, dict[str, Activation]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, activations = biased
    found: list[ScaledInputs] = []

    def spy(*arguments: object) -> ScaledInputs:
        found.append(scale_inputs(*arguments))  # type: ignore[arg-type]
        return found[-1]

    monkeypatch.setattr(graphs_module, "scale_inputs", spy)
    options = Options(layer=1, max_new_tokens=8, weights=Weights(bits=8, block=None))
    export_bundle(source, tmp_path / "out.fastv", options, Progress(None), activations)
    bundle = Bundle.open(tmp_path / "out.fastv")
    # The reference divides what it rounds by the scale again, and knows nothing of norms, biases and caches.
    assert bundle.manifest.verified is not None
    assert max(bundle.manifest.verified.values()) < 1e-5
    assert [(each.scaled, each.plain, each.stuck) for each in found] == [(2, 0, 0), (11, 0, 0)]
    assert set(found[1].caches) == {"present_value_1", "present_value_2"}
    assert max(float(each.max()) for each in found[1].caches.values()) > 1.2
    # The suffix begins with the MLP of layer 0.
    folded = {
        *(f"layers.{layer}.mlp.up_proj.bias" for layer in range(3)),
        *(f"layers.{layer}.{part}" for layer in (1, 2) for part in ("input_layernorm.weight", "self_attn.v_proj.bias")),
    }
    model = onnx.load(bundle.path / "onnx" / "suffix.onnx")
    ours = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer if each.name in folded}
    theirs = Checkpoint(source).tensors
    for name, values in ours.items():
        original = next(
            tensor for key, tensor in theirs.items() if key.endswith((f"language_model.{name}", f"model.{name}"))
        )
        assert np.abs(values / original.read() - 1).max() > 0.2
    assert set(ours) == folded


def test_static_products_round_what_they_are_given_and_no_more(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    values, x = (torch.randn(count, INPUTS, generator=generator) for count in (OUTPUTS, 9))
    model = graph_of(tmp_path, values)
    assert quantize_activations(model, {"x": 2.0}) == 0  # weights are not int8 yet
    quantize_weights(model, lambda _: Quantization(8, None))
    assert quantize_activations(model, {"y": 2.0}) == 0
    assert quantize_activations(model, {"x": 2.0}) == 1
    save_graph(model, tmp_path / "graph.onnx")
    onnx.checker.check_model(tmp_path / "graph.onnx", full_check=True)

    def run(graph: onnx.ModelProto) -> np.ndarray:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")  # else it rounds by itself
        session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"x": x.numpy()})[0])

    weights, saved = Quantization(8, None).rounded(values, torch.float32).t(), onnx.load(tmp_path / "graph.onnx")
    step = 2.0 / 127
    rounded = (x / step).round().clamp(-128, 127) * step  # what lies beyond the range is cut off
    np.testing.assert_allclose(run(saved), (rounded @ weights).numpy(), atol=1e-3)
    with_exact_products(saved)
    np.testing.assert_allclose(run(saved), (x @ weights).numpy(), atol=1e-4)
