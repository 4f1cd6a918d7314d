"""The GPU at hand, as CUDA describes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """The first CUDA device of this machine."""

    name: str
    capability: str
    """Compute capability as TensorRT writes it: SM87 is 8.7."""
    multiprocessors: int
    memory: int
    """Bytes; of an integrated GPU those that it shares with the CPU."""
    integrated: bool


def find_gpu() -> Gpu | None:
    """The first GPU; None if there is none, no driver, or no cuda-python to ask."""
    try:
        from cuda.bindings import runtime as cuda
    except ImportError:
        return None
    error, count = cuda.cudaGetDeviceCount()
    if error != cuda.cudaError_t.cudaSuccess or not count:
        return None
    error, found = cuda.cudaGetDeviceProperties(0)
    if error != cuda.cudaError_t.cudaSuccess:
        return None
    return Gpu(
        name=found.name.decode(),
        capability=f"SM{found.major}{found.minor}",
        multiprocessors=found.multiProcessorCount,
        memory=found.totalGlobalMem,
        integrated=bool(found.integrated),
    )
