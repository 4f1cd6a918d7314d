"""TensorRT's Python interface over ONNX Runtime: an `engine` is a file that names an ONNX graph and its profiles.

Runs read and write raw pointers when the fake stream comes to them, with the shapes and addresses of the moment when
they were put there. What TensorRT demands of the caller is asserted.
"""

from __future__ import annotations

import ctypes
import json
from enum import Enum, IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime

from fastv_runtime.config.bundle import Bundle
from fastv_runtime.config.lengths import capacity
from tests.fakes.cuda import ALIGNMENT, STREAM, FakeCuda

NUMPY = {"float": np.float32, "float16": np.float16, "int64": np.int64, "bool": np.bool_}
SCRATCH = 4096
HOST = ("length",)
"""Inputs that are shapes: TensorRT reads them on the host."""


class TensorIOMode(Enum):
    INPUT = 1
    OUTPUT = 2


class TensorLocation(Enum):
    DEVICE = 0
    HOST = 1


class ExecutionContextAllocationStrategy(Enum):
    STATIC = 0
    USER_MANAGED = 2


class ILogger:
    class Severity(IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1

    def log(self, severity: Any, message: str) -> None: ...


def fake_tensorrt(cuda: FakeCuda, name: str = "tensorrt") -> Any:
    """The module, on one fake device."""

    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, logger: ILogger):
            self._logger = logger

        def deserialize_cuda_engine(self, data: Any) -> Engine | None:
            try:
                return Engine(cuda, self._logger, **json.loads(bytes(data)))
            except ValueError:
                self._logger.log(ILogger.Severity.ERROR, "Serialization\nassertion failed")
                return None

    module: Any = ModuleType(name)
    module.__version__ = "10.16.0"
    module.Runtime, module.ILogger = Runtime, ILogger
    module.TensorIOMode, module.TensorLocation = TensorIOMode, TensorLocation
    module.ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    return module


def write_engines(bundle: Bundle, folder: Path, *, decode_profile: bool) -> dict[str, Path]:
    """`Engines` of every graph of a bundle, with one profile, or with one of a single row beside it."""
    plan = bundle.manifest.plan
    most = {stage.symbol: rows for stage, rows in zip(plan.stages, capacity(plan).rows, strict=True)}
    paths = {}
    for name, graph in bundle.manifest.graphs.items():
        profiles = [{axis: (1, most.get(axis, 4096)) for tensor in graph.inputs for axis in tensor.shape}]
        if decode_profile and any(tensor.name == "write_index" for tensor in graph.inputs):
            profiles.append(dict.fromkeys(profiles[0], (1, 1)))
        paths[name] = folder / f"{name}.engine"
        content = {
            "graph": str(bundle.file(graph.file)),
            "profiles": [{str(axis): bounds for axis, bounds in profile.items()} for profile in profiles],
        }
        paths[name].write_text(json.dumps(content), encoding="utf-8")
    return paths


class Engine:
    """ICudaEngine."""

    device_memory_size_v2 = SCRATCH

    def __init__(self, cuda: FakeCuda, logger: ILogger, graph: str, profiles: list[dict[str, tuple[int, int]]]):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.cuda, self.logger, self.profiles = cuda, logger, profiles
        self.inputs = {each.name: each for each in self.session.get_inputs()}
        self.outputs = {each.name: each for each in self.session.get_outputs()}
        self.tensors = self.inputs | self.outputs
        self.contexts = 0
        self.num_io_tensors = len(self.tensors)
        self.num_optimization_profiles = len(profiles)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if name in HOST else TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(axis if isinstance(axis, int) else -1 for axis in self.tensors[name].shape)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        def bound(which: int) -> tuple[int, ...]:
            bounds = self.profiles[profile]
            return tuple(a if isinstance(a, int) else bounds[a][which] for a in self.tensors[name].shape)

        return [bound(0), bound(1), bound(1)]

    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> Context:
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        self.contexts += 1
        return Context(self)


class Context:
    """IExecutionContext."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._profile = 0
        self._scratch = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._recorded = False

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % ALIGNMENT == 0 and size >= SCRATCH
        self._engine.cuda.check(memory, size)
        self._scratch = memory

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        assert stream == STREAM
        self._profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert not self._recorded, "a recorded graph reads this context: it must stay as it was"
        low, _, high = self._engine.get_tensor_profile_shape(name, self._profile)
        if not all(least <= size <= most for least, size, most in zip(low, shape, high, strict=True)):
            self._engine.logger.log(ILogger.Severity.ERROR, f"{name} is outside the profile")
            return False
        self._shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert not self._recorded, "a recorded graph reads this context: it must stay as it was"
        assert name in HOST or address % ALIGNMENT == 0, f"{name} is not aligned"
        self._addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        symbols = {
            axis: size
            for tensor, shape in self._shapes.items()
            for axis, size in zip(self._engine.tensors[tensor].shape, shape, strict=True)
        }
        if "length" in self._engine.inputs:
            # What it leaves; of a later cut M is what it is given.
            symbols[self._engine.outputs["keep"].shape[1]] = int(
                np.ctypeslib.as_array(_pointer(self._addresses["length"]), (1,))[0]
            )
        return tuple(symbols.get(a, -1) if isinstance(a, str) else a for a in self._engine.tensors[name].shape)

    def execute_async_v3(self, stream: int) -> bool:
        cuda, session = self._engine.cuda, self._engine.session
        assert stream == STREAM and self._scratch
        assert set(self._addresses) == set(self._engine.tensors)
        self._recorded |= cuda.capturing
        io = session.io_binding()
        host: list[np.ndarray] = []
        places: dict[str, int] = {}
        for name, tensor in self._engine.tensors.items():
            shape, address = self.get_tensor_shape(name), self._addresses[name]
            dtype = NUMPY[tensor.type.removeprefix("tensor(").removesuffix(")")]
            if name in HOST:
                # Read when the run is put on the stream, as TensorRT does.
                host.append(np.ctypeslib.as_array(_pointer(address), shape).copy())
                address = host[-1].ctypes.data
            elif -1 not in shape:
                cuda.check(address, int(np.prod(shape)) * np.dtype(dtype).itemsize)
            if name in self._engine.inputs:
                io.bind_input(name, "cpu", 0, dtype, shape, address)
            elif -1 in shape:  # known to ONNX Runtime alone
                places[name] = address
                io.bind_output(name, "cpu")
            else:
                io.bind_output(name, "cpu", 0, dtype, shape, address)

        def run(keep: Any = host) -> None:
            session.run_with_iobinding(io)
            for name, value in zip(self._engine.outputs, io.get_outputs(), strict=True):
                if name in places:
                    array = value.numpy()
                    cuda.check(places[name], array.nbytes)
                    ctypes.memmove(places[name], array.ctypes.data, array.nbytes)

        cuda.enqueue(run)
        return True


def _pointer(address: int) -> Any:
    return ctypes.cast(address, ctypes.POINTER(ctypes.c_int64))
