"""Stand-ins for tests of engines where there is no TensorRT: a module with its names, and ONNX files as engines."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx

from fastv_runtime.backends.onnxruntime import OrtEngine
from fastv_runtime.backends.tensorrt.device import Device
from fastv_runtime.backends.tensorrt.gpu import Gpu
from fastv_runtime.backends.tensorrt.module import PythonModule, TensorRt
from fastv_runtime.config.bundle import Bundle, GraphSpec

Capability = Enum("Capability", ["NONE", "SM120", "SM75", "SM86", "SM89", "CURRENT"])
Layer = Enum("Layer", ["ATTENTION_INPUT", "KV_CACHE_UPDATE"])
OldLayer = Enum("OldLayer", ["SOFTMAX"])

GPU = Gpu("Orin (nvgpu)", "SM86", 8, 8 << 30, integrated=True)


def tensorrt(backend: PythonModule = "tensorrt_rtx", version: str = "1.7.1", layers: type[Enum] = Layer) -> TensorRt:
    return TensorRt(backend, version, SimpleNamespace(ComputeCapability=Capability, LayerType=layers))


def device(*capabilities: str, version: str = "1.7.1") -> Device:
    return Device(tensorrt(version=version), "-".join(["rtx", *capabilities]).lower(), capabilities, None)


def as_trt(bundle: Bundle, **changes: Any) -> Bundle:
    """A bundle for ONNX Runtime whose manifest says that its graphs are TensorRT's."""
    graphs = {
        name: spec.model_copy(update={"dialect": "trt", "tensorrt": "10.15", **changes})
        for name, spec in bundle.manifest.graphs.items()
    }
    return Bundle(bundle.path, bundle.manifest.model_copy(update={"graphs": graphs}))


def compile_onnx(path: Path, spec: GraphSpec, *_: Any) -> bytes:
    """An "engine" that ONNX Runtime executes: the graph with its weights in one file."""
    return onnx.load(path).SerializeToString()


def load_onnx(name: str, path: Path) -> OrtEngine:
    return OrtEngine(path, threads=1)
