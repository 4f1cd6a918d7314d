"""The CUDA runtime as cuda-python has it, over the host's memory, and stricter than a GPU is.

The stream is a queue: work is done when someone waits for it, so that whoever reads too early reads old bytes. Memory
starts as NaNs, lies between guards, and every address and length that a copy is given must lie inside one allocation.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import Enum
from types import SimpleNamespace
from typing import Any

ALIGNMENT = 256
GUARD = 0xA5
FRESH = 0xFF  # NaN in every floating-point format
STREAM = 0x57


class Error(Enum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorNoDevice = 100
    cudaErrorStreamCaptureUnsupported = 900


class FakeCuda:
    """Stands for the module `cuda.bindings.runtime`.

    integrated: the device shares the host's memory. devices: how many there are. capacity: bytes that it has.
    capturable: whether work can be recorded. `copies` are (kind, bytes) of every copy; `launches` counts graphs.
    """

    cudaError_t = Error
    cudaDeviceAttr = SimpleNamespace(cudaDevAttrIntegrated="integrated")
    cudaMemcpyKind = SimpleNamespace(
        cudaMemcpyHostToDevice="HostToDevice",
        cudaMemcpyDeviceToHost="DeviceToHost",
        cudaMemcpyDeviceToDevice="DeviceToDevice",
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeRelaxed=2)
    cudaStreamNonBlocking = 1
    cudaHostAllocMapped = 2

    def __init__(
        self, *, integrated: bool = False, devices: int = 1, capacity: int = 1 << 30, capturable: bool = True
    ) -> None:
        self.integrated, self.devices, self.capacity, self.capturable = integrated, devices, capacity, capturable
        self.copies: list[tuple[str, int]] = []
        self.launches = 0
        self._queue: list[Callable[[], None]] = []
        self._captured: list[Callable[[], None]] | None = None
        self._broken = False
        self._blocks: dict[int, tuple[int, Any, int]] = {}

    # What the fake TensorRT needs.

    def enqueue(self, work: Callable[[], None]) -> None:
        (self._queue if self._captured is None else self._captured).append(work)

    @property
    def capturing(self) -> bool:
        return self._captured is not None

    def check(self, address: int, nbytes: int) -> None:
        """Bytes lie inside one allocation."""
        assert any(base <= address and address + nbytes <= base + size for base, (size, *_) in self._blocks.items()), (
            f"{nbytes} bytes at {address:#x} are not memory of the device"
        )

    def check_guards(self) -> None:
        for base, (size, block, start) in self._blocks.items():
            raw = bytes(block)
            end = start + size
            assert set(raw[:start]) | set(raw[end:]) <= {GUARD}, f"someone wrote outside the allocation at {base:#x}"

    # The runtime's functions.

    def cudaSetDevice(self, device: int) -> tuple[Error]:
        return (Error.cudaSuccess if device < self.devices else Error.cudaErrorNoDevice,)

    def cudaDeviceGetAttribute(self, attribute: str, device: int) -> tuple[Error, int]:
        return Error.cudaSuccess, int(self.integrated)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Error, int]:
        return Error.cudaSuccess, STREAM

    def cudaStreamSynchronize(self, stream: int) -> tuple[Error]:
        assert stream == STREAM
        if self._captured is not None:
            self._broken = True
            return (Error.cudaErrorStreamCaptureUnsupported,)
        while self._queue:
            self._queue.pop(0)()
        return (Error.cudaSuccess,)

    def cudaMalloc(self, nbytes: int) -> tuple[Error, int]:
        used = sum(size for size, *_ in self._blocks.values())
        if used + nbytes > self.capacity:
            return Error.cudaErrorMemoryAllocation, 0
        block = (ctypes.c_uint8 * (nbytes + 4 * ALIGNMENT))()
        start = -ctypes.addressof(block) % ALIGNMENT + ALIGNMENT
        ctypes.memset(block, GUARD, ctypes.sizeof(block))
        ctypes.memset(ctypes.addressof(block) + start, FRESH, nbytes)
        address = ctypes.addressof(block) + start
        self._blocks[address] = (nbytes, block, start)
        return Error.cudaSuccess, address

    def cudaFree(self, address: int) -> tuple[Error]:
        self.cudaStreamSynchronize(STREAM)
        self.check_guards()
        del self._blocks[address]
        return (Error.cudaSuccess,)

    def cudaHostAlloc(self, nbytes: int, flags: int) -> tuple[Error, int]:
        assert flags == self.cudaHostAllocMapped
        return self.cudaMalloc(nbytes)

    cudaFreeHost = cudaFree

    def cudaHostGetDevicePointer(self, address: int, flags: int) -> tuple[Error, int]:
        return Error.cudaSuccess, address

    def cudaMemcpyAsync(self, target: int, source: int, nbytes: int, kind: str, stream: int) -> tuple[Error]:
        assert stream == STREAM
        self.copies.append((kind, nbytes))
        if kind != "HostToDevice":
            self.check(source, nbytes)
        if kind != "DeviceToHost":
            self.check(target, nbytes)
        if kind == "HostToDevice":
            taken = ctypes.string_at(source, nbytes)
            self.enqueue(lambda: ctypes.memmove(target, taken, nbytes) and None)
        else:
            self.enqueue(lambda: ctypes.memmove(target, source, nbytes) and None)
        return (Error.cudaSuccess,)

    def cudaMemsetAsync(self, address: int, value: int, nbytes: int, stream: int) -> tuple[Error]:
        self.check(address, nbytes)
        self.enqueue(lambda: ctypes.memset(address, value, nbytes) and None)
        return (Error.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Error]:
        if not self.capturable:
            return (Error.cudaErrorStreamCaptureUnsupported,)
        self._captured, self._broken = [], False
        return (Error.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Error, Any]:
        captured, self._captured = self._captured, None
        return (Error.cudaErrorStreamCaptureUnsupported, None) if self._broken else (Error.cudaSuccess, captured)

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Error, Any]:
        return Error.cudaSuccess, tuple(graph)

    def cudaGraphDestroy(self, graph: Any) -> tuple[Error]:
        return (Error.cudaSuccess,)

    def cudaGraphExecDestroy(self, executable: Any) -> tuple[Error]:
        return (Error.cudaSuccess,)

    def cudaGraphLaunch(self, executable: Any, stream: int) -> tuple[Error]:
        self.launches += 1
        for work in executable:
            self.enqueue(work)
        return (Error.cudaSuccess,)

    def cudaGetLastError(self) -> tuple[Error]:
        return (Error.cudaSuccess,)

    def cudaGetErrorString(self, error: Error) -> tuple[Error, bytes]:
        return Error.cudaSuccess, {Error.cudaErrorNoDevice: b"no CUDA-capable device is detected"}.get(error, b"failed")
