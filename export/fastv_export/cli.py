"""fastv-export: checkpoint -> bundle."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastv_export.quantization.presets import BLOCK, DEFAULTS, FEW_BITS, FLOATING, TRT_BLOCK, WIDE
from fastv_export.rankers import RANKERS
from fastv_runtime.config.bundle import END_TO_END, Manifest
from fastv_runtime.config.plan import Part, Precision, Weights
from fastv_runtime.config.wording import cost_of, dialect_of, precision_of
from fastv_runtime.console import command, export_extras, stderr
from fastv_runtime.errors import UserError, missing_extra

TARGETS = ("ort", "trt", "trt-rtx", "trt-legacy")
PRECISIONS: dict[str, Precision] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
PLANNED = ("layer", "keep", "ranker", "length", "max_text", "image_tokens")
"""Flags whose values a calibration can give, and otherwise `Options`."""
DESCRIPTION = (
    "Split a vision-language model at decoder layer K and write it as a bundle that prunes visual tokens there."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything that `run` reads."""
    parser.add_argument(
        "source", metavar="SOURCE", help="checkpoint directory, as save_pretrained writes it, or hub id (org/name)"
    )
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a hub id (default: main)")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="bundle to write; must not exist")
    parser.add_argument(
        "--target",
        choices=TARGETS,
        default="ort",
        help="what will run it (default: %(default)s); engines are built where TensorRT is at hand",
    )
    parser.add_argument(
        "--precision",
        choices=(*PRECISIONS, *FEW_BITS, *FLOATING),
        help="of weights and activations; int4 and int8 are of weights alone, but with int8 products are int8 as well "
        "on ort, and on trt targets with --calibration; fp8 (GPUs since SM89) and nvfp4 (since SM100) are of the "
        "decoder's products on trt targets (default: fp16; for ort int8, which is for CPUs: its CUDA provider wants "
        "fp16)",
    )
    parser.add_argument(
        "--block",
        type=int,
        choices=[32, 64, 128],
        help="weights that share a scale (default: in int4 32, for trt 64; in int8 all inputs of an output)",
    )
    parser.add_argument(
        "--int8-parts",
        nargs="*",
        choices=["vision", "prefix", "first", "last", "values", "head"],
        metavar="PART",
        help="parts that keep 8 bits in int4: vision (towers), prefix (layers before K), first or last (one layer), "
        "values (of attention), head (default: vision prefix values head; with --no-prune first for prefix)",
    )
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        help="what fastv-calibrate chose for this checkpoint: --layer, --keep, --ranker, --length, --max-text and "
        "--precision int8 or int4, where they are not given; and by what it saw int4 and int8 weights are scaled (AWQ, "
        "SmoothQuant), and activations in fp8 and nvfp4 have their ranges",
    )
    parser.add_argument("--layer", type=int, metavar="K", help="prune after this many layers (default: 2)")
    parser.add_argument("--keep", type=float, metavar="R", help="fraction of visual tokens kept (default: 0.5)")
    parser.add_argument(
        "--ranker",
        choices=RANKERS,
        help="what chooses the m of N visual tokens that stay (default: fastv). "
        + "; ".join(f"{ranker.name}: {ranker.summary}" for ranker in RANKERS.values()),
    )
    parser.add_argument(
        "--length",
        choices=["exact", "fixed"],
        help="pruned length by default: exact per prompt, or one fixed by --max-text (default: exact)",
    )
    parser.add_argument("--max-text", type=int, metavar="N", help="text tokens a prompt may have (default: 128)")
    parser.add_argument("--max-images", type=int, default=1, metavar="N", help="images a prompt may have (default: 1)")
    parser.add_argument(
        "--max-visual",
        type=int,
        metavar="N",
        help="visual tokens a prompt may have (default: those of --max-images images, or of one video)",
    )
    parser.add_argument(
        "--image-tokens",
        type=int,
        metavar="N",
        help="most visual tokens of one image, for models that take any size (default: the family's)",
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=256,
        metavar="N",
        help="tokens an answer may have (default: 256)",
    )
    parser.add_argument("--no-prune", action="store_true", help="write the unsplit, unpruned baseline instead")
    parser.add_argument("--no-verify", action="store_true", help="do not compare the graphs with transformers")
    parser.add_argument("--json", action="store_true", help="print the bundle's manifest on stdout")


def run(args: argparse.Namespace) -> None:
    try:
        import torch  # noqa: F401  first, so that a device's user reads of torch and not of some helper

        from fastv_export.calibration import chosen_for, read_calibration, source_digests
        from fastv_export.checkpoint.checkpoint import Checkpoint
        from fastv_export.checkpoint.hub import resolve
        from fastv_export.engines import build_after_export
        from fastv_export.export import check_output, export_bundle
        from fastv_export.plan import Options
        from fastv_export.quantization.activations import read_activations, sidecar_of
    except ImportError as error:
        raise missing_extra(error.name or "torch", "export") from None
    from fastv_export.progress import Progress

    # A terminated export cleans up as an interrupted one does.
    signal.signal(signal.SIGTERM, _raise_exit)
    calibration = None if args.calibration is None else read_calibration(args.calibration)
    check_output(args.output)
    with Progress(stderr) as progress:
        source = resolve(args.source, args.revision, progress)
        chosen: dict[str, Any] = {}
        digests = None
        precision = args.precision
        if precision is None and calibration is None:
            precision = DEFAULTS.get(args.target)
        if calibration is not None:
            with progress.step("compare with the calibration"):
                digests = source_digests(Checkpoint(source))
                choice = chosen_for(calibration, source, digests)
            chosen = choice.model_dump(include=set(PLANNED))
            if precision is None and choice.precision in FEW_BITS:  # others are the target's own
                precision = choice.precision
        weights = _weights(precision, args.block, args.int8_parts, args.target, calibration is not None)
        if args.no_prune and weights is not None:
            weights = _unsplit(weights, args.int8_parts)
        activations = None
        if calibration is not None and weights is not None:
            activations = read_activations(sidecar_of(Path(args.calibration)), calibration.activations)
        given = {name: value for name in PLANNED if (value := getattr(args, name)) is not None}
        options = Options(
            **chosen | given | ({"layer": None} if args.no_prune else {}),
            max_images=args.max_images,
            max_visual=args.max_visual,
            max_new_tokens=args.max_new_tokens,
            precision=PRECISIONS.get(precision),
            weights=weights,
            target=args.target,
            verify=not args.no_verify,
        )
        manifest = export_bundle(source, args.output, options, progress, activations, digests=digests)
        build_after_export(Path(args.output), manifest, args.target, progress)
    if args.json:
        print(manifest.model_dump_json())
    stderr.print(f"{args.output}: {summary(manifest)}", highlight=False, soft_wrap=True)


def summary(manifest: Manifest) -> str:
    """One line about a bundle: its size, what it computes with, whether that is right, what rounding costs."""
    size = sum(digest.size for digest in manifest.files.values())
    few = manifest.plan.weights is not None
    said = [f"{size / 2**20:,.1f} MiB, {precision_of(manifest.plan, dialect_of(manifest.graphs))}"]
    if manifest.verified is None:
        said.append("not verified")
    else:
        worst = max(manifest.verified.values())
        whole = "from image to tokens" if END_TO_END in manifest.verified else "graph by graph"
        with_these = " with weights as rounded" if few else ""
        said.append(f"verified against transformers{with_these}, {whole}, within {worst:.1e}")
    if few:
        cost = "not measured" if manifest.quantization is None else cost_of(manifest.quantization)
        said.append(f"rounding itself costs: {cost}")
    return "; ".join(said)


def _weights(
    precision: str | None, block: int | None, parts: Sequence[Part] | None, target: str, calibrated: bool
) -> Weights | None:
    weights = None if precision is None else (FEW_BITS | FLOATING).get(precision)
    if weights is not None and weights.floating:
        for flag, given in (("--block", block), ("--int8-parts", parts)):
            if given is not None:
                raise UserError(f"{flag}: --precision {precision} has blocks and parts of its own: leave it out")
        return weights
    if parts is not None and (weights is None or weights.bits == 8):
        raise UserError("--int8-parts: they keep 8 bits where others have 4: add --precision int4, or leave it out")
    if weights is None:
        if block is not None:
            raise UserError(f"--block {block}: is of weights of few bits: add --precision int4 or int8")
        return None
    if weights.bits == 8:
        return weights.model_copy(update={"block": block, "static": calibrated and target != "ort" and block is None})
    wide = WIDE if parts is None else tuple(dict.fromkeys(parts))
    return weights.model_copy(update={"block": block or (BLOCK if target == "ort" else TRT_BLOCK), "wide": wide})


def _unsplit(weights: Weights, parts: Sequence[Part] | None) -> Weights:
    """Of a decoder without a prefix: its first layer keeps its bits instead."""
    if parts is not None and "prefix" in parts:
        raise UserError("--int8-parts prefix: with --no-prune there is none: use first, the decoder's first layer")
    wide: list[Part] = ["first" if part == "prefix" else part for part in weights.wide]
    return weights.model_copy(update={"wide": tuple(dict.fromkeys(wide))})


def _raise_exit(signum: int, _: Any) -> None:
    sys.exit(128 + signum)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="fastv-export", description=DESCRIPTION)
    add_arguments(parser)
    command(parser, run, argv, export_extras)
