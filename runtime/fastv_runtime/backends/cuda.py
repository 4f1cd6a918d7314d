"""One CUDA device and one stream: memory, copies, and graphs of recorded work, through cuda-python.

Everything is done in the order of the stream. On a device that shares the host's memory (Jetson) blocks are mapped
into both, and nothing is ever copied between them.
"""

from __future__ import annotations

import ctypes
import importlib
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastv_runtime.errors import UserError, missing_extra
from fastv_runtime.memory.buffers import Memory, Place

if TYPE_CHECKING:
    from jaxtyping import UInt8

DEVICE = 0


class CudaError(RuntimeError):
    """A call of the CUDA runtime that failed; `code` is the name of its error."""

    def __init__(self, call: str, code: str, text: str):
        super().__init__(f"{call}: {text} ({code})")
        self.code = code


class Cuda:
    """The first CUDA device. Raises UserError where there is none, or no cuda-python.

    `extra`: of this distribution, to name in that error.
    """

    def __init__(self, extra: str) -> None:
        try:
            self._runtime: Any = importlib.import_module("cuda.bindings.runtime")
        except ImportError:
            raise missing_extra("cuda-python", extra) from None
        runtime = self._runtime
        try:
            self._call("cudaSetDevice", DEVICE)
            integrated = self._call("cudaDeviceGetAttribute", runtime.cudaDeviceAttr.cudaDevAttrIntegrated, DEVICE)
            self.integrated = bool(integrated)
            """Whether the device's memory is the host's."""
            self._stream = self._call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
        except CudaError as error:
            raise UserError(f"`device` cuda: no CUDA device can be used: {error}: see nvidia-smi") from None

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT and ONNX Runtime take it."""
        return int(self._stream)

    def allocate(self, nbytes: int) -> Memory:
        """A zeroed block, mapped where the device is integrated. UserError when the device has no room for it."""
        return MappedMemory(self, nbytes) if self.integrated else DeviceMemory(self, nbytes)

    def synchronize(self) -> None:
        """Wait until all work is done."""
        self._call("cudaStreamSynchronize", self._stream)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy between two addresses of the device, in the stream's order."""
        self._copy(target, source, nbytes, "DeviceToDevice")

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record the work that `work` gives the stream, without doing it, as a CUDA graph; returns what launches it.

        Raises CudaError, or whatever `work` raises, when it cannot be recorded; nothing was done then either.
        """
        runtime = self._runtime
        self._call("cudaStreamBeginCapture", self._stream, runtime.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed)
        try:
            work()
        except BaseException:
            runtime.cudaStreamEndCapture(self._stream)
            runtime.cudaGetLastError()  # a capture that failed leaves its error behind
            raise
        graph = self._call("cudaStreamEndCapture", self._stream)
        try:
            executable = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)
        return _Recorded(self, executable)

    def _copy(self, target: int, source: int, nbytes: int, kind: str) -> None:
        kinds = self._runtime.cudaMemcpyKind
        self._call("cudaMemcpyAsync", target, source, nbytes, getattr(kinds, f"cudaMemcpy{kind}"), self._stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        """A function of the CUDA runtime; returns its one result, if it has one."""
        runtime = self._runtime
        code, *results = getattr(runtime, name)(*arguments)
        if code != runtime.cudaError_t.cudaSuccess:
            runtime.cudaGetLastError()
            raise CudaError(name, code.name, runtime.cudaGetErrorString(code)[1].decode())
        return results[0] if results else None

    def _allocate(self, name: str, nbytes: int, *arguments: Any) -> int:
        try:
            return int(self._call(name, max(nbytes, 1), *arguments))
        except CudaError as error:
            if error.code != "cudaErrorMemoryAllocation":
                raise
            raise UserError(
                f"the GPU has no {nbytes / 2**20:.0f} MiB left: end what else runs on it, or export with a smaller "
                "`export.max_text`, `export.max_new_tokens` or `export.max_visual`"
            ) from None


class _Recorded:
    """A CUDA graph, launched by each call."""

    def __init__(self, cuda: Cuda, executable: Any):
        self._cuda = cuda
        self._executable = executable
        weakref.finalize(self, cuda._runtime.cudaGraphExecDestroy, executable)

    def __call__(self) -> None:
        self._cuda._call("cudaGraphLaunch", self._executable, self._cuda._stream)


class DeviceMemory:
    """Memory of the device alone: what the host reads and writes is copied."""

    place: Place = "cuda"

    def __init__(self, cuda: Cuda, nbytes: int):
        self._cuda = cuda
        self.nbytes = nbytes
        self.address = cuda._allocate("cudaMalloc", nbytes)
        weakref.finalize(self, cuda._runtime.cudaFree, self.address)
        self.zero(0, nbytes)

    def write(self, offset: int, data: UInt8[np.ndarray, " n"]) -> None:
        # From pageable memory: CUDA has taken the bytes when the call returns.
        self._cuda._copy(self.address + offset, data.ctypes.data, data.size, "HostToDevice")

    def read(self, offset: int, nbytes: int) -> UInt8[np.ndarray, " n"]:
        data = np.empty(nbytes, np.uint8)
        self._cuda._copy(data.ctypes.data, self.address + offset, nbytes, "DeviceToHost")
        self._cuda.synchronize()
        return data

    def zero(self, offset: int, nbytes: int) -> None:
        self._cuda._call("cudaMemsetAsync", self.address + offset, 0, nbytes, self._cuda._stream)


class MappedMemory:
    """Memory that host and device share. The host waits for the device before it touches any."""

    place: Place = "cuda"

    def __init__(self, cuda: Cuda, nbytes: int):
        runtime = cuda._runtime
        self._cuda = cuda
        self.nbytes = nbytes
        host = cuda._allocate("cudaHostAlloc", nbytes, runtime.cudaHostAllocMapped)
        block = (ctypes.c_uint8 * nbytes).from_address(host)
        weakref.finalize(block, runtime.cudaFreeHost, host)  # once the last view is gone
        self.address = int(cuda._call("cudaHostGetDevicePointer", host, 0))
        self._block = np.ctypeslib.as_array(block)
        self._block[:] = 0

    def write(self, offset: int, data: UInt8[np.ndarray, " n"]) -> None:
        self._cuda.synchronize()
        self._block[offset : offset + data.size] = data

    def read(self, offset: int, nbytes: int) -> UInt8[np.ndarray, " n"]:
        self._cuda.synchronize()
        return self._block[offset : offset + nbytes]

    def zero(self, offset: int, nbytes: int) -> None:
        self._cuda.synchronize()
        self._block[offset : offset + nbytes] = 0
