"""The whole export: checkpoint in, bundle out, in one atomic step."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx_ir as ir
from safetensors.torch import save

from fastv_export import attention, reference, tower_attention
from fastv_export.checkpoint import Checkpoint
from fastv_export.families import Family, family_of
from fastv_export.golden import golden_vectors
from fastv_export.graphs import ORT_OPSET, build_graph, lower_to_ort, save_graph
from fastv_export.plan import Options, check_positions, decoder_dimensions, make_plan
from fastv_export.progress import Progress
from fastv_export.skeleton import Skeleton
from fastv_runtime.bundle import (
    EMBEDDING,
    GOLDEN,
    MANIFEST,
    PROCESSOR,
    SCHEMA_VERSION,
    Bundle,
    Decoder,
    FileDigest,
    GraphSpec,
    Manifest,
    Plan,
    Tokens,
    sha256,
)
from fastv_runtime.contract import contracts
from fastv_runtime.engines.onnxruntime import OrtEngine
from fastv_runtime.errors import UserError
from fastv_runtime.selftest import TOLERANCE, self_test
from fastv_runtime.vision import Video, Vision

RECORDED_VERSIONS = ("fastv-edge", "torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime")


class VerificationError(Exception):
    """A graph does not compute what transformers computes."""


def export_bundle(source: str | Path, output: str | Path, options: Options, progress: Progress) -> Manifest:
    """Write the bundle of a checkpoint to `output`, which must not exist.

    It appears there whole or not at all. Raises UserError for what cannot be exported, VerificationError when a
    graph and transformers disagree.
    """
    output = check_output(output)
    checkpoint = Checkpoint(source)
    family = family_of(checkpoint.model_type(), str(checkpoint.path / "config.json"))
    with _staging(output) as staging:
        manifest = _write(checkpoint, family, options, staging, progress)
        staging.rename(output)
    return manifest


def check_output(output: str | Path) -> Path:
    """The path of a bundle to write; UserError if something is there, or nowhere to put it."""
    output = Path(output)
    if output.exists():
        raise UserError(f"{output}: already exists: remove it, or give another -o")
    if not output.absolute().parent.is_dir():
        raise UserError(f"{output.absolute().parent}: no such directory: make it first")
    return output


@contextmanager
def _staging(output: Path) -> Iterator[Path]:
    """A directory beside the output, renamed into place at the end; removed if anything goes wrong before."""
    staging = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.absolute().parent))
    # mkdtemp makes it private; a bundle has the permissions that any new directory has.
    umask = os.umask(0)
    os.umask(umask)
    staging.chmod(0o777 & ~umask)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write(checkpoint: Checkpoint, family: Family, options: Options, staging: Path, progress: Progress) -> Manifest:
    attention.register()
    tower_attention.register()
    config = family.config(checkpoint)
    dimensions = decoder_dimensions(config, family)
    vision, video = family.vision(config, options.image_tokens), family.video(config)
    plan = make_plan(options, dimensions, vision, video)
    check_positions(plan, family.max_positions(config))
    skeleton = Skeleton(checkpoint, family, attention=attention.IMPLEMENTATION)
    declared = contracts(dimensions, vision, video, plan, "float32")
    (staging / "onnx").mkdir()
    graphs: dict[str, GraphSpec] = {}
    for name, contract in declared.items():
        with progress.step(f"trace {name}"):
            model = build_graph(name, contract, skeleton, family, vision, plan)
            lower_to_ort(model)
        with progress.weights(f"write {name}", _weight_bytes(model)) as written:
            save_graph(model, staging / "onnx" / f"{name}.onnx", written)
        graphs[name] = GraphSpec(
            file=f"onnx/{name}.onnx", dialect="ort", opset=ORT_OPSET, inputs=contract[0], outputs=contract[1]
        )
    _write_embedding(skeleton, family, staging / EMBEDDING, progress)
    family.write_processor(checkpoint, staging / PROCESSOR)
    with progress.step("golden vectors from transformers"):
        golden = golden_vectors(reference.load_model(checkpoint.path, family), family, dimensions, vision, video, plan)
        (staging / GOLDEN).write_bytes(save(golden))
    manifest = _manifest(checkpoint, family, dimensions, vision, video, plan, graphs, staging, progress)
    if options.verify:
        manifest = manifest.model_copy(update={"verified": _verify(staging, manifest, progress)})
    (staging / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def _weight_bytes(model: ir.Model) -> int:
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)


def _write_embedding(skeleton: Skeleton, family: Family, path: Path, progress: Progress) -> None:
    """The embedding table as one flat fp32 file, in blocks of rows."""
    table = skeleton.stored(family.decoder(skeleton.model).embed_tokens)["weight"]
    rows = table.read()
    block = max(1, (16 << 20) // rows[:1].nbytes)
    with (
        progress.weights("write embedding table", rows.shape[0] * rows.shape[1] * 4) as written,
        path.open("wb") as file,
    ):
        for start in range(0, rows.shape[0], block):
            written(file.write(rows[start : start + block].astype(np.float32).tobytes()))


def _manifest(
    checkpoint: Checkpoint,
    family: Family,
    dimensions: Decoder,
    vision: Vision,
    video: Video | None,
    plan: Plan,
    graphs: dict[str, GraphSpec],
    staging: Path,
    progress: Progress,
) -> Manifest:
    paths = sorted(path for path in staging.rglob("*") if path.is_file())
    sources = [checkpoint.path / "config.json", *checkpoint.files]
    total = sum(path.stat().st_size for path in (*paths, *sources))
    config = family.config(checkpoint)
    with progress.weights("hash", total) as hashed:
        files = {
            str(path.relative_to(staging)): FileDigest(sha256=sha256(path, hashed), size=path.stat().st_size)
            for path in paths
        }
        source = {path.name: sha256(path, hashed) for path in sources}
    return Manifest(
        schema_version=SCHEMA_VERSION,
        family=family.model_type,
        decoder=dimensions,
        vision=vision,
        video=video,
        plan=plan,
        tokens=Tokens(
            image=family.image_token_id(config),
            video=None if video is None else family.video_token_id(config),
            video_marker=None if video is None else family.video_marker,
            stop=family.stop_tokens(checkpoint, config),
        ),
        graphs=graphs,
        embedding_dtype="float32",
        files=files,
        source=source,
        versions={name: importlib.metadata.version(name) for name in RECORDED_VERSIONS},
        verified=None,
    )


def _verify(staging: Path, manifest: Manifest, progress: Progress) -> dict[str, float]:
    bundle = Bundle(staging, manifest)
    with progress.step("verify graphs against transformers"):
        differences = self_test(bundle, lambda _, spec: OrtEngine(bundle.file(spec.file)))
    # Written so that a NaN fails too.
    wrong = {name: value for name, value in differences.items() if not value <= TOLERANCE}
    if wrong:
        listed = ", ".join(f"{name} by {value:.2g}" for name, value in wrong.items())
        raise VerificationError(
            f"graphs differ from transformers: {listed} (limit {TOLERANCE:.0e}, relative); no bundle was written"
        )
    return differences
