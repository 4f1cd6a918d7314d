"""Traces that exports of a test run share: two thirds of what a tiny export costs is torch's exporter.

What it makes of a module hangs on the module's structure and on the shapes of its inputs, not on values of weights:
those are put in afterwards. So one trace serves every checkpoint of a structure, every rounding of its weights, every
target, and all processes of a run. Whatever comes after (weights, passes, dialects, golden vectors, verification) each
export does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
import torch
from filelock import FileLock
from torch import nn
from transformers import PreTrainedConfig

WHERE = ("name_or_path", "_name_or_path")
"""What tells of a model where it was read."""

Trace = Callable[[nn.Module, tuple[Any, ...], Any], ir.Model]


def shared(trace: Trace, folder: Path) -> Trace:
    """`fastv_export.tracing.trace.as_traced`, by what is in `folder` already; several processes may use it at once."""

    def traced(module: nn.Module, example: tuple[Any, ...], dynamic_shapes: Any) -> ir.Model:
        file = folder / f"{digest(module, example, dynamic_shapes)}.onnx"
        with FileLock(file.with_suffix(".lock")):
            if not file.exists():
                model = trace(module, example, dynamic_shapes)
                _without_weights(model, {name for name, _ in module.named_parameters(remove_duplicate=False)})
                written = file.with_suffix(".partial")
                onnx.save_model(ir.to_proto(model), written, "protobuf")
                written.rename(file)
        # Read back by whoever traced it too, so that all see the same.
        return ir.from_proto(onnx.load_model(file, load_external_data=False))

    return traced


def read_registry_once(patch: pytest.MonkeyPatch) -> None:
    """torch's exporter parses the sources of its 500 functions for every graph; where that is changed, tests take
    longer."""
    with suppress(ImportError, AttributeError):
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))


def _without_weights(model: ir.Model, parameters: set[str]) -> None:
    """Stand-ins for fake values, which cannot be written."""
    for name, value in model.graph.initializers.items():
        if name in parameters:
            fake = value.const_value
            assert fake is not None
            value.const_value = ir.ExternalTensor(
                "nowhere", 0, fake.nbytes, fake.dtype, shape=ir.Shape(fake.shape), name=name
            )


def digest(*parts: Any) -> str:
    """Of a module, its example and its dynamic shapes."""
    hashed = hashlib.sha256()
    for line in _lines(parts):
        hashed.update(line.encode() + b"\n")
    return hashed.hexdigest()


def _lines(value: Any) -> Iterator[str]:
    """Everything about a value that a trace may depend on."""
    if isinstance(value, nn.Module):
        for name, module in value.named_modules():
            yield f"{name}: {type(module).__module__}.{type(module).__qualname__}"
            for key, each in sorted(vars(module).items()):
                if key in ("_parameters", "_buffers"):
                    for tensor_name, tensor in each.items():
                        yield f"{key} {tensor_name}"
                        yield from _lines(tensor)
                elif key not in ("_modules", *WHERE):
                    yield key
                    yield from _lines(each)
    elif isinstance(value, torch.Tensor):
        real = type(value) is torch.Tensor and not value.is_meta
        yield f"{tuple(value.shape)} {value.dtype} {value.tolist() if real else ''}"
    elif isinstance(value, PreTrainedConfig):
        yield from _lines({name: each for name, each in value.to_dict().items() if name not in WHERE})
        for each in (value, *(getattr(value, name, None) for name in value.sub_configs)):
            yield str(getattr(each, "_attn_implementation", None))
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _lines(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            yield str(name)
            yield from _lines(each)
    elif isinstance(value, set):
        yield from sorted(map(repr, value))  # another order in every process
    elif callable(value) and hasattr(value, "__qualname__"):
        yield f"{value.__module__}.{value.__qualname__} of {type(getattr(value, '__self__', None)).__qualname__}"
    else:
        yield repr(value)
