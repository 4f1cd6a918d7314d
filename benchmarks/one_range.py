"""An int8 bundle with the kernels that int8 had before: activations in one range for all rows, to time rows against.

`DynamicQuantizeLinear` and `MatMulIntegerToFloat` in the place of what `passes/dynamic_int8.py` writes; weights, scales
and the rest of the graph are the same.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, helper

from fastv_export.staging import staging
from fastv_runtime.config.bundle import MANIFEST, FileDigest, read_manifest, sha256


def write_one_range(source: Path, output: Path) -> None:
    """The int8 bundle at `source` with one range for all rows, at `output`, which must not exist.

    Files that do not change are linked: both must be on one disk.
    """
    manifest = read_manifest(source)
    files = dict(manifest.files)
    with staging(output) as folder:
        shutil.copytree(source, folder, copy_function=os.link, dirs_exist_ok=True)
        for name in manifest.graphs.keys() & set(manifest.plan.decoder_graphs):
            file = folder / manifest.graphs[name].file
            model = onnx.load(file, load_external_data=False)
            assert with_one_range(model), f"{source}: no product of {name} computes in int8"
            file.unlink()  # a link to the source's
            onnx.save(model, file)
            files[manifest.graphs[name].file] = FileDigest(sha256=sha256(file), size=file.stat().st_size)
        manifest = manifest.model_copy(update={"files": files, "verified": None})
        (folder / MANIFEST).unlink()
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        folder.rename(output)


def with_one_range(model: ModelProto) -> int:
    """In place: products of rows in ranges of their own become products of rows in one; returns how many there were.

    Only nodes and names are looked at: weights need not be loaded.
    """
    nodes = model.graph.node
    makers = {name: node for node in nodes for name in node.output}
    products = {node.output[0] for node in nodes if node.op_type == "MatMulIntegerToFloat"}
    rounded = {makers[name].input[0] for name in products}
    divisions = {name: makers[makers[name].input[0]] for name in rounded}
    assert {node.op_type for node in divisions.values()} <= {"Div"}, "rows of these products share a range already"
    sizes = {node.input[1] for node in divisions.values()}
    absolute = {makers[name].input[0] for name in sizes}
    for node in nodes:  # behind `down`: its own rows' sizes times those that `up` left out
        if node.op_type == "Mul" and set(node.input) <= sizes:
            sizes.add(node.output[0])
    scaled = {
        node.input[0]: node.output[0]
        for node in nodes
        if node.op_type == "Mul" and node.input[0] in products and node.input[1] in sizes
    }
    dropped = {node.output[0] for node in divisions.values()} | absolute | sizes | set(scaled.values())
    kept: list[NodeProto] = []
    for node in nodes:
        name = node.output[0]
        if name in rounded:
            outputs = [name, f"{name}.scale", f"{name}.zero"]
            kept.append(helper.make_node("DynamicQuantizeLinear", [divisions[name].input[0]], outputs))
        elif name in products:
            integers, weight, _, scales, _ = node.input
            node.input[:] = [integers, weight, f"{integers}.scale", scales, f"{integers}.zero"]
            node.output[0] = scaled.get(name, name)
            kept.append(node)
        elif name not in dropped:
            kept.append(node)
    read = {name for node in kept for name in node.input}
    constants = [each for each in model.graph.initializer if each.name in read]
    del nodes[:], model.graph.initializer[:]
    nodes.extend(kept)
    model.graph.initializer.extend(constants)
    return len(products)
