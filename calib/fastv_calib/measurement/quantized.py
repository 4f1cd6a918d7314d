"""A loaded model whose products compute as a bundle of few bits does on ONNX Runtime's CPU provider.

Weights are rounded as an export rounds them, once, and kept in a byte each. Activations are rounded as the kernels do,
to a byte around zero: beside weights with one scale an output every row in a range of its own
(`passes.dynamic_int8`), beside weights in blocks block by block (MatMulNBits). The embedding table is of fp16.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import nn

from fastv_calib.measurement.scaled import groups, with_scales
from fastv_export import hf
from fastv_export.families import Family
from fastv_export.quantization.activations import Activation
from fastv_export.quantization.rules import method_of, quantization_of
from fastv_export.quantization.scaling import Scale
from fastv_export.quantization.weights import Quantization, QuantizedRows
from fastv_runtime.config.cost import BYTES
from fastv_runtime.config.cuts import Cut
from fastv_runtime.config.plan import Plan, Precision, Weights

TABLE = torch.float16
"""Of the embedding table beside weights of few bits."""


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer, and where it is: of the decoder's layer, or the head, or else of the graph `vision`."""

    module: nn.Linear
    name: str
    layer: int | None = None


class QuantizedModel:
    """One loaded model in any number of roundings."""

    def __init__(self, model: Any, family: Family, activations: Mapping[str, Activation]):
        """activations: what products of the decoder are given, which scales go by; others are rounded as they are.

        Those of an export's own text (`text_activations`): an export with the calibration knows more, and is no worse.
        """
        self._decoder = family.decoder(model)
        self._products = products(model, family)
        self._activations = activations
        self._kept: dict[tuple[nn.Linear, tuple[Quantization, ...]], tuple[QuantizedRows, Scale | None]] = {}

    @contextmanager
    def __call__(self, weights: Weights, cuts: Sequence[int]) -> Iterator[None]:
        """Within this context the model's products have weights of few bits.

        cuts: K of each, which make the decoder's graphs; none of the unsplit decoder.
        """
        patched = []
        for group in self._groups():
            found = [(each, rounding_in(each, weights, cuts, len(hf.layers_of(self._decoder)))) for each in group]
            members = {product: rounding for product, rounding in found if rounding is not None}
            self._round(members, weights)
            for product, rounding in members.items():
                product.module.forward = self._forward(product.module, rounding, tuple(members.values()))  # type: ignore[method-assign]
                patched.append(product.module)
        table = hf.embeddings_of(self._decoder).register_forward_hook(lambda _, args, rows: rows.to(TABLE).float())
        try:
            yield
        finally:
            table.remove()
            for module in patched:
                del module.forward

    def _groups(self) -> Iterator[list[LinearLayer]]:
        """Products that share their input; those of which it is not known what they are given stand alone."""
        of_layer: dict[int | None, dict[str, LinearLayer]] = {}
        for product in self._products:
            of_layer.setdefault(product.layer, {})[_in_layer(product)] = product
        for layer, members in of_layer.items():
            prefix = f"layers.{layer}."
            known = {
                name.removeprefix(prefix): each for name, each in self._activations.items() if name.startswith(prefix)
            }
            grouped = {} if layer is None else groups(list(members), known)
            for names in grouped.values():
                yield [members.pop(name) for name in names]
            yield from ([product] for product in members.values())

    def _round(self, members: dict[LinearLayer, Quantization], weights: Weights) -> None:
        key = tuple(members.values())
        missing = {_in_layer(each): each for each in members if (each.module, key) not in self._kept}
        if not missing:
            return
        roundings = {_in_layer(each): rounding for each, rounding in members.items()}
        first = next(iter(members))
        activation = self._activations.get(f"layers.{first.layer}.{_in_layer(first)}")
        if activation is not None:
            matrices = {_in_layer(each): each.module.weight.detach() for each in members}
            method = method_of(plan_of(weights, ()), weights, "ort")
            roundings = with_scales(roundings, matrices, activation, method, self._decoder.config)
        for name, each in missing.items():
            made = roundings[name].quantize(each.module.weight.detach(), torch.float32)
            self._kept[each.module, key] = made, roundings[name].inputs

    def _forward(self, module: nn.Linear, rounding: Quantization, group: tuple[Quantization, ...]) -> Any:
        def forward(rows: torch.Tensor) -> torch.Tensor:
            made, scale = self._kept[module, group]
            weight = made.dequantized()
            rows = rows if scale is None else rows / scale
            rows = _by_row(rows) if rounding.block is None else _in_blocks(rows, rounding.block)
            return F.linear(rows, weight, module.bias)

        return forward


def products(model: Any, family: Family) -> list[LinearLayer]:
    """The linear layers of a model, by the names that its graphs' weights have."""
    head, layers = family.head(model), hf.layers_of(family.decoder(model))
    found = [LinearLayer(head, "head.weight")] if isinstance(head, nn.Linear) else []
    found += [
        LinearLayer(module, f"{name}.weight", index)
        for index, layer in enumerate(layers)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    ]
    known = {id(product.module) for product in found}
    return found + [
        LinearLayer(module, f"{name}.weight")
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) not in known
    ]


def weight_bytes(model: Any, family: Family, weights: Weights, cuts: Sequence[int], precision: Precision) -> int:
    """Bytes of a bundle's weights of few bits, of its table, and of the rest in `precision`."""
    layers = len(hf.layers_of(family.decoder(model)))
    table = hf.embeddings_of(family.decoder(model)).weight
    rounded, total = {id(table)}, table.numel() * TABLE.itemsize
    for product in products(model, family):
        rounding = rounding_in(product, weights, cuts, layers)
        weight = product.module.weight
        if rounding is not None:
            rounded.add(id(weight))
            blocks = weight.shape[0] * (1 if rounding.block is None else weight.shape[1] // rounding.block)
            total += weight.numel() * rounding.bits // 8 + blocks * BYTES[precision]
            total += blocks // 2 if rounding.zero_points else 0
    rest = {id(each): prod(each.shape) for each in model.parameters() if id(each) not in rounded}
    return int(total + sum(rest.values()) * BYTES[precision])


def rounding_in(product: LinearLayer, weights: Weights, cuts: Sequence[int], layers: int) -> Quantization | None:
    """Of a product's weight in the bundle of a plan for ONNX Runtime."""
    plan = plan_of(weights, cuts)
    graph, name = "vision", product.name
    if product.name == "head.weight":
        graph = plan.decoder_graphs[-1]
    elif product.layer is not None:
        graph = plan.graph_of(product.layer, attention="attn" in product.name)
        name = f"layers.{product.layer - plan.first_layer(graph)}.{product.name}"
    outputs, inputs = product.module.weight.shape
    rounding = quantization_of(graph, plan, "ort", layers=layers, width=inputs)(name)
    return rounding if rounding is not None and rounding.fits_shape(inputs, outputs) else None


def plan_of(weights: Weights, cuts: Sequence[int]) -> Plan:
    """A plan for ONNX Runtime, of which only weights and the layers K count here."""
    return Plan(
        cuts=tuple(Cut(layer=layer, keep=1 / (1 + place), ranker="fastv") for place, layer in enumerate(cuts)),
        length="exact",
        precision="float32",
        weights=weights,
        max_text=1,
        max_visual=1,
        max_new_tokens=1,
    )


def _in_layer(product: LinearLayer) -> str:
    return product.name.removesuffix(".weight")


def _by_row(rows: Float[torch.Tensor, "... I"]) -> Float[torch.Tensor, "... I"]:
    """Step by step as the graph has it: where a value falls between two bytes, the last bit decides."""
    size = rows.abs().amax(-1, keepdim=True)
    size = torch.where(size == 0, 1.0, size)
    step = torch.tensor(1 / 127)
    return torch.round(rows / size / step) * step * size


def _in_blocks(rows: Float[torch.Tensor, "... I"], block: int) -> Float[torch.Tensor, "... I"]:
    blocks = rows.unflatten(-1, (-1, block))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    scale = torch.where(scale == 0, 1.0, scale)
    return (torch.round(blocks / scale) * scale).flatten(-2)
