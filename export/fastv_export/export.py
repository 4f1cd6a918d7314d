"""The whole export: checkpoint in, bundle out, in one atomic step."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
from safetensors.torch import save

from fastv_export import attention, hf, hf_probe, support, tower_attention
from fastv_export.activations import Activation
from fastv_export.checkpoint import Checkpoint
from fastv_export.dialects import TARGETS, Dialect
from fastv_export.digests import Digests
from fastv_export.end_to_end import EndToEnd, NoRoom, Question, ask
from fastv_export.families import Family, family_of
from fastv_export.generation import generation_defaults, generation_notes
from fastv_export.golden import Tensors, golden_vectors
from fastv_export.graphs import build_graph, save_graph
from fastv_export.passes import Scaled, quantise_activations, quantise_weights, scale_inputs
from fastv_export.plan import Options, check_positions, decoder_dimensions, make_plan
from fastv_export.progress import Progress
from fastv_export.rankers import RANKERS
from fastv_export.reading import reading
from fastv_export.rounding import Rounding
from fastv_export.rounding_plan import activation_of, method_of, rounding_of, rounds_activations
from fastv_export.skeleton import Skeleton, listed
from fastv_export.staging import require_space, staging
from fastv_export.static_ranges import HEAD, LIMIT, bears_one_range, check_sizes
from fastv_export.streamed import stream_model
from fastv_export.text_activations import text_activations
from fastv_export.unrotated import check_projections
from fastv_export.verify import verify_graph
from fastv_runtime.bundle import (
    EMBEDDING,
    END_TO_END,
    GOLDEN,
    MANIFEST,
    PROCESSOR,
    SCHEMA_VERSION,
    Decoder,
    GraphSpec,
    Manifest,
    Plan,
    Precision,
    Tokens,
)
from fastv_runtime.contract import Contract, contracts
from fastv_runtime.errors import UserError
from fastv_runtime.selftest import tolerance
from fastv_runtime.vision import Vision

RECORDED_VERSIONS = ("fastv-edge", "torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime")

DECODERS = ("prefix", "suffix", "decoder")
"""Graphs of decoder layers."""


class VerificationError(Exception):
    """A graph does not compute what transformers computes."""


def export_bundle(
    source: str | Path,
    output: str | Path,
    options: Options,
    progress: Progress,
    activations: Mapping[str, Activation] | None = None,
    *,
    digests: dict[str, str] | None = None,
) -> Manifest:
    """Write the bundle of a checkpoint to `output`, which must not exist.

    activations: what its products are given, by which weights of few bits are scaled. None rounds them as they are, but
    where activations are rounded too: a text of the exporter's own shows what their products are given.
    digests: `calibration.source_digests` of the checkpoint; None hashes it while its graphs are traced.
    The bundle appears there whole or not at all. Raises UserError for what cannot be exported, VerificationError when
    a graph and transformers disagree.
    """
    output = check_output(output)
    checkpoint = Checkpoint(source)
    family = family_of(checkpoint.model_type(), str(checkpoint.path / "config.json"))
    with staging(output) as folder:
        manifest = _write(checkpoint, family, options, activations, output, folder, progress, digests)
        folder.rename(output)
    return manifest


def check_output(output: str | Path) -> Path:
    """The path of a bundle to write; UserError if something is there, or nowhere to put it."""
    output = Path(output)
    if output.exists():
        raise UserError(f"{output}: already exists: remove it, or give another -o")
    if not output.absolute().parent.is_dir():
        raise UserError(f"{output.absolute().parent}: no such directory: make it first")
    return output


def _write(
    checkpoint: Checkpoint,
    family: Family,
    options: Options,
    activations: Mapping[str, Activation] | None,
    output: Path,
    folder: Path,
    progress: Progress,
    source: dict[str, str] | None,
) -> Manifest:
    attention.register()
    tower_attention.register()
    config = support.check_config(checkpoint, family)
    dimensions = decoder_dimensions(config, family)
    vision, video = family.vision(config, options.image_tokens), family.video(config)
    plan = make_plan(options, dimensions, vision, video)
    check_positions(plan, family.max_positions(config))
    if plan.weights is not None and plan.weights.static and activations is not None:
        check_sizes(activations)
    generation = generation_defaults(checkpoint)
    skeleton = Skeleton(checkpoint, family, attention=attention.IMPLEMENTATION, precision=plan.precision)
    support.check_model(checkpoint, skeleton, family, config, vision, video)
    if plan.layer is not None and not RANKERS[plan.ranker].rotary:
        scored = hf.layers_of(family.decoder(skeleton.model))[plan.layer - 1]
        check_projections(hf.attention_of(scored), plan.ranker, family.model_type)
    # Beside weights of four or eight bits, a table of fp32 would weigh as much as the layers.
    embedding_dtype: Precision = plan.precision if plan.weights is None else "float16"
    decoder = family.decoder(skeleton.model)
    embedding = skeleton.weight(
        "weight", hf.embeddings_of(decoder).weight, embedding_dtype, factor=hf_probe.embedding_factor(decoder) or 1.0
    )
    if checkpoint.ignored:
        progress.note(
            f"note: {checkpoint.path}: weights are read from {listed([each.name for each in checkpoint.files])}, as "
            f"transformers does, and not from {listed([each.name for each in checkpoint.ignored])}"
        )
    for note in generation_notes(checkpoint, plan):
        progress.note(note)
    for name, tied in skeleton.untied.items():
        progress.note(
            f"note: {checkpoint.path}: {name} and {tied} are stored with different values though config.json ties "
            "them: each is used as it is stored, as transformers does"
        )
    if skeleton.unused:
        progress.note(
            f"warning: {checkpoint.path}: {len(skeleton.unused)} tensors are not used: {listed(skeleton.unused)}"
        )
    require_space(output, skeleton.parameters * int(embedding.dtype.itemsize) + embedding.nbytes)
    family.write_processor(checkpoint, folder / PROCESSOR)
    tokens = Tokens(
        image=family.image_token_id(config),
        video=None if video is None else family.video_token_id(config),
        video_marker=None if video is None else family.video_marker,
        stop=family.stop_tokens(checkpoint, config),
    )
    question = _question(checkpoint, folder, tokens, vision, dimensions, plan, progress)
    with progress.weights("hash") as hashed, Digests(hashed) as digests:
        # The checkpoint is hashed while its graphs are traced, and the bundle while it is verified.
        unhashed = () if source is not None else (checkpoint.path / "config.json", *checkpoint.files)
        digests.add(*unhashed)
        contract = contracts(dimensions, vision, video, plan, plan.precision)
        dialect = TARGETS[options.target]
        by = "the calibration"
        if activations is None and plan.weights is not None and rounds_activations(plan, plan.weights, dialect.name):
            by = "a text of the exporter's own"
            try:
                with progress.weights("what a text gives to products", _stored_bytes(checkpoint)) as read:
                    stock, limit = stream_model(checkpoint, family, read=read), family.max_positions(config)
                    most = None if limit is None else limit.positions
                    activations = text_activations(stock, family, folder / PROCESSOR, tokens, most)
            except UserError as error:
                progress.note(f"warning: weights are rounded without scales, since no text can be read: {error}")
        graphs, rounded, scaled = _write_graphs(
            contract, dialect, skeleton, family, vision, plan, dimensions, activations, folder, progress
        )
        if scaled:
            progress.note(_scales(scaled, by))
            if wide := [name for each in scaled for name in each.wide if not name.startswith(HEAD)]:
                progress.note(_wide(len(wide), scaled))
        with progress.weights("write embedding table", embedding.nbytes) as written:
            with (folder / EMBEDDING).open("wb") as file:
                embedding.tofile(file)
            written(embedding.nbytes)
        digests.add(*_files(folder))
        with progress.weights("golden vectors from transformers", _stored_bytes(checkpoint)) as read:
            stock = stream_model(checkpoint, family, plan.precision, read, rounded, embedding_dtype)
            golden = _as_cached(golden_vectors(stock, family, dimensions, vision, video, plan), scaled)
        (folder / GOLDEN).write_bytes(save(golden))
        digests.add(folder / GOLDEN)
        verified = None
        if options.verify and plan.precision == "bfloat16":
            progress.note("note: nothing here computes in bfloat16: engines are compared when they are built")
        elif options.verify:
            chain = None
            if question is not None:
                chain = EndToEnd(question, family, graphs, folder, dimensions, plan, embedding_dtype)
            verified = _verify(graphs, folder, golden, plan, dimensions, chain, progress)
            if chain is not None:
                with progress.weights("the same question to transformers", _stored_bytes(checkpoint)) as read:
                    stock = stream_model(checkpoint, family, plan.precision, read, rounded, embedding_dtype)
                    verified[END_TO_END] = _compare(chain, stock)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            family=family.model_type,
            decoder=dimensions,
            vision=vision,
            video=video,
            plan=plan,
            tokens=tokens,
            generation=generation,
            graphs=graphs,
            embedding_dtype=embedding_dtype,
            files={str(path.relative_to(folder)): digests[path] for path in _files(folder)},
            source=source or {path.name: digests[path].sha256 for path in unhashed},
            versions={name: importlib.metadata.version(name) for name in RECORDED_VERSIONS},
            verified=verified,
        )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def _question(
    checkpoint: Checkpoint,
    folder: Path,
    tokens: Tokens,
    vision: Vision,
    dimensions: Decoder,
    plan: Plan,
    progress: Progress,
) -> Question | None:
    """What goes from picture to tokens; None where the plan bears no such question.

    Raises UserError for a checkpoint that cannot be asked about a picture: before minutes of work, not after.
    """
    try:
        with reading(checkpoint.path, folder / PROCESSOR):
            return ask(folder / PROCESSOR, tokens, vision, dimensions, plan)
    except NoRoom as error:
        progress.note(f"warning: not verified from picture to tokens, since a short question does not fit: {error}")
        return None
    except UserError as error:
        words = str(error).replace(str(folder / PROCESSOR), str(checkpoint.path))
        prefix = (
            "" if words.startswith(str(checkpoint.path)) else f"{checkpoint.path}: nobody could ask about a picture: "
        )
        raise UserError(prefix + words) from error


def _write_graphs(
    declared: dict[str, Contract],
    dialect: Dialect,
    skeleton: Skeleton,
    family: Family,
    vision: Vision,
    plan: Plan,
    dimensions: Decoder,
    activations: Mapping[str, Activation] | None,
    folder: Path,
    progress: Progress,
) -> tuple[dict[str, GraphSpec], dict[str, Rounding], list[Scaled]]:
    """The graphs; the rounding of every weight that was rounded, by its name in the checkpoint; what was scaled."""
    (folder / "onnx").mkdir()
    graphs: dict[str, GraphSpec] = {}
    rounded: dict[str, Rounding] = {}
    scaled: list[Scaled] = []
    for name, contract in declared.items():
        with progress.step(f"trace {name}"):
            model = build_graph(name, contract, skeleton, family, vision, plan)
        rounding = rounding_of(
            name, plan, dialect.name, layers=dimensions.num_hidden_layers, width=dimensions.hidden_size
        )
        if plan.weights is not None and activations is not None and name in DECODERS:
            with progress.step(f"choose scales of {name}"):
                known, method = activation_of(name, plan, activations), method_of(plan, plan.weights, dialect.name)
                bears = (bears_one_range,) if plan.weights.static else ()
                scaled.append(scale_inputs(model, rounding, known, method, *bears))
                rounding = scaled[-1].rounding_of
        rounded |= quantise_weights(model, rounding)
        if plan.weights is not None and plan.weights.static and name in DECODERS:
            quantise_activations(model, scaled[-1].ranges)
        dialect.lower(model)
        with progress.weights(f"write {name}", _weight_bytes(model)) as written:
            save_graph(model, folder / "onnx" / f"{name}.onnx", written)
        graphs[name] = GraphSpec(
            file=f"onnx/{name}.onnx",
            dialect=dialect.name,
            opset=dialect.opset,
            tensorrt=dialect.tensorrt,
            inputs=contract[0],
            outputs=contract[1],
        )
    return graphs, rounded, scaled


def _scales(scaled: list[Scaled], by: str) -> str:
    stuck = sum(each.stuck for each in scaled)
    return (
        f"scales by {by}: {sum(each.scaled for each in scaled)} inputs of products; plain rounding "
        f"serves {sum(each.plain for each in scaled)} as well"
        + (f", and is all there is for {stuck}: nothing before them takes a scale" if stuck else "")
    )


def _wide(wide: int, scaled: list[Scaled]) -> str:
    given = wide + sum(len(each.ranges) for each in scaled)
    return (
        f"note: {wide} of {given} inputs of products are not rounded, their weights alone have eight bits: one range "
        f"for all rows would put an ordinary one more than {LIMIT:.1%} off, since a few are far larger"
    )


def _as_cached(golden: Tensors, scaled: list[Scaled]) -> Tensors:
    """Golden vectors with the values of caches divided as a bundle's are."""
    divisors = {name: divisor for each in scaled for name, divisor in each.caches.items()}
    for name, tensor in golden.items():
        divisor = divisors.get(name.rpartition("/")[2].replace("past_", "present_"))
        if divisor is not None:
            golden[name] = tensor / divisor
    return golden


def _weight_bytes(model: ir.Model) -> int:
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)


def _stored_bytes(checkpoint: Checkpoint) -> int:
    return sum(tensor.stop - tensor.start for tensor in checkpoint.tensors.values())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _verify(
    graphs: dict[str, GraphSpec],
    folder: Path,
    golden: Tensors,
    plan: Plan,
    dimensions: Decoder,
    chain: EndToEnd | None,
    progress: Progress,
) -> dict[str, float]:
    """Worst difference of every graph from transformers; VerificationError if one is more than rounding explains.

    chain: the question that goes through the same graphs.
    """
    arrays = {name: tensor.numpy() for name, tensor in golden.items()}
    worst: dict[str, float] = {}
    wrong = []
    first_of_decoder = "decoder" if plan.layer is None else "prefix"
    for name, spec in graphs.items():
        data = folder / f"{spec.file}.data"
        with progress.weights(f"verify {name}", data.stat().st_size if data.is_file() else 0) as read:
            if chain is not None and name == first_of_decoder:
                chain.encode(read)
            beside = [] if chain is None else chain.runs(name)
            differences = verify_graph(name, spec, folder, arrays, plan, read, beside=beside)
        if not differences:
            continue
        worst[name] = max(differences.values())
        limits = {output: tolerance(plan, spec, dimensions, output) for output in differences}
        # Written so that a NaN fails too.
        first = next((output for output, value in differences.items() if not value <= limits[output]), None)
        if first is not None:
            wrong.append(f"{name} by {differences[first]:.2g} at {first} (limit {limits[first]:.1g})")
    if wrong:
        raise VerificationError(f"graphs differ from transformers: {', '.join(wrong)}; no bundle was written")
    return worst


def _compare(chain: EndToEnd, stock: Any) -> float:
    """Worst difference of the whole chain; VerificationError if it is more than rounding explains."""
    differences = chain.compare(stock)
    wrong = [
        f"{name} by {found:.2g} (limit {limit:.1g})"
        for name, (found, limit) in differences.items()
        if not found <= limit
    ]
    if wrong:
        raise VerificationError(
            f"from picture to tokens, the bundle differs from transformers: {', '.join(wrong)}; no bundle was written"
        )
    return max(found for found, _ in differences.values())
