"""One graph to one engine: parsed from its file, so that weights beside it are found, strongly typed, built."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastv_runtime.backends.tensorrt.device import Device
from fastv_runtime.backends.tensorrt.module import TensorRt, polygraphy
from fastv_runtime.config.bundle import GraphSpec
from fastv_runtime.tensorrt_build.profiles import Profile


class BuildError(Exception):
    """TensorRT did not build a graph."""


Phase = Callable[[str], None]
"""Told what is being done."""


@dataclass(frozen=True)
class BuilderSettings:
    """What the builder is told. `workspace` in bytes, None for TensorRT's own limit; `timing_cache` may not exist yet.

    Never `kVERSION_COMPATIBLE`: such engines carry host code.
    """

    workspace: int | None = None
    timing_cache: Path | None = None


@dataclass(frozen=True)
class Parsed:
    """A graph as TensorRT read it. Weights live in the parser."""

    builder: Any
    network: Any
    parser: Any

    def layer_types(self) -> list[str]:
        """Names of the types of all layers."""
        return [self.network.get_layer(index).type.name for index in range(self.network.num_layers)]


def compile_graph(
    path: Path, spec: GraphSpec, profiles: list[Profile], device: Device, settings: BuilderSettings, phase: Phase
) -> Any:
    """The serialized engine of a graph, a buffer. Raises BuildError."""
    phase("read")
    return build(parse(device.tensorrt, path, spec), profiles, device, settings, phase)


def parse(tensorrt: TensorRt, path: Path, spec: GraphSpec) -> Parsed:
    """Read a graph; BuildError for what TensorRT cannot read, or reads otherwise than the io_spec says."""
    trt = polygraphy(tensorrt.backend)
    with _errors(tensorrt, f"cannot read {path}"):
        parsed = Parsed(*trt.network_from_onnx_path(str(path), strongly_typed=True))
    network = parsed.network
    read = (
        {network.get_input(index).name for index in range(network.num_inputs)},
        {network.get_output(index).name for index in range(network.num_outputs)},
    )
    declared = ({tensor.name for tensor in spec.inputs}, {tensor.name for tensor in spec.outputs})
    if read != declared:
        raise BuildError(f"{path}: {tensorrt.title} found other inputs or outputs than the manifest: {read}")
    if not any(tensor.name == "write_index" for tensor in spec.inputs):
        _allow_plain_attention(tensorrt, network)
    return parsed


def build(
    parsed: Parsed,
    profiles: list[Profile],
    device: Device,
    settings: BuilderSettings,
    phase: Phase = lambda name: None,
) -> Any:
    """The serialized engine, a buffer; BuildError if there is none. `phase` is told what the builder is at."""
    tensorrt = device.tensorrt
    trt = polygraphy(tensorrt.backend)
    shapes = []
    for profile in profiles:
        shapes.append(trt.Profile())
        for name, bounds in profile.items():
            shapes[-1].add(name, bounds.min, bounds.opt, bounds.max)
    monitor = _monitor(tensorrt, phase)
    options: dict[str, Any] = {"profiles": shapes, "progress_monitor": monitor}
    if settings.workspace is not None:
        options["memory_pool_limits"] = {tensorrt.module.MemoryPoolType.WORKSPACE: settings.workspace}
    cache = settings.timing_cache
    if cache is not None and cache.is_file():
        options["load_timing_cache"] = str(cache)
    with _errors(tensorrt, "cannot build the engine", lambda: monitor.interrupted):
        if tensorrt.is_rtx:
            from polygraphy.backend.tensorrt_rtx import create_config_rtx

            numbers = [(int(name[2:-1]), int(name[-1])) for name in device.capabilities]
            config = create_config_rtx(parsed.builder, parsed.network, compute_capabilities=numbers, **options)
        else:
            config = trt.create_config(parsed.builder, parsed.network, **options)
        config.clear_flag(tensorrt.module.BuilderFlag.TF32)  # scores are computed in fp32, and that is what is meant
        return trt.engine_bytes_from_network(
            (parsed.builder, parsed.network, parsed.parser),
            config,
            save_timing_cache=None if cache is None else str(cache),
        )


def _allow_plain_attention(tensorrt: TensorRt, network: Any) -> None:
    """Let a tower's attention be several kernels where none is fused for its shape (FastViT's), as it would be if it
    were plain operators. The decoder's must stay one: its score matrix would not fit."""
    attention = getattr(tensorrt.module.LayerType, "ATTENTION_INPUT", None)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if attention is not None and layer.type == attention:
            layer.__class__ = tensorrt.module.IAttentionInputLayer
            layer.attention.decomposable = True


def _monitor(tensorrt: TensorRt, phase: Phase) -> Any:
    """A progress monitor that reports phases; defined here because its base class is TensorRT's."""

    class Monitor(tensorrt.module.IProgressMonitor):  # type: ignore[name-defined]
        def __init__(self) -> None:
            tensorrt.module.IProgressMonitor.__init__(self)
            self.interrupted = False

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            try:
                phase(name)
            except KeyboardInterrupt:  # must not reach TensorRT, which calls this
                self.interrupted = True

        def phase_finish(self, name: str) -> None: ...

        def step_complete(self, name: str, step: int) -> bool:
            return not self.interrupted

    return Monitor()


@contextmanager
def _errors(tensorrt: TensorRt, what: str, interrupted: Callable[[], bool] = lambda: False) -> Any:
    """What TensorRT and Polygraphy log of an error goes into a BuildError."""
    from polygraphy.exception import PolygraphyException

    logger = logging.getLogger("Polygraphy")
    lines: list[str] = []
    handler = _Collect(lines)
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            # TensorRT-RTX deprecates the timing cache that Polygraphy always makes.
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    except PolygraphyException as error:
        if interrupted():
            raise KeyboardInterrupt from None
        first = next((line for line in lines if "cudaError" not in line), str(error))
        raise BuildError(f"{tensorrt.title} {what}: {' '.join(first.split())}") from None
    finally:
        logger.removeHandler(handler)


class _Collect(logging.Handler):
    def __init__(self, lines: list[str]):
        super().__init__(logging.ERROR)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())
