"""From a torch module to a canonical ONNX graph (opset 24) whose weights are read only when it is saved."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from fastv_export.checkpoint import StoredTensor
from fastv_export.modules import DecoderPart, VisionPart
from fastv_export.passes import tidy
from fastv_export.skeleton import Skeleton
from fastv_runtime.bundle import TensorSpec
from fastv_runtime.contract import Contract

OPSET = 24
TRACED_ROWS = 7
"""Rows of the traced example: any number that no other dimension is likely to share."""

IR_TYPES = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "int64": ir.DataType.INT64,
    "int32": ir.DataType.INT32,
    "bool": ir.DataType.BOOL,
}


def trace_vision(skeleton: Skeleton, part: VisionPart, contract: Contract) -> ir.Model:
    """The vision graph of `part`, named as its contract says."""
    return _trace(skeleton, part, contract, lambda tensors: (tensors[0],), (None,))


def trace_decoder(skeleton: Skeleton, part: DecoderPart, contract: Contract) -> ir.Model:
    """A graph of decoder layers, its number of rows dynamic."""
    inputs, _ = contract
    rows = torch.export.Dim("rows", min=1, max=int(inputs[3].shape[2]))
    layers = (len(inputs) - 3) // 2

    def arrange(tensors: list[torch.Tensor]) -> tuple[Any, ...]:
        hidden, position_ids, write_index, *past = tensors
        return hidden, position_ids, write_index, [(past[2 * i], past[2 * i + 1]) for i in range(layers)]

    dynamic = ({1: rows}, {1: rows}, None, [(None, None)] * layers)
    return _trace(skeleton, part, contract, arrange, dynamic)


def _trace(
    skeleton: Skeleton,
    module: nn.Module,
    contract: Contract,
    arrange: Callable[[list[torch.Tensor]], tuple[Any, ...]],
    dynamic_shapes: Any,
) -> ir.Model:
    inputs, outputs = contract
    stored = skeleton.stored(module)
    with skeleton.fake(), _quiet():
        example = arrange([_example(tensor) for tensor in inputs])
        program = torch.export.export(module.eval(), example, dynamic_shapes=dynamic_shapes, strict=False)
        exported = torch.onnx.export(program, dynamo=True, opset_version=OPSET, optimize=False, verbose=False)
    assert exported is not None
    model = exported.model
    _name(model.graph.inputs, inputs)
    _defer_weights(model, stored)
    tidy(model)
    name_outputs(model, outputs)
    return model


def _example(tensor: TensorSpec) -> torch.Tensor:
    shape = [TRACED_ROWS if isinstance(axis, str) else axis for axis in tensor.shape]
    return torch.zeros(shape, dtype=getattr(torch, tensor.dtype))


def _name(values: Any, tensors: tuple[TensorSpec, ...]) -> None:
    """Give graph inputs or outputs the contract's names, types and symbolic shapes."""
    assert len(values) == len(tensors), f"{len(values)} values for {len(tensors)} tensors of the contract"
    for value, tensor in zip(values, tensors, strict=True):
        value.name = tensor.name
        value.type = ir.TensorType(IR_TYPES[tensor.dtype])
        value.shape = ir.Shape(tensor.shape)


def name_outputs(model: ir.Model, tensors: tuple[TensorSpec, ...]) -> None:
    """Give a graph's outputs the contract's names."""
    _name(model.graph.outputs, tensors)


def graph_inputs(tensors: tuple[TensorSpec, ...]) -> dict[str, ir.Value]:
    """Inputs of a graph that is written by hand."""
    return {
        tensor.name: ir.Value(
            name=tensor.name, type=ir.TensorType(IR_TYPES[tensor.dtype]), shape=ir.Shape(tensor.shape)
        )
        for tensor in tensors
    }


def _defer_weights(model: ir.Model, stored: dict[str, StoredTensor]) -> None:
    """Replace the fake values of initializers by tensors that read the checkpoint when they are written."""
    for name, value in model.graph.initializers.items():
        if name in stored:
            value.const_value = lazy_weight(name, stored[name])


def lazy_weight(name: str, tensor: StoredTensor) -> ir.LazyTensor:
    """One checkpoint tensor as fp32, read on demand and not kept."""

    def read() -> ir.Tensor:
        return ir.Tensor(tensor.read().astype(np.float32, copy=False), name=name)

    return ir.LazyTensor(read, ir.DataType.FLOAT, ir.Shape(tensor.shape), name=name)


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
