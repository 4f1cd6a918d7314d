"""What building and running will take, before either is tried: a board that runs out of memory hangs. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fastv_runtime.backends.tensorrt.gpu import Gpu
from fastv_runtime.config.bundle import Manifest
from fastv_runtime.config.cost import BYTES, cache_bytes, tokens_per_layer
from fastv_runtime.config.lengths import capacity

GIB = 2**30

HOST_COPIES = 2
"""Times a graph's weights that a build holds in host memory. See docs/benchmarks/build.md: measured with TensorRT-RTX;
taken to be the same for TensorRT."""

BUILDER = 512 * 2**20
"""Bytes of the builder itself: libraries, kernels, the network."""


@dataclass(frozen=True)
class Needs:
    """Estimates, in bytes."""

    build_host: int
    build_gpu: int
    run_gpu: int

    def build_shared(self) -> int:
        """Where CPU and GPU share one memory."""
        return self.build_host + self.build_gpu


def estimate(manifest: Manifest, graphs: Iterable[str], workspace: int | None) -> Needs:
    """What building some graphs, one after another, and then running all of them will take.

    A build on a GPU holds the weights there once more, to time kernels, and workspace beside them.
    """
    building = max((weight_bytes(manifest, name) for name in graphs), default=0)
    resident = sum(weight_bytes(manifest, name) for name in manifest.graphs)
    return Needs(
        build_host=HOST_COPIES * building + BUILDER,
        build_gpu=building + (workspace or 0),
        run_gpu=resident + _caches(manifest) + _rows(manifest),
    )


def weight_bytes(manifest: Manifest, name: str) -> int:
    """Size of a graph with its weights, whichever backend it is for."""
    file = manifest.graphs[name].file
    beside = (f"{file}.data", str(PurePosixPath(file).with_suffix(".bin")))
    return sum(manifest.files[path].size for path in (file, *beside) if path in manifest.files)


def warnings(needs: Needs, gpu: Gpu | None, available: int | None) -> list[str]:
    """One line for each memory that will hardly do.

    gpu: that the engines are built on; None where no GPU takes part. available: bytes of host memory that are free;
    None if that is not known.
    """
    lines = []
    shared = gpu is not None and gpu.integrated
    build = needs.build_shared() if shared else needs.build_host
    if available is not None and build > available:
        lines.append(
            f"building takes about {build / GIB:.1f} GiB of memory and {available / GIB:.1f} GiB are free: "
            "stop the desktop and other programs, and add swap, which helps a build"
        )
    if gpu is None:
        return lines
    if not shared and needs.build_gpu > gpu.memory:
        lines.append(
            f"building takes about {needs.build_gpu / GIB:.1f} GiB on a GPU of {gpu.memory / GIB:.1f} GiB: "
            "give a smaller `workspace`, or export with fewer weights"
        )
    if needs.run_gpu > gpu.memory:
        lines.append(
            f"running takes about {needs.run_gpu / GIB:.1f} GiB on a GPU of {gpu.memory / GIB:.1f} GiB: "
            "export a smaller model, or with smaller `export.max_visual` and `export.max_new_tokens`"
        )
    return lines


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes of host memory that can be had without swapping, as Linux estimates it; None elsewhere."""
    if not meminfo.is_file():
        return None
    for line in meminfo.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _caches(manifest: Manifest) -> int:
    decoder, plan, needed = manifest.decoder, manifest.plan, capacity(manifest.plan)
    rows = tokens_per_layer(decoder, plan.cut_layers, needed.keys)
    return cache_bytes(decoder, rows, plan.precision)


def _rows(manifest: Manifest) -> int:
    """Activations of a prefill: of one layer at a time, at most its MLP's two halves beside a few rows of width D."""
    decoder = manifest.decoder
    width = 6 * decoder.hidden_size + 2 * decoder.intermediate_size
    return capacity(manifest.plan).prompt * width * BYTES[manifest.plan.precision]
