"""ONNX Runtime with a CUDA provider on the fake device: the CPU computes, on buffers that must be the device's."""

from __future__ import annotations

import ctypes
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime

from tests.fakes.cuda import STREAM, FakeCuda

PROVIDER = "CUDAExecutionProvider"


def fake_onnxruntime(cuda: FakeCuda, *, starts: bool = True) -> Any:
    """The module. starts: whether sessions can use the provider that it has."""

    class InferenceSession:
        def __init__(self, path: Any, options: Any, providers: list[Any]):
            (name, settings), fallback = providers
            assert (name, fallback, settings["user_compute_stream"]) == (PROVIDER, "CPUExecutionProvider", str(STREAM))
            self._session = onnxruntime.InferenceSession(path, options, providers=[fallback])

        def get_providers(self) -> list[str]:
            return [PROVIDER, "CPUExecutionProvider"] if starts else ["CPUExecutionProvider"]

        def get_inputs(self) -> Any:
            return self._session.get_inputs()

        def get_outputs(self) -> Any:
            return self._session.get_outputs()

        def io_binding(self) -> Any:
            return Binding(self._session.io_binding())

        def run_with_iobinding(self, binding: Binding) -> None:
            cuda.enqueue(lambda: self._session.run_with_iobinding(binding.io))
            cuda.cudaStreamSynchronize(STREAM)

    class Binding:
        """What a graph reads on the CPU (here: all integers) is copied when it is bound, not when it runs."""

        def __init__(self, io: Any):
            self.io = io
            self._copies: dict[str, np.ndarray] = {}

        def bind_input(self, name: str, place: str, device: int, dtype: Any, shape: Any, address: int) -> None:
            if place == "cuda":
                cuda.check(address, int(np.prod(shape)) * np.dtype(dtype).itemsize)
                if dtype is np.int64:
                    copy = self._copies[name] = np.empty(shape, dtype)
                    ctypes.memmove(copy.ctypes.data, address, copy.nbytes)
                    address = copy.ctypes.data
            self.io.bind_input(name, "cpu", 0, dtype, shape, address)

        def bind_output(self, name: str, place: str, device: int, dtype: Any, shape: Any, address: int) -> None:
            if place == "cuda":
                cuda.check(address, int(np.prod(shape)) * np.dtype(dtype).itemsize)
            self.io.bind_output(name, "cpu", 0, dtype, shape, address)

    module: Any = ModuleType("onnxruntime")
    module.__version__ = onnxruntime.__version__
    module.SessionOptions = onnxruntime.SessionOptions
    module.get_available_providers = lambda: [PROVIDER, "CPUExecutionProvider"]
    module.InferenceSession = InferenceSession
    return module
