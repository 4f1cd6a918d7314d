"""fastv-export: checkpoint -> bundle."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from fastv_export.quantization.presets import BLOCKS, PARTS, PRESETS
from fastv_export.rankers import RANKERS
from fastv_runtime import limits
from fastv_runtime.cli.options.arguments import Parser, cut, keep, part, path, text, whole
from fastv_runtime.console import command, export_extras, stderr, with_flags
from fastv_runtime.errors import missing_extra
from fastv_runtime.streams import require_stdout

if TYPE_CHECKING:
    from fastv_runtime.config.bundle import Manifest

TARGETS = ("ort", "openvino", "trt", "trt-rtx", "trt-legacy", "auto")
DESCRIPTION = (
    "Split a vision-language model at decoder layer K and write it as a bundle that prunes visual tokens there."
)


def parser() -> argparse.ArgumentParser:
    parser = Parser("fastv-export", DESCRIPTION)
    add_arguments(parser)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything that `run` reads."""
    parser.add_argument(
        "source",
        type=path,
        metavar="SOURCE",
        help="checkpoint directory, as save_pretrained writes it, or hub id (org/name)",
    )
    parser.add_argument(
        "--revision", type=text, metavar="REV", help="branch, tag or commit of a hub id (default: main)"
    )
    parser.add_argument(
        "-o", "--output", type=path, required=True, metavar="OUT", help="bundle to write; must not exist"
    )
    parser.add_argument(
        "--target",
        choices=TARGETS,
        default="ort",
        help="what will run it (default: %(default)s); engines are built where TensorRT is at hand. auto: openvino or "
        "ort, whichever is faster on this machine's CPU; both are exported and timed, which takes twice as long",
    )
    parser.add_argument(
        "--precision",
        choices=list(PRESETS),
        help="; ".join(f"{each.name}: {each.summary}" for each in PRESETS.values())
        + ". Default: fp16; for ort and openvino int8, which is for CPUs: use fp16 with ort's CUDA provider",
    )
    parser.add_argument(
        "--block",
        type=whole(1, 2**31),
        choices=BLOCKS,
        help="weights that share a scale (default: in int4 32, for trt 64; in int8 all inputs of an output)",
    )
    parser.add_argument(
        "--int8-parts",
        nargs="*",
        choices=PARTS,
        metavar="PART",
        help="parts that keep 8 bits in int4: vision (towers), prefix (layers before the last cut), first or last (one "
        "layer), values (of attention), head (default: vision prefix values head; with --no-prune first for prefix)",
    )
    parser.add_argument(
        "--calibration",
        type=path,
        metavar="FILE",
        help="what fastv-calibrate chose for this checkpoint: --layer, --keep, --ranker, --length, --max-text and "
        "--precision int8 or int4, where they are not given; and by what it saw int4 and int8 weights are scaled (AWQ, "
        "SmoothQuant), and activations in fp8 and nvfp4 have their ranges",
    )
    parser.add_argument(
        "--layer",
        type=whole(1, limits.LAYERS),
        metavar="K",
        help="prune after this many layers (default: a sixth of them)",
    )
    parser.add_argument(
        "--keep",
        type=keep,
        metavar="R",
        help="fraction of visual tokens kept (default: 0.4); auto: as few as hold --share of attention, 0.5 at most",
    )
    parser.add_argument(
        "--share",
        type=part,
        metavar="X",
        help="of each prompt keep as few visual tokens as hold this share of the attention to them, and --keep at most "
        "(default: with --keep auto 0.9, else --keep of every prompt)",
    )
    parser.add_argument(
        "--keep-steps",
        type=whole(1, limits.TOKENS),
        metavar="N",
        help="with a share: counts that may be kept, from 1/N of the prompt's visual tokens to all (default: 16)",
    )
    parser.add_argument(
        "--cut",
        dest="cuts",
        type=cut,
        action="append",
        metavar="LAYER:KEEP[:RANKER]",
        help="one of several cuts, given once for each: prune after LAYER layers to the fraction KEEP of the prompt's "
        "visual tokens, chosen by RANKER (default: that of --ranker); in place of --layer and --keep",
    )
    parser.add_argument(
        "--ranker",
        choices=RANKERS,
        help="what chooses the m of N visual tokens that stay (default: fastv). "
        + "; ".join(f"{ranker.name}: {ranker.summary}" for ranker in RANKERS.values()),
    )
    parser.add_argument(
        "--length",
        choices=["exact", "fixed"],
        help="pruned length by default: exact per prompt, or fixed in steps of text (default: exact)",
    )
    parser.add_argument(
        "--max-text", type=whole(1, limits.TOKENS), metavar="N", help="text tokens a prompt may have (default: 128)"
    )
    parser.add_argument(
        "--text-step",
        type=whole(1, limits.TOKENS),
        metavar="N",
        help="with --length fixed: text rounded up to a multiple of it; less than a step is kept beyond --keep "
        "(default: 32)",
    )
    parser.add_argument(
        "--max-images",
        type=whole(1, limits.IMAGES),
        default=1,
        metavar="N",
        help="images a prompt may have (default: 1)",
    )
    parser.add_argument(
        "--max-visual",
        type=whole(1, limits.TOKENS),
        metavar="N",
        help="visual tokens a prompt may have (default: those of --max-images images, or of one video)",
    )
    parser.add_argument(
        "--image-tokens",
        type=whole(1, limits.TOKENS),
        metavar="N",
        help="most visual tokens of one image, for models that take any size (default: the family's)",
    )
    parser.add_argument(
        "--max-new-tokens",
        type=whole(1, limits.TOKENS),
        default=256,
        metavar="N",
        help="tokens an answer may have (default: 256)",
    )
    parser.add_argument(
        "--no-prune", dest="prune", action="store_false", help="write the unsplit, unpruned baseline instead"
    )
    parser.add_argument(
        "--no-verify", dest="verify", action="store_false", help="do not compare the graphs with transformers"
    )
    parser.add_argument("--json", action="store_true", help="print the bundle's manifest on stdout")


def run(args: argparse.Namespace) -> None:
    if args.json:
        require_stdout()
    try:
        import torch  # noqa: F401  first, so that a device's user reads of torch and not of some helper

        from fastv_export.api import export
    except ImportError as error:
        raise missing_extra(error.name or "torch", "export") from None
    from fastv_export.progress import Progress

    with Progress(stderr, partial(with_flags, parser=parser())) as progress:
        manifest = export(
            args.source,
            args.output,
            revision=args.revision,
            target=args.target,
            precision=args.precision,
            block=args.block,
            int8_parts=args.int8_parts,
            calibration=args.calibration,
            layer=args.layer,
            keep=args.keep,
            ranker=args.ranker,
            length=args.length,
            max_text=args.max_text,
            text_step=args.text_step,
            max_images=args.max_images,
            max_visual=args.max_visual,
            image_tokens=args.image_tokens,
            max_new_tokens=args.max_new_tokens,
            cuts=args.cuts,
            share=args.share,
            keep_steps=args.keep_steps,
            prune=args.prune,
            verify=args.verify,
            progress=progress,
        )
    if args.json:
        print(manifest.model_dump_json())
    stderr.print(f"{args.output}: {summary(manifest)}", highlight=False, soft_wrap=True)


def summary(manifest: Manifest) -> str:
    """One line about a bundle: its size, what it computes with, whether that is right, what quantization costs."""
    from fastv_runtime.config.bundle import END_TO_END
    from fastv_runtime.config.wording import cost_of, dialect_of, precision_of

    size = sum(digest.size for digest in manifest.files.values())
    few = manifest.plan.weights is not None
    said = [f"{size / 2**20:,.1f} MiB, {precision_of(manifest.plan, dialect_of(manifest.graphs))}"]
    if manifest.verified is None:
        said.append("not verified")
    else:
        worst = max(manifest.verified.values())
        whole = "from image to tokens" if END_TO_END in manifest.verified else "graph by graph"
        with_these = " with weights as quantized" if few else ""
        said.append(f"verified against transformers{with_these}, {whole}, within {worst:.1e}")
    if few:
        cost = "not measured" if manifest.quantization is None else cost_of(manifest.quantization)
        said.append(f"quantization itself costs: {cost}")
    return "; ".join(said)


def main(argv: Sequence[str] | None = None) -> None:
    command(parser(), run, argv, export_extras)


if __name__ == "__main__":
    main()
