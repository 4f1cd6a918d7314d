"""Graphs as TensorRT engines, on the device's memory, with the decode step as a CUDA graph.

One code path for `tensorrt` and `tensorrt_rtx`, whose Python interfaces have the same names. The caller has checked
the files: an engine is executable code. Host code in engines stays forbidden, as TensorRT has it unless told otherwise.
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastv_runtime.backends.base import BufferedEngine, Buffers
from fastv_runtime.backends.cuda import Cuda, DeviceMemory
from fastv_runtime.backends.tensorrt.profile_choice import OptimizationProfile, Shape, choose_profile
from fastv_runtime.errors import UserError
from fastv_runtime.memory.buffers import Buffer, Memory, as_buffer
from fastv_runtime.memory.layout import ALIGNMENT, Region, numpy_dtype


class TrtBackend:
    """The engines of a bundle by graph. All run one after another, so they share one block for what they compute.

    trt: the module `tensorrt` or `tensorrt_rtx`. Raises UserError for an engine that cannot be loaded.
    """

    def __init__(self, trt: Any, cuda: Cuda, engines: Mapping[str, Path]):
        self.name = f"{'trt' if trt.__name__ == 'tensorrt' else 'trt-rtx'} cuda"
        self.notes: list[str] = []
        self._cuda = cuda
        log = _Log(trt)
        self._runtime = trt.Runtime(log.logger)
        loaded = {name: self._load(trt, path, log) for name, path in engines.items()}
        # Of the device alone, whatever it shares with the host: a GPU does not cache what is mapped.
        scratch = DeviceMemory(cuda, max(engine.device_memory_size_v2 for engine in loaded.values()))
        self._engines = {name: TrtEngine(trt, name, engine, cuda, scratch, log) for name, engine in loaded.items()}

    def engine(self, graph: str) -> TrtEngine:
        return self._engines[graph]

    def allocate(self, nbytes: int) -> Memory:
        return self._cuda.allocate(nbytes)

    def repeated(self, work: Callable[[], None]) -> Callable[[], None]:
        """Recorded as a CUDA graph at the second call: the first lets the engines set up what they do once."""
        return _Replayed(self._cuda, work, self.notes)

    def synchronize(self) -> None:
        self._cuda.synchronize()

    def _load(self, trt: Any, path: Path, log: _Log) -> Any:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            engine = self._runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise UserError(
                f"{path}: {trt.__name__} {trt.__version__} cannot load this engine: {log.last}: "
                "build it on this device with fastv-build"
            )
        return engine


class TrtEngine(BufferedEngine):
    """One engine. A binding has an execution context of its own for as long as it lives; the next takes it over.

    scratch: memory for what lies between inputs and outputs, shared with engines that run before and after.
    """

    def __init__(self, trt: Any, name: str, engine: Any, cuda: Cuda, scratch: Memory, log: _Log):
        self.name = name
        self.cuda = cuda
        self._trt = trt
        self._engine = engine
        self._scratch = scratch
        self._log = log
        tensors = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._inputs = [tensor for tensor in tensors if engine.get_tensor_mode(tensor) == trt.TensorIOMode.INPUT]
        self._outputs = [tensor for tensor in tensors if tensor not in self._inputs]
        self.host_inputs = [
            tensor for tensor in self._inputs if engine.get_tensor_location(tensor) == trt.TensorLocation.HOST
        ]
        """Inputs that TensorRT reads on the host: lengths that become shapes."""
        self._profiles = [self._profile(number) for number in range(engine.num_optimization_profiles)]
        self._free: list[list[Any]] = [[] for _ in self._profiles]
        self._stages: dict[str, Memory] = {}

    def bind(self, inputs: Buffers, outputs: Buffers) -> TrtBinding:
        if set(inputs) != set(self._inputs) or set(outputs) != set(self._outputs):
            raise UserError(
                f"{self.name}: the engine's inputs and outputs are not those of the bundle's graph: "
                "build it again with fastv-build"
            )
        sources = {name: as_buffer(name, array) for name, array in inputs.items()}
        try:
            profile = choose_profile({name: buffer.shape for name, buffer in sources.items()}, self._profiles)
        except ValueError as error:
            raise UserError(f"{self.name}: {error}: build it again with fastv-build") from None
        context = self._free[profile].pop() if self._free[profile] else self._context(profile)
        binding = TrtBinding(self, context, sources, {name: as_buffer(name, array) for name, array in outputs.items()})
        weakref.finalize(binding, self._free[profile].append, context)
        return binding

    def stage(self, tensor: str, buffer: Buffer) -> Buffer:
        """Memory of the device for one tensor that lies where TensorRT cannot use it; kept for later bindings."""
        region = Region(0, buffer.dtype, buffer.shape)
        stage = self._stages.get(tensor)
        if stage is None or stage.nbytes < region.nbytes:
            stage = self._stages[tensor] = self.cuda.allocate(region.nbytes)
        return Buffer(stage, region)

    def failure(self, what: str) -> RuntimeError:
        """An error of TensorRT's, with what it said last."""
        return RuntimeError(f"{self.name}: TensorRT cannot {what}: {self._log.last}")

    def _context(self, profile: int) -> Any:
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None:
            raise self.failure("make an execution context")
        context.set_device_memory(self._scratch.address, self._scratch.nbytes)
        if len(self._profiles) > 1 and not context.set_optimization_profile_async(profile, self.cuda.stream):
            raise self.failure(f"use optimization profile {profile}")
        return context

    def _profile(self, number: int) -> OptimizationProfile:
        ranges: dict[str, tuple[Shape, Shape]] = {}
        for tensor in self._inputs:
            shape = tuple(self._engine.get_tensor_shape(tensor))
            ranges[tensor] = (shape, shape)
            if -1 in shape:
                low, _, high = self._engine.get_tensor_profile_shape(tensor, number)
                ranges[tensor] = (tuple(low), tuple(high))
        return ranges


class TrtBinding:
    """A context with its shapes and addresses set."""

    def __init__(self, engine: TrtEngine, context: Any, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]):
        self._engine = engine
        self._context = context
        staged: dict[int, Buffer] = {}
        """By address, so that a cache's past and present stay one."""
        self._in: list[tuple[Buffer, Buffer]] = []
        self._out: list[tuple[Buffer, Buffer]] = []
        self._host = {
            name: np.zeros(inputs[name].shape, numpy_dtype(inputs[name].dtype)) for name in engine.host_inputs
        }
        self._inputs, self._outputs = inputs, outputs
        for name, buffer in inputs.items():
            self._check(context.set_input_shape(name, buffer.shape), name)
            if name in self._host:
                self._check(context.set_tensor_address(name, self._host[name].ctypes.data), name)
                continue
            if not usable(buffer):
                staged[buffer.address] = stage = engine.stage(name, buffer)
                self._in.append((buffer, stage))
                buffer = stage
            self._check(context.set_tensor_address(name, buffer.address), name)
        for name, buffer in outputs.items():
            if not usable(buffer):
                stage = staged.get(buffer.address) or engine.stage(name, buffer)
                self._out.append((stage, buffer))
                buffer = stage
            self._check(context.set_tensor_address(name, buffer.address), name)

    def run(self) -> None:
        cuda = self._engine.cuda
        for name, value in self._host.items():
            value[...] = self._inputs[name].array()
        self._check_shapes()
        for source, stage in self._in:
            _copy(cuda, source, stage)
        if not self._context.execute_async_v3(cuda.stream):
            raise self._engine.failure("run the engine")
        for stage, target in self._out:
            _copy(cuda, stage, target)

    def _check_shapes(self) -> None:
        """Before anything is written: outputs are as large as the buffers that wait for them."""
        for name, buffer in self._outputs.items():
            shape = tuple(self._context.get_tensor_shape(name))
            # -1: TensorRT will know when it runs.
            if len(shape) != len(buffer.shape) or any(
                size not in (-1, room) for size, room in zip(shape, buffer.shape, strict=True)
            ):
                raise self._engine.failure(f"write {name} {shape} to a buffer of shape {buffer.shape}")

    def _check(self, done: bool, name: str) -> None:
        if not done:
            raise self._engine.failure(f"bind {name}")


def usable(buffer: Buffer) -> bool:
    """Whether TensorRT can read and write a buffer where it is: in the device's memory, aligned as it demands."""
    return buffer.memory.place == "cuda" and buffer.address % ALIGNMENT == 0


def _copy(cuda: Cuda, source: Buffer, target: Buffer) -> None:
    """Between any two memories, in the stream's order."""
    if source.memory.place == target.memory.place == "cuda":
        cuda.copy(target.address, source.address, source.region.nbytes)
    else:
        target.write(source.array())


class _Replayed:
    """Work that runs as it is the first time, and from then on as a CUDA graph, or as it is where that fails."""

    def __init__(self, cuda: Cuda, work: Callable[[], None], notes: list[str]):
        self._cuda = cuda
        self._work = work
        self._notes = notes
        self._warm = False
        self._run: Callable[[], None] | None = None

    def __call__(self) -> None:
        if self._run is None and self._warm:
            self._run = self._record()
        self._warm = True
        (self._run or self._work)()

    def _record(self) -> Callable[[], None]:
        try:
            return self._cuda.record(self._work)
        except RuntimeError as error:
            self._notes.append(f"decoding without a CUDA graph, which takes longer: {error}")
            return self._work


class _Log:
    """TensorRT's messages: `last` is its latest error, in one line."""

    def __init__(self, trt: Any):
        log = self

        class Logger(trt.ILogger):
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                    log.last = " ".join(message.split())

        self.last = "it does not say why"
        self.logger = Logger()
