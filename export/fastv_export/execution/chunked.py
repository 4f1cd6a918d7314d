"""A saved graph executed in bounded memory: chunk after chunk, each weight read once for all runs at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from fastv_export.execution.chunks import Chunk, cut
from fastv_export.execution.exact import with_exact_products
from fastv_export.execution.ir_chunks import run_ir_chunked
from fastv_export.execution.last_rows import with_last_rows
from fastv_export.execution.runs import LIMIT, ChunkedRun, Read
from fastv_export.execution.stored_weights import Weight
from fastv_runtime.backends.threads import default_threads

AS_REQUESTED = 1
"""ONNX Runtime's name for growing an arena by what is asked for, not to the next power of two."""


def run_chunked(
    path: Path,
    runs: Sequence[ChunkedRun],
    read: Read = lambda count: None,
    *,
    limit: int = LIMIT,
    exact: bool = True,
    rows: int = 1,
) -> None:
    """Execute the graph at `path` for all runs; each chunk for the first of them first.

    So a run may take the caches that an earlier one left, as decoding after a prompt does. limit: bytes of weights held
    at once. exact: activations are not rounded (`exact.py`); otherwise they are, as ONNX Runtime does it for a user.
    rows: of how many last ones a graph with a head makes logits.
    """
    if path.suffix == ".xml":
        run_ir_chunked(path, runs, read, limit=limit, exact=exact, rows=rows)
        return
    model = onnx.load(path, load_external_data=False)
    if exact:
        with_exact_products(model)
    if rows > 1:
        with_last_rows(model, rows)
    runner = _Runner(model, limit, read)
    data = path.with_name(f"{path.name}.data")
    with (data if data.is_file() else path).open("rb") as file:
        for chunk in cut(model, path.parent, limit):
            runner.run(chunk, file.fileno(), runs)


class _Runner:
    """Executes chunks of one model, all in the same memory: fresh pages would cost more than the arithmetic."""

    def __init__(self, model: onnx.ModelProto, limit: int, read: Read):
        self._opsets, self._ir_version = model.opset_import, model.ir_version
        self._limit, self._read = limit, read
        self._buffer = np.empty(0, np.uint8)
        arena = onnxruntime.OrtMemoryInfo(
            "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
        )
        onnxruntime.create_and_register_allocator(arena, onnxruntime.OrtArenaCfg(0, AS_REQUESTED, -1, -1))
        self._options = onnxruntime.SessionOptions()
        self._options.log_severity_level = 3
        # Planned ahead, all that a run needs is one block: the arena would keep one for each number of rows.
        self._options.enable_mem_pattern = False
        self._options.intra_op_num_threads = default_threads()
        self._options.add_session_config_entry("session.use_env_allocators", "1")
        self._shrink = onnxruntime.RunOptions()
        self._shrink.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        # Small weights are constants of their chunk: where ONNX Runtime fuses one that is dequantized into a product,
        # activations stay as they are.
        self._options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")

    def run(self, chunk: Chunk, file: int, runs: Sequence[ChunkedRun]) -> None:
        """Execute a chunk for every case, on one portion of its weights after the other."""
        results: list[list[list[np.ndarray]]] = [[] for _ in runs]
        first = {name: runs[0].take(name) for name in chunk.inputs}
        session, made = None, None
        for weights in chunk.portions(self._limit):
            raw = self._load(weights, file)
            constants = {name: raw.pop(name) for name in chunk.rounding() & raw.keys()}
            shapes = [weight.shape for weight in weights.values()]
            if session is None or shapes != made or constants:
                session, made = None, shapes  # the last one's constants go first
                session = onnxruntime.InferenceSession(
                    chunk.model(first, weights, constants, self._opsets, self._ir_version),
                    self._options,
                    ["CPUExecutionProvider"],
                )
            for run, parts in zip(runs, results, strict=True):
                binding = session.io_binding()
                for name, array in raw.items():
                    weight = weights[name]
                    binding.bind_input(name, "cpu", 0, weight.loaded, weight.shape, array.ctypes.data)
                inputs = {name: run.take(name) for name in chunk.inputs}
                parts.append(_execute(session, binding, inputs, chunk.outputs, self._shrink))
        for run, parts in zip(runs, results, strict=True):
            for name, values in zip(chunk.outputs, zip(*parts, strict=True), strict=True):
                run.put(name, values[0] if len(values) == 1 else np.concatenate(values, axis=-1))
            run.drop((*chunk.spent, *(name for name in chunk.outputs if name.startswith("present_"))))

    def _load(self, weights: Mapping[str, Weight], file: int) -> dict[str, np.ndarray]:
        """Stored bytes of each weight."""
        total = sum(weight.nbytes for weight in weights.values())
        if total > self._buffer.size:
            self._buffer = np.empty(total, np.uint8)
        arrays, start = {}, 0
        for name, weight in weights.items():
            arrays[name] = weight.read(file, self._buffer[start : start + weight.nbytes])
            start += weight.nbytes
            self._read(weight.nbytes)
        return arrays


def _execute(
    session: Any, binding: Any, inputs: Mapping[str, np.ndarray], outputs: Iterable[str], options: Any
) -> list[np.ndarray]:
    """Outputs of one run. A cache is updated in place, as on a device: past and present are one buffer."""
    for name, array in inputs.items():
        binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    for name in outputs:
        cache = inputs.get(name.replace("present_", "past_")) if name.startswith("present_") else None
        if cache is None:
            binding.bind_output(name, "cpu")
        else:
            binding.bind_output(name, "cpu", 0, cache.dtype.type, cache.shape, cache.ctypes.data)
    session.run_with_iobinding(binding, options)
    return [value.numpy() for value in binding.get_outputs()]
