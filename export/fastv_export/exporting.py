"""The whole export: checkpoint in, bundle out, in one atomic step."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from safetensors.torch import save

from fastv_export import hf, support
from fastv_export.checkpoint.checkpoint import Checkpoint, NotFinite
from fastv_export.checkpoint.digests import Digests
from fastv_export.checkpoint.generation_config import generation_defaults, generation_notes
from fastv_export.checkpoint.reading import reading, within_bounds
from fastv_export.checkpoint.skeleton import Skeleton, listed
from fastv_export.checkpoint.streamed import stream_model
from fastv_export.config_values import layouts
from fastv_export.families import Family, family_of
from fastv_export.graphs.write import write_graphs
from fastv_export.hf import probe as hf_probe
from fastv_export.passes import (
    ScaledInputs,
)
from fastv_export.plan import Options, check_positions, decoder_dimensions, make_plan, plan_lines, position_note
from fastv_export.progress import Progress
from fastv_export.quantization.activations import Activation
from fastv_export.quantization.float_formats import HEADROOM
from fastv_export.quantization.notes import quantization_notes
from fastv_export.quantization.rules import wants_activations
from fastv_export.quantization.text_activations import text_activations
from fastv_export.rankers import RANKERS
from fastv_export.staging import check_output, named, staging
from fastv_export.targets import TARGETS
from fastv_export.tracing import attention, tower_attention
from fastv_export.tracing.pre_rope import check_projections
from fastv_export.verify.end_to_end import EndToEnd
from fastv_export.verify.golden import Tensors, golden_vectors
from fastv_export.verify.quantization_cost import quantization_cost, warning
from fastv_export.verify.question import NoRoom, Question, ask
from fastv_export.verify.whole import verify_chain, verify_graphs
from fastv_runtime.config.bundle import (
    EMBEDDING,
    END_TO_END,
    GOLDEN,
    MANIFEST,
    PROCESSOR,
    SCHEMA_VERSION,
    DecoderConfig,
    GraphSpec,
    Manifest,
    Tokens,
)
from fastv_runtime.config.io_spec import io_specs
from fastv_runtime.config.layouts import Vision
from fastv_runtime.config.plan import Plan, Precision
from fastv_runtime.errors import UserError
from fastv_runtime.files import require_space
from fastv_runtime.generation.prompts.prompt import PromptBuilder

RECORDED_VERSIONS = ("fastv-edge", "torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime")


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

    activations: what its products are given, by which weights of few bits are scaled and rounded. None: a text of the
    exporter's own shows it for four bits, and where activations are rounded too; others are rounded as they are.
    digests: `calibration.source_digests` of the checkpoint; None hashes it while its graphs are traced.
    The bundle appears there whole or not at all. Raises UserError for what cannot be exported, and where another
    process exports to the same place; VerificationError when a graph and transformers disagree.
    """
    output = Path(output)
    with staging(output, progress.note) as folder:
        return export_through(folder, source, output, options, progress, activations, digests=digests)


def export_through(
    folder: Path,
    source: str | Path,
    output: Path,
    options: Options,
    progress: Progress,
    activations: Mapping[str, Activation] | None = None,
    *,
    digests: dict[str, str] | None = None,
) -> Manifest:
    """`export_bundle` by way of a directory of `staging`, for who has more to do while the place is its own."""
    checkpoint = Checkpoint(source)
    family = family_of(checkpoint.model_type(), str(checkpoint.path / "config.json"))
    manifest = _write(checkpoint, family, options, activations, output, folder, progress, digests)
    check_output(output)  # an older version, or another program, may have been faster
    folder.rename(output)
    return manifest


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
    TARGETS[options.target].require()
    attention.register()
    tower_attention.register()
    config = support.check_config(checkpoint, family)
    where = checkpoint.path / "config.json"
    with reading(where):
        dimensions, limit = decoder_dimensions(config, family), family.max_positions(config)
    vision, video = layouts(where, family, config, options.image_tokens)
    with within_bounds(where):
        tokens = family.tokens(checkpoint, config)
    plan = make_plan(options, dimensions, vision, video)
    check_positions(plan, limit)
    beyond = position_note(plan, getattr(config.get_text_config(), "max_position_embeddings", None))
    if beyond is not None:
        progress.note(beyond)
    for line in plan_lines(plan, options.target, vision):
        progress.note(line)
    generation = generation_defaults(checkpoint)
    skeleton = Skeleton(checkpoint, family, attention=attention.IMPLEMENTATION, precision=plan.precision)
    support.check_model(checkpoint, skeleton, family, config, vision, video)
    for cut in plan.cuts:
        if not RANKERS[cut.ranker].rotary:
            scored = hf.layers_of(family.decoder(skeleton.model))[cut.layer - 1]
            check_projections(hf.attention_of(scored), cut.ranker, family.model_type)
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
    if plan.prunes and plan.length == "fixed" and plan.keep == 1:
        progress.note("note: `length` fixed: with `keep` 1 nothing is dropped, and every prompt has its own length")
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
    question = _question(checkpoint, folder, tokens, vision, dimensions, plan, progress)
    with progress.weights("hash") as hashed, Digests(hashed) as digests:
        # The checkpoint is hashed while its graphs are traced, and the bundle while it is verified.
        unhashed = () if source is not None else (checkpoint.path / "config.json", *checkpoint.files)
        digests.add(*unhashed)
        io_spec = io_specs(dimensions, vision, video, plan, plan.precision)
        dialect = TARGETS[options.target]
        calibrated, by = activations is not None, "the calibration"
        headroom = HEADROOM["calibration" if calibrated else "text"]
        if activations is None and plan.weights is not None and wants_activations(plan, plan.weights, dialect.name):
            by = "a text of the exporter's own"
            try:
                with progress.weights("what linear layers are given by a text", _stored_bytes(checkpoint)) as read:
                    stock = stream_model(checkpoint, family, read=read)
                    most = None if limit is None else limit.positions
                    activations = text_activations(stock, family, PromptBuilder(folder / PROCESSOR, tokens), most)
            except NotFinite:
                raise
            except UserError as error:
                without = (
                    "activations are not quantized" if plan.weights.floating else "weights are quantized without scales"
                )
                progress.note(f"warning: {without}, since no text can be read: {error}")
        graphs, rounded, scaled = write_graphs(
            io_spec, dialect, skeleton, family, vision, plan, dimensions, activations, headroom, folder, progress
        )
        if scaled and plan.weights is not None:
            for note in quantization_notes(scaled, plan.weights, by):
                progress.note(note)
        with progress.weights("write embedding table", embedding.nbytes) as written:
            with named(folder / EMBEDDING), (folder / EMBEDDING).open("wb") as file:
                embedding.tofile(file)
            written(embedding.nbytes)
        digests.add(*_files(folder))
        with progress.weights("golden vectors from transformers", _stored_bytes(checkpoint)) as read:
            stock = stream_model(checkpoint, family, plan.precision, read, rounded, embedding_dtype)
            golden = _as_cached(golden_vectors(stock, family, dimensions, vision, video, plan), scaled)
        with named(folder / GOLDEN):
            (folder / GOLDEN).write_bytes(save(golden))
        digests.add(folder / GOLDEN)
        verified, cost = None, None
        if options.verify and plan.precision == "bfloat16":
            progress.note("note: nothing here computes in bfloat16: engines are compared when they are built")
        elif options.verify:
            through = partial(EndToEnd, family=family, graphs=graphs, folder=folder, dimensions=dimensions, plan=plan)
            chain = None if question is None else through(question, embedding=embedding_dtype)
            verified = verify_graphs(graphs, folder, golden, plan, dimensions, chain, progress)
            if chain is not None:
                with progress.weights("the same question to transformers", _stored_bytes(checkpoint)) as read:
                    stock = stream_model(checkpoint, family, plan.precision, read, rounded, embedding_dtype)
                    verified[END_TO_END] = verify_chain(chain, stock)
            if question is not None and plan.weights is not None:
                chain = through(question, embedding=embedding_dtype, answered=question.answered, exact=False)
                with progress.weights("what quantization costs: bundle", _graph_bytes(graphs, folder)) as read:
                    chain.run(read)
                with progress.weights("what quantization costs: unquantized", _stored_bytes(checkpoint)) as read:
                    cost = quantization_cost(chain, stream_model(checkpoint, family, read=read))
                if (warned := warning(cost, plan, dialect.name, calibrated=calibrated)) is not None:
                    progress.note(warned)
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
            quantization=cost,
        )
    with named(folder / MANIFEST):
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def _question(
    checkpoint: Checkpoint,
    folder: Path,
    tokens: Tokens,
    vision: Vision,
    dimensions: DecoderConfig,
    plan: Plan,
    progress: Progress,
) -> Question | None:
    """What goes from image to tokens; None where the plan supports no such question.

    Raises UserError for a checkpoint that cannot be asked about an image: before minutes of work, not after.
    """
    try:
        with reading(checkpoint.path, folder / PROCESSOR):
            return ask(folder / PROCESSOR, tokens, vision, dimensions, plan)
    except NoRoom as error:
        progress.note(f"warning: not verified from image to tokens, since a short question does not fit: {error}")
        return None
    except UserError as error:
        words = str(error).replace(str(folder / PROCESSOR), str(checkpoint.path))
        prefix = (
            "" if words.startswith(str(checkpoint.path)) else f"{checkpoint.path}: nobody could ask about an image: "
        )
        raise UserError(prefix + words) from error


def _as_cached(golden: Tensors, scaled: list[ScaledInputs]) -> Tensors:
    """Golden vectors with the values of caches divided as a bundle's are."""
    divisors = {name: divisor for each in scaled for name, divisor in each.caches.items()}
    for name, tensor in golden.items():
        divisor = divisors.get(name.rpartition("/")[2].replace("past_", "present_"))
        if divisor is not None:
            golden[name] = tensor / divisor
    return golden


def _stored_bytes(checkpoint: Checkpoint) -> int:
    return sum(tensor.stop - tensor.start for tensor in checkpoint.tensors.values())


def _graph_bytes(graphs: Mapping[str, GraphSpec], folder: Path) -> int:
    """Bytes of all weights of a bundle's graphs."""
    files = [folder / spec.weights_file for spec in graphs.values()]
    return sum(file.stat().st_size for file in files if file.is_file())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
