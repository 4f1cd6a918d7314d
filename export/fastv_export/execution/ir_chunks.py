"""A saved OpenVINO graph executed in bounded memory: chunk after chunk, on OpenVINO itself.

Weights are mapped from the file, and what a chunk's kernels make of them goes with the chunk. States become inputs and
outputs again, so that a chunk may end anywhere: kernels that keep a cache themselves are not what is executed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastv_export.execution.runs import LIMIT, ChunkedRun, Read
from fastv_runtime.backends.openvino.graphs import load_core
from fastv_runtime.backends.openvino.states import BEAM, ROUNDING_GROUP, past_of, present_of
from fastv_runtime.backends.threads import default_threads

EXACT = {"INFERENCE_PRECISION_HINT": "f32", ROUNDING_GROUP: "0"}
"""Nothing is rounded beside weights."""
KEYS = 2
"""The axis of keys in a cache."""


def run_ir_chunked(
    path: Path,
    runs: Sequence[ChunkedRun],
    read: Read = lambda count: None,
    *,
    limit: int = LIMIT,
    exact: bool = True,
    rows: int = 1,
) -> None:
    """As `run_chunked`, for a graph of the dialect `openvino`: its states are the manifest's `past_*` and `present_*`.

    exact: computed in fp32; otherwise as kernels do it for a user.
    """
    core = load_core()
    whole = core.read_model(path)
    settings = {"INFERENCE_NUM_THREADS": default_threads()} | (EXACT if exact else _as_run(whole))
    if rows > 1:
        _take_last_rows(whole, rows)
    for chunk in _cut(whole, limit):
        parts: list[list[np.ndarray]] = [[] for _ in runs]
        for model in chunk.models(limit):
            request = core.compile_model(model, "CPU", settings).create_infer_request()
            for run, made in zip(runs, parts, strict=True):
                values = _execute(request, chunk, run)
                if chunk.product is None:
                    for name, value in zip(chunk.outputs, values, strict=True):
                        _put(run, name, value)  # now: the next run may go on from this one's caches
                else:
                    made += values
            del request
        for run, made in zip(runs, parts, strict=True):
            for name in chunk.outputs if made else ():
                run.put(name, np.concatenate(made, axis=-1))
            run.drop(chunk.spent)
        read(chunk.nbytes)


def _as_run(model: Any) -> dict[str, str]:
    """As kernels compute beside weights of few bits where nobody says. How they round is said in the file, of the whole
    model: chunks would not have it."""
    place = ["runtime_options", ROUNDING_GROUP]
    group = {ROUNDING_GROUP: str(model.get_rt_info(place).value)} if model.has_rt_info(place) else {}
    return {"INFERENCE_PRECISION_HINT": "f32"} | group


@dataclass(frozen=True)
class _Chunk:
    parameters: list[Any]
    results: list[Any]
    inputs: tuple[str, ...]
    """Values by name: of the graph's inputs and states, and what earlier chunks made."""
    outputs: tuple[str, ...]
    spent: tuple[str, ...]
    """Inputs that no later chunk needs."""
    nbytes: int
    """Of its weights."""
    product: np.ndarray | None
    """The weight [outputs, inputs] of a single product, where it is above the limit."""

    def models(self, limit: int) -> Iterator[Any]:
        """The chunk; a single product whose weight is above the limit comes some outputs at a time."""
        import openvino

        if self.product is None:
            yield openvino.Model(self.results, self.parameters)
            return
        for rows in np.array_split(self.product, -(-self.nbytes // limit)):
            yield _product(self.parameters[0], rows)


def _stored(node: Any) -> np.ndarray | None:
    """The weight [outputs, inputs] of a product; None for one of few bits, which kernels keep as they are."""
    if node.get_type_name() != "MatMul":
        return None
    weight = node.input_value(1).get_node()
    while weight.get_type_name() in ("Transpose", "Convert"):
        weight = weight.input_value(0).get_node()
    if weight.get_type_name() != "Constant" or weight.get_element_type().get_type_name() not in ("f32", "f16"):
        return None
    stored: np.ndarray = weight.data
    return stored


def _product(given: Any, weight: np.ndarray) -> Any:
    import openvino
    from openvino import opset13 as ops

    kind = given.get_element_type()
    rows = ops.parameter(given.get_output_partial_shape(0), kind)
    held = ops.constant(np.ascontiguousarray(weight))
    product = ops.matmul(rows, ops.convert(held, kind.get_type_name()), False, True)
    return openvino.Model([ops.result(product)], [rows])


def _execute(request: Any, chunk: _Chunk, run: ChunkedRun) -> list[np.ndarray]:
    import openvino

    for index, name in enumerate(chunk.inputs):
        request.set_input_tensor(index, openvino.Tensor(_input(run, name)))
    request.infer()
    return [np.array(tensor.data) for tensor in request.output_tensors]


def _put(run: ChunkedRun, name: str, value: np.ndarray) -> None:
    if not name.startswith("present_"):
        run.put(name, value)
    elif not past_of(name)[1]:  # written into the caller's, whose capacity is longer
        cache = run.take(name.replace("present_", "past_"))
        cache[:, :, : value.shape[KEYS]] = value
        run.put(name, cache)
        run.drop([name])


def _input(run: ChunkedRun, name: str) -> np.ndarray:
    if name == BEAM:
        return np.zeros(1, np.int32)
    past, _ = past_of(name)
    if not past.startswith("past_"):
        return np.asarray(run.take(name), order="C")  # ascontiguousarray would give scalars an axis
    return np.ascontiguousarray(run.take(past)[:, :, : int(run.take("write_index")[0])])


def _cut(model: Any, limit: int) -> Iterator[_Chunk]:
    """A model taken apart in the order of its operations; weights of a chunk take `limit` bytes, or are of one product.

    A product stays with what dequantizes its weight: operations on constants alone belong to who reads them.
    """
    names = {_key(each.output(0)): each.output(0).any_name for each in model.get_parameters()}
    results = {_key(each.input_value(0)): each.output(0).any_name for each in model.get_results()}
    constant: set[Any] = set()
    parts: list[list[Any]] = [[]]
    sizes = [0]
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind in ("Parameter", "Result"):
            continue
        if kind == "ReadValue":
            # What chooses one beam's of them would be given the cache before the run at hand has its rows: the first of
            # two runs may not have been through the chunk that appends them.
            (chosen,) = {port.get_node() for port in node.output(0).get_target_inputs()}
            names[_key(chosen.output(0))] = node.get_attributes()["variable_id"]
        elif _key(node.output(0)) in names:
            continue
        elif kind == "Assign":
            past, copied = past_of(node.get_attributes()["variable_id"])
            if not copied:
                results[_key(node.input_value(0))] = present_of(past)
        elif all(_key(value) in constant for value in node.input_values()):
            constant |= {_key(value) for value in node.outputs()}
        else:
            weights = sum(_weight(value) for value in node.input_values() if _key(value) in constant)
            # The second: what follows a weight above the limit, so that it stays alone.
            if parts[-1] and (sizes[-1] + weights > limit if weights else sizes[-1] > limit):
                parts.append([])
                sizes.append(0)
            parts[-1].append(node)
            sizes[-1] += weights
    made = {_key(value): number for number, part in enumerate(parts) for node in part for value in node.outputs()}
    used: dict[Any, int] = {}
    for number, part in enumerate(parts):
        used |= {_key(value): number for node in part for value in node.input_values()}
    names |= {key: f"value {key[0]}:{key[1]}" for key in made}
    for number, part in enumerate(parts):
        yield _chunk(part, number, names, results, constant, made, used, sizes[number], limit)


def _chunk(
    part: list[Any], number: int, names: Any, results: Any, constant: Any, made: Any, used: Any, nbytes: int, limit: int
) -> _Chunk:
    from openvino import opset13 as ops

    given: dict[str, Any] = {}
    for node in part:
        for port in node.inputs():
            value = port.get_source_output()
            key = _key(value)
            if key in constant or made.get(key) == number:
                continue
            if names[key] not in given:
                given[names[key]] = ops.parameter(value.get_partial_shape(), value.get_element_type(), names[key])
            port.replace_source_output(given[names[key]].output(0))
    outputs = {}
    for value in (each for node in part for each in node.outputs()):
        key = _key(value)
        if key in results:
            outputs[results[key]] = ops.result(value)
        if used.get(key, -1) > number:
            outputs[names[key]] = ops.result(value)
    last = {names[key]: at for key, at in used.items() if key in names}
    return _Chunk(
        list(given.values()),
        list(outputs.values()),
        tuple(given),
        tuple(outputs),
        tuple(name for name in given if last[name] == number and not past_of(name)[0].startswith("past_")),
        nbytes,
        _stored(part[0]) if len(part) == 1 and nbytes > limit else None,
    )


def _key(value: Any) -> tuple[str, int]:
    return value.get_node().get_friendly_name(), value.get_index()


def _weight(value: Any) -> int:
    """Bytes of the constants that a value is made of, those of floating point as fp32."""
    node = value.get_node()
    if node.get_type_name() == "Constant":
        half = node.get_element_type().get_type_name() == "f16"
        return (2 if half else 1) * int(node.get_byte_size())
    return sum(_weight(each) for each in node.input_values())


def _take_last_rows(model: Any, rows: int) -> None:
    """A graph with a head goes on with its last `rows`, and not with the last alone."""
    from openvino import opset13 as ops

    takers = [node for node in model.get_ordered_ops() if _takes_last_row(node)]
    if not takers:
        raise ValueError("no operation of this graph takes its last row")
    for node in takers:
        node.input(1).replace_source_output(ops.constant(np.array([-rows], np.int64)).output(0))
    model.validate_nodes_and_infer_types()


def _takes_last_row(node: Any) -> bool:
    """Slice(data, -1, end, step, axis 1)."""
    if node.get_type_name() != "Slice":
        return False
    values = [node.input_value(index).get_node() for index in (1, 4)]
    return all(each.get_type_name() == "Constant" for each in values) and [
        each.get_vector().tolist() for each in values
    ] == [[-1], [1]]
