"""From a torch module to a canonical ONNX graph (opset 24) whose weights are read only when it is saved."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from fastv_export.checkpoint.skeleton import Skeleton
from fastv_export.checkpoint.weights import IR_TYPES, CheckpointTensor
from fastv_export.passes import keep_last_row, tidy
from fastv_export.tracing.parts import DecoderPart, VisionPart
from fastv_runtime.config.base import TensorSpec
from fastv_runtime.config.io_spec import IOSpec
from fastv_runtime.errors import UserError

OPSET = 24
TRACED_ROWS = 7
"""Rows of the traced example: any number that no other dimension is likely to share."""

MAX_FEATURES = 1 << 20
"""Bound that torch.export asks for; no image has as many visual tokens."""


def trace_vision(skeleton: Skeleton, part: VisionPart, io_spec: IOSpec, axes: Mapping[str, int]) -> ir.Model:
    """A vision graph of `part`, named as its io_spec says.

    axes: dynamic axes by symbol; each is this multiple of N, the number of visual tokens, or free of it where it is 0.
    """
    tokens = torch.export.Dim("tokens", min=1, max=MAX_FEATURES)  # sympy takes N for a function of its own
    sizes = {
        symbol: (factor * tokens if factor > 1 else tokens)
        if factor
        else torch.export.Dim(symbol, min=1, max=MAX_FEATURES)
        for symbol, factor in axes.items()
    }
    dynamic = [
        {axis: sizes[symbol] for axis, symbol in enumerate(tensor.shape) if isinstance(symbol, str)}
        for tensor in io_spec[0]
    ]
    lengths = {symbol: factor * TRACED_ROWS or TRACED_ROWS + 4 for symbol, factor in axes.items()}
    return _trace(skeleton, part, io_spec, lambda tensors: (tensors,), (dynamic,), lengths)


def trace_decoder(skeleton: Skeleton, part: DecoderPart, io_spec: IOSpec) -> ir.Model:
    """A graph of decoder layers, its number of rows dynamic."""
    inputs, _ = io_spec
    rows = torch.export.Dim("rows", min=1, max=int(inputs[-1].shape[2]))
    first_past = next(index for index, tensor in enumerate(inputs) if tensor.name.startswith("past_"))
    layers = (len(inputs) - first_past) // 2

    def arrange(tensors: list[torch.Tensor]) -> tuple[Any, ...]:
        past = tensors[first_past:]
        return (*tensors[:3], tensors[3:first_past], [(past[2 * i], past[2 * i + 1]) for i in range(layers)])

    deepstack = [{1: rows}] * (first_past - 3)
    dynamic = ({1: rows}, {len(inputs[1].shape) - 1: rows}, None, deepstack, [(None, None)] * layers)
    symbol = str(inputs[0].shape[1])
    model = _trace(skeleton, part, io_spec, arrange, dynamic, {symbol: TRACED_ROWS})
    if part.head is not None:
        keep_last_row(model)
    return model


def _trace(
    skeleton: Skeleton,
    module: nn.Module,
    io_spec: IOSpec,
    arrange: Callable[[list[torch.Tensor]], tuple[Any, ...]],
    dynamic_shapes: Any,
    lengths: Mapping[str, int],
) -> ir.Model:
    inputs, outputs = io_spec
    weights = skeleton.weights(module)
    with skeleton.fake(), _quiet():
        example = arrange([_example(tensor, lengths) for tensor in inputs])
        model = as_traced(module.eval(), example, dynamic_shapes)
    _check_shapes(model.graph.outputs, outputs)
    _name(model.graph.inputs, inputs)
    _defer_weights(model, weights)
    tidy(model)
    name_outputs(model, outputs)
    return model


def as_traced(module: nn.Module, example: tuple[Any, ...], dynamic_shapes: Any) -> ir.Model:
    """A module as torch's exporter writes it: values of its parameters are fake, names its own."""
    program = torch.export.export(module, example, dynamic_shapes=dynamic_shapes, strict=False)
    exported = torch.onnx.export(program, dynamo=True, opset_version=OPSET, optimize=False, verbose=False)
    assert exported is not None
    return exported.model


def _example(tensor: TensorSpec, lengths: Mapping[str, int]) -> torch.Tensor:
    shape = [lengths[axis] if isinstance(axis, str) else axis for axis in tensor.shape]
    return torch.zeros(shape, dtype=getattr(torch, tensor.dtype))


def _name(values: Any, tensors: tuple[TensorSpec, ...]) -> None:
    """Give graph inputs or outputs the io_spec's names, types and symbolic shapes."""
    assert len(values) == len(tensors), f"{len(values)} values for {len(tensors)} tensors of the io_spec"
    for value, tensor in zip(values, tensors, strict=True):
        value.name = tensor.name
        value.type = ir.TensorType(IR_TYPES[tensor.dtype])
        value.shape = ir.Shape(tensor.shape)


def _check_shapes(values: Any, tensors: tuple[TensorSpec, ...]) -> None:
    """UserError where the model makes something of another shape than its config promises."""
    for value, tensor in zip(values, tensors, strict=True):
        made = list(value.shape or ())
        for axis, promised in zip(made, tensor.shape, strict=True):
            if isinstance(axis, int) and isinstance(promised, int) and axis != promised:
                raise UserError(
                    f"{tensor.name}: the model makes {made} where config.json promises {list(tensor.shape)}: "
                    "its settings do not belong together, or are not supported"
                )


def name_outputs(model: ir.Model, tensors: tuple[TensorSpec, ...]) -> None:
    """Give a graph's outputs the io_spec's names."""
    _name(model.graph.outputs, tensors)


def graph_inputs(tensors: tuple[TensorSpec, ...]) -> dict[str, ir.Value]:
    """Inputs of a graph that is written by hand."""
    return {
        tensor.name: ir.Value(
            name=tensor.name, type=ir.TensorType(IR_TYPES[tensor.dtype]), shape=ir.Shape(tensor.shape)
        )
        for tensor in tensors
    }


def _defer_weights(model: ir.Model, weights: Mapping[str, CheckpointTensor]) -> None:
    """Replace the fake values of initializers by tensors that read the checkpoint when they are written."""
    for name, value in model.graph.initializers.items():
        if name in weights:
            value.const_value = weights[name]


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporter prints its progress and warns of packages that we do not use."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
