"""What pruning itself costs: nodes of the prefix that only the scores need, and the select graph, each run alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from fastv_runtime.config.bundle import read_manifest
from fastv_runtime.config.lengths import capacity


def scoring_ms(bundle: Path, tokens: int, threads: int) -> float:
    """Median time of the nodes that only the scores need, cut out of the prefix and run alone."""
    path = bundle / "onnx" / "prefix.onnx"
    model = onnx.load(path, load_external_data=False)
    others = [output.name for output in model.graph.output if output.name != "scores"]
    shared = ancestors(model.graph, others)
    own = ancestors(model.graph, ["scores"]) - shared
    nodes = [node for index, node in enumerate(model.graph.node) if index in own]
    made = {name for node in nodes for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    boundary = {name for node in nodes for name in node.input if name and name not in made}
    held = [name for name in boundary if name in constants]
    for name in held:
        if uses_external_data(constants[name]):
            load_external_data_for_tensor(constants[name], str(path.parent))
    constant_nodes = [makers[name] for name in boundary if name in makers and makers[name].op_type == "Constant"]
    dimensions = read_manifest(bundle).decoder
    known = {value.name: value for value in (*model.graph.input, *model.graph.output)}
    fed = sorted(boundary - set(held) - {each.output[0] for each in constant_nodes})
    inputs = [known[name] if name in known else _rows(makers[name], name, dimensions.head_dim) for name in fed]
    output = next(value for value in model.graph.output if value.name == "scores")
    graph = onnx.helper.make_graph(
        [*constant_nodes, *nodes], "scoring", inputs, [output], [constants[name] for name in held]
    )
    cut = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(cut.SerializeToString(), options)
    generator = np.random.default_rng(0)
    feeds = {
        each.name: generator.standard_normal(
            [size if isinstance(size, int) else tokens for size in each.shape], dtype=np.float32
        )
        for each in session.get_inputs()
        if each.name != "write_index"
    }
    # Queries of the last row, keys of the whole cache, and how much of it is filled.
    query = dimensions.num_attention_heads * dimensions.head_dim
    assert [array.shape[-1] for array in feeds.values()].count(query) == 1 + ("hidden" in feeds), sorted(feeds)
    assert any(name.startswith("present_key_") for name in feeds), sorted(feeds)
    feeds["write_index"] = np.zeros(1, np.int64)
    return timed(lambda: session.run(None, feeds))


def _rows(maker: onnx.NodeProto, name: str, width: int) -> onnx.ValueInfoProto:
    """What a RotaryEmbedding makes: rows of all its heads."""
    heads = next(attribute.i for attribute in maker.attribute if attribute.name == "num_heads")
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, "S", heads * width])


def selecting_ms(bundle: Path, text: int, visual: int, threads: int) -> float:
    """Median time of the select graph alone, which keeps what the bundle's plan keeps of `visual` tokens."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(bundle / "onnx" / "select.onnx", options)
    generator = np.random.default_rng(0)
    manifest, tokens = read_manifest(bundle), text + visual
    prunable = np.zeros((1, tokens), bool)
    prunable[0, :visual] = True
    feeds = {
        "hidden": generator.standard_normal((1, tokens, manifest.decoder.hidden_size), dtype=np.float32),
        "scores": generator.random((1, capacity(manifest.plan).keys[0]), dtype=np.float32),
        "position_ids": np.arange(tokens)[None],
        "prunable": prunable,
        "length": np.asarray([text + round(visual * manifest.plan.keep)]),
    }
    return timed(lambda: session.run(None, feeds))


def ancestors(graph: onnx.GraphProto, outputs: list[str]) -> set[int]:
    """Indices of the nodes that the outputs need."""
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    found: set[int] = set()
    stack = list(outputs)
    while stack:
        index = makers.get(stack.pop())
        if index is not None and index not in found:
            found.add(index)
            stack.extend(graph.node[index].input)
    return found


def timed(run: Callable[[], Any], repeats: int = 30) -> float:
    """Median milliseconds of a call, after a warm-up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    return median(times)
