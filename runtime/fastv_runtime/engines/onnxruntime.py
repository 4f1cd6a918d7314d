"""Graphs on ONNX Runtime's CPU provider, reading and writing the caller's buffers without a copy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastv_runtime.errors import UserError, missing_extra

NAME = "ort"


class OrtEngine:
    """One ONNX file in an inference session.

    `threads`: of one operator; None leaves the choice to ONNX Runtime (one per physical core).
    """

    def __init__(self, path: Path, *, threads: int | None = None, profile_prefix: str | None = None):
        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        # Several sessions take turns; without this the idle ones' threads would spin on the cores of the busy one.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if profile_prefix is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile_prefix
        try:
            self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            detail = " ".join(str(error).split())
            raise UserError(f"{path}: ONNX Runtime {ort.__version__} cannot load this graph: {detail}") from error

    def bind(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> OrtBinding:
        return OrtBinding(self.session, inputs, outputs)


class OrtBinding:
    """An I/O binding of raw pointers; keeps the arrays alive for as long as it lives."""

    def __init__(self, session: Any, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]):
        self._session = session
        self._io = session.io_binding()
        self._arrays = [*inputs.values(), *outputs.values()]
        for name, array in inputs.items():
            self._io.bind_input(name, "cpu", 0, array.dtype.type, array.shape, _pointer(name, array))
        for name, array in outputs.items():
            self._io.bind_output(name, "cpu", 0, array.dtype.type, array.shape, _pointer(name, array))

    def run(self) -> None:
        self._session.run_with_iobinding(self._io)


def _pointer(name: str, array: np.ndarray) -> int:
    if not array.flags.c_contiguous:
        raise ValueError(f"the buffer of {name} is not contiguous")
    return array.ctypes.data


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise missing_extra("onnxruntime", "cpu") from None
    return onnxruntime
