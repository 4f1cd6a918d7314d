"""Graphs on ONNX Runtime's CPU and CUDA providers, reading and writing buffers where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastv_runtime.backends.base import BufferedEngine, Buffers
from fastv_runtime.backends.cuda import Cuda
from fastv_runtime.backends.threads import default_threads
from fastv_runtime.config.base import DType
from fastv_runtime.config.bundle import GraphSpec
from fastv_runtime.errors import UserError, install, missing_extra
from fastv_runtime.memory.buffers import Buffer, HostMemory, Memory, as_buffer
from fastv_runtime.memory.layout import numpy_dtype

CUDA_PROVIDER = "CUDAExecutionProvider"
ORT_TYPES: dict[DType, str] = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "bfloat16": "tensor(bfloat16)",
    "int64": "tensor(int64)",
    "int32": "tensor(int32)",
    "bool": "tensor(bool)",
}


class OrtBackend:
    """The ONNX files of a bundle, by graph. `cuda`: the device that they run on; None means the CPU."""

    def __init__(self, files: Mapping[str, Path], *, threads: int | None = None, cuda: Cuda | None = None):
        self.name = "ort cpu" if cuda is None else "ort cuda"
        self.notes: list[str] = []
        self._cuda = cuda
        self._engines = {name: OrtEngine(path, threads=threads, cuda=cuda) for name, path in files.items()}

    def engine(self, graph: str) -> OrtEngine:
        return self._engines[graph]

    def allocate(self, nbytes: int) -> Memory:
        return HostMemory.allocate(nbytes) if self._cuda is None else self._cuda.allocate(nbytes)

    def repeated(self, work: Callable[[], None]) -> Callable[[], None]:
        """As it is: a session's own small products on the host cannot be part of a CUDA graph."""
        return work

    def synchronize(self) -> None:
        if self._cuda is not None:
            self._cuda.synchronize()


class OrtEngine(BufferedEngine):
    """One ONNX file in an inference session.

    `threads`: of one operator; None means `default_threads()`. `cuda`: as for the backend.
    """

    def __init__(self, path: Path, *, threads: int | None = None, cuda: Cuda | None = None):
        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or default_threads()
        # Several sessions take turns; without this the idle ones' threads would spin on the cores of the busy one.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        providers = ["CPUExecutionProvider"] if cuda is None else [_cuda_provider(ort, cuda), "CPUExecutionProvider"]
        self._cuda = cuda
        self._path = path
        try:
            self.session = ort.InferenceSession(path, options, providers=providers)
        except Exception as error:
            detail = " ".join(str(error).split())
            if path.suffix == ".xml":
                raise UserError(
                    f"{path}: ONNX Runtime {ort.__version__} cannot load this graph: use `backend` openvino"
                ) from error
            if "trt:" in detail:
                raise UserError(f"{path}: has operators that only TensorRT has: use `backend` trt") from error
            raise UserError(f"{path}: ONNX Runtime {ort.__version__} cannot load this graph: {detail}") from error
        if cuda is not None and CUDA_PROVIDER not in self.session.get_providers():
            raise UserError(
                f"`device` cuda: ONNX Runtime {ort.__version__} has a CUDA provider and cannot start it: "
                "install the CUDA and cuDNN that it was built for, or use `device` cpu"
            )

    def bind(self, inputs: Buffers, outputs: Buffers) -> OrtBinding:
        with _named(self._path):
            return OrtBinding(self._path, self.session, inputs, outputs, self._cuda)

    def check(self, spec: GraphSpec) -> None:
        """UserError unless the graph has the inputs and outputs that the manifest says."""
        for kind, tensors, found in (
            ("input", spec.inputs, self.session.get_inputs()),
            ("output", spec.outputs, self.session.get_outputs()),
        ):
            have = {each.name: (each.type, each.shape) for each in found}
            want = {each.name: (ORT_TYPES[each.dtype], list(each.shape)) for each in tensors}
            for name in dict.fromkeys([*want, *have]):
                if name not in have or name not in want or not _same(have[name], want[name]):
                    raise UserError(
                        f"{self._path}: {kind} {name} is not as bundle.json has it: "
                        "copy the bundle again, or export it again"
                    )


class OrtBinding:
    """An I/O binding of raw pointers; keeps the buffers alive for as long as it lives."""

    def __init__(self, path: Path, session: Any, inputs: Buffers, outputs: Buffers, cuda: Cuda | None = None):
        self._path = path
        self._session = session
        self._io = session.io_binding()
        self._cuda = cuda
        self._inputs = {name: as_buffer(name, array) for name, array in inputs.items()}
        self._outputs = {name: as_buffer(name, array) for name, array in outputs.items()}
        for name, buffer in self._outputs.items():
            self._io.bind_output(name, *_where(buffer))
        if cuda is None:
            self._bind_inputs()

    def run(self) -> None:
        if self._cuda is not None:
            # What a graph reads on the other processor (a length that becomes a shape) is copied when it is bound, on a
            # stream of ONNX Runtime's choice: bind at every run, once what was written has arrived.
            self._cuda.synchronize()
            self._bind_inputs()
        with _named(self._path):
            self._session.run_with_iobinding(self._io)

    def _bind_inputs(self) -> None:
        for name, buffer in self._inputs.items():
            self._io.bind_input(name, *_where(buffer))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What ONNX Runtime finds wrong with a graph while it runs is one line that names the file."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, RuntimeError) and not type(error).__module__.startswith("onnxruntime"):
            raise
        detail = " ".join(str(error).split())
        raise UserError(
            f"{path}: ONNX Runtime cannot run this graph: {detail}: copy the bundle again, or export it again"
        ) from error


def _same(found: tuple[str, list[Any]], wanted: tuple[str, list[int | str]]) -> bool:
    """Whether types and shapes are the same. ONNX Runtime has its own names for axes that an operator makes."""
    (dtype, shape), (wanted_dtype, wanted_shape) = found, wanted
    return (
        dtype == wanted_dtype
        and len(shape) == len(wanted_shape)
        and all(
            one == other or not isinstance(one, int) or isinstance(other, str)
            for one, other in zip(shape, wanted_shape, strict=True)
        )
    )


def _where(buffer: Buffer) -> tuple[Any, ...]:
    """As ONNX Runtime takes it: processor, its number, element type, shape, address."""
    return buffer.memory.place, 0, numpy_dtype(buffer.dtype).type, buffer.shape, buffer.address


def _cuda_provider(ort: Any, cuda: Cuda) -> tuple[str, dict[str, str]]:
    """The provider on our stream; its own memory grows by what is asked for, and fp32 is multiplied as fp32."""
    if CUDA_PROVIDER not in ort.get_available_providers():
        raise UserError(
            f"`device` cuda: ONNX Runtime {ort.__version__} as installed has no CUDA provider: "
            f"pip uninstall onnxruntime, then {install('gpu')}"
        )
    options = {
        "device_id": "0",
        "user_compute_stream": str(cuda.stream),
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",
    }
    return CUDA_PROVIDER, options


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise missing_extra("onnxruntime", "cpu") from None
    return onnxruntime
