"""Products of few bits as the sweep computes them, against ONNX Runtime's own kernels."""

from __future__ import annotations

from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from fastv_calib.measurement.quantized import QuantizedModel, products, rounding_in
from fastv_export.families import FAMILIES
from fastv_export.quantization.activations import Activation
from fastv_export.quantization.presets import FEW_BITS
from fastv_export.quantization.text_activations import text_activations
from fastv_export.quantization.weights import Quantization
from fastv_export.verify.reference import load_model
from fastv_runtime import Pipeline
from tests.conftest import MakeBundle


def kernel(weight: torch.Tensor, rounding: Quantization, rows: torch.Tensor) -> torch.Tensor:
    """One product as an `ort` graph has it: `lower_to_dynamic_int8` beside one scale an output, else MatMulNBits."""
    made = rounding.quantize(weight, torch.float32)
    values, scales = made.values.numpy(), made.scales.numpy()
    if rounding.block is None:
        nodes = [
            helper.make_node("Abs", ["x"], ["a"]),
            helper.make_node("ReduceMax", ["a", "last"], ["m"]),
            helper.make_node("Div", ["x", "m"], ["d"]),
            helper.make_node("QuantizeLinear", ["d", "s", "z"], ["q"]),
            helper.make_node("MatMulIntegerToFloat", ["q", "w", "s", "ws", "z"], ["p"], domain="com.microsoft"),
            helper.make_node("Mul", ["p", "m"], ["y"]),
        ]
        arrays = {
            "w": values.T.copy(),
            "ws": scales[:, 0],
            "last": np.array([-1]),
            "s": np.float32(1 / 127),
            "z": np.uint8(128),
        }
        initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    else:
        nodes = [
            helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["d"], axis=0, block_size=rounding.block),
            helper.make_node("MatMul", ["x", "d"], ["y"]),
        ]
        kind = TensorProto.INT4 if rounding.bits == 4 else TensorProto.INT8
        zeros = np.zeros(scales.shape, np.int8) if made.zeros is None else made.zeros.numpy()
        initializers = [
            helper.make_tensor(name, kind, array.T.shape, array.T.reshape(-1).tolist())
            for name, array in (("w", values), ("wz", zeros))
        ]
        initializers.append(numpy_helper.from_array(scales.T.copy(), "ws"))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rows.dim()) for name in "xy"]
    graph = helper.make_graph(nodes, "product", ends[:1], ends[1:], initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": rows.numpy()})[0])


@pytest.fixture(scope="module")
def model(tiny_llava: Path) -> nn.Module:
    return load_model(tiny_llava, FAMILIES["llava"])


@pytest.mark.parametrize("name", FEW_BITS)
@torch.no_grad()
def test_products_are_those_of_the_kernels(name: str, model: nn.Module) -> None:
    weights, layer, generator = FEW_BITS[name], 2, torch.Generator().manual_seed(0)
    few = Quantization(weights.bits, weights.block, zero_points=weights.bits == 4)
    eight = Quantization(8, weights.block)
    decoder: Any = model.model.language_model  # type: ignore[union-attr]
    projector: Any = model.model.multi_modal_projector  # type: ignore[union-attr]
    linear = {
        few: decoder.layers[layer].mlp.down_proj,
        eight: decoder.layers[layer - 1].self_attn.k_proj,
    }
    rounded = QuantizedModel(model, FAMILIES["llava"], {})
    for rounding, module in linear.items():
        plain = module.weight.detach()
        rows = torch.randn(2, 9, module.in_features, generator=generator)
        rows[0, 0] *= 1000
        rows[1, 1] = 0
        with rounded(weights, (layer,)):
            found = module(rows)
        for ours, theirs in zip(found.flatten(0, 1), kernel(plain, rounding, rows).flatten(0, 1), strict=True):
            close(ours, theirs)
        assert torch.equal(module(rows), nn.functional.linear(rows, plain))
    rows = torch.randn(1, 4, model.lm_head.in_features, generator=generator)  # type: ignore[union-attr]
    with rounded(weights, (layer,)):
        said = model.lm_head(rows)  # type: ignore[operator]
        table = decoder.embed_tokens(torch.arange(9))
    head: Any = model.lm_head
    # One row is multiplied faster in blocks.
    blocks = Quantization(8, weights.block or gcd(head.in_features, 128))
    close(said, torch.cat([kernel(head.weight.detach(), blocks, row) for row in rows.split(1, 1)], 1))
    assert torch.equal(table, decoder.embed_tokens.weight[:9].half().float())
    pixels = torch.randn(1, 5, projector.linear_2.in_features, generator=generator)
    with rounded(weights, ()):
        features = projector.linear_2(pixels)
    close(features - projector.linear_2.bias, kernel(projector.linear_2.weight.detach(), eight, pixels))


def test_parts_of_a_bundle_have_their_bits(model: nn.Module) -> None:
    """As graphs have them: in int4 eight bits in tower, prefix, values and head; none without whole blocks."""
    family = FAMILIES["llava"]
    weights = FEW_BITS["int4"]
    for layer in (None, 1, 3):
        for product in products(model, family):
            inputs, outputs = product.module.in_features, product.module.out_features
            attends = product.name.startswith("self_attn")  # a prefix ends with the attention of layer K-1
            wide = product.layer is None or (layer is not None and product.layer < layer - (not attends))
            bits = 8 if wide or "v_proj" in product.name else 4
            fits = inputs % 32 == 0 and (bits == 8 or outputs % 2 == 0)
            expected = Quantization(bits, 32, zero_points=bits == 4) if fits else None
            assert rounding_in(product, weights, () if layer is None else (layer,), 5) == expected, product.name


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=0, atol=2e-6 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", FEW_BITS)
@torch.no_grad()
def test_a_rounded_model_says_what_its_bundle_does(
    name: str, tiny_llava: Path, make_bundle: MakeBundle, model: nn.Module
) -> None:
    """The bundle through the runtime, unpruned; an export's own text says what products are given."""
    weights, family = FEW_BITS[name], FAMILIES["llava"]
    pipeline = Pipeline.load(make_bundle(tiny_llava, weights=weights, verify=False, keep=1.0, layer=2))
    ids = pipeline._slot.model.prompts.build("w1 w2 w3", []).token_ids
    pipeline.generate([], "w1 w2 w3", max_new_tokens=1, ignore_stop=True)
    wanted = torch.from_numpy(pipeline._slot.decoder.logits.copy())
    activations = text_activations(model, family, pipeline._slot.model.prompts, None)

    def said(known: dict[str, Activation]) -> float:
        with QuantizedModel(model, family, known)(weights, (2,)):
            logits = model(input_ids=torch.from_numpy(ids)[None]).logits[0, -1]  # type: ignore[operator]
        return float((logits - wanted).norm() / wanted.norm())

    # Weights are the same; a state that is halfway between two bytes may fall to either.
    assert said(activations) < 0.02 and said({}) > 0.1
