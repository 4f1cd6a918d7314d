"""Graphs on ONNX Runtime's CPU provider, reading and writing the caller's buffers without a copy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastv_runtime.errors import UserError, missing_extra

NAME = "ort"


class OrtEngine:
    """One ONNX file in an inference session.

    `threads`: of one operator; None means `default_threads()`.
    """

    def __init__(self, path: Path, *, threads: int | None = None):
        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or default_threads()
        # Several sessions take turns; without this the idle ones' threads would spin on the cores of the busy one.
        options.add_session_config_entry("session.force_spinning_stop", "1")
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


def default_threads() -> int:
    """One per physical core that this process may run on.

    ONNX Runtime's own default counts the machine's cores, not the process's, and pins threads to them: in containers
    and virtual machines it was seen to be no faster than one thread.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    smt = Path("/sys/devices/system/cpu/smt/active")
    siblings = 2 if smt.is_file() and smt.read_text(encoding="utf-8").strip() == "1" else 1
    return max(1, usable // siblings)


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
