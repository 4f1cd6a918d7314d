"""fastv-calibrate: checkpoint and samples -> which cuts and ranker they support."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from fastv_calib import defaults
from fastv_export.rankers import CONTROLS, RANKERS
from fastv_runtime import limits
from fastv_runtime.cli.options.arguments import Parser, cut, number, path, share, text, whole
from fastv_runtime.console import command, export_extras, stderr, with_flags
from fastv_runtime.errors import UserError, missing_extra
from fastv_runtime.streams import require_stdout

if TYPE_CHECKING:
    from fastv_export.calibration import Calibration

_CUT = re.compile(r"\+(?=\d+:)")
"""Between two cuts; names of rankers may have a plus too."""
PRECISIONS = ("fp32", "fp16")
WEIGHTS = ("fp32", "int8", "int4")
DESCRIPTION = (
    "Measure, on your own images and questions, what pruning visual tokens costs a model, cut once or several "
    "times, by several rankers, and choose the cheapest plan that agrees with the unpruned model often enough."
)
EPILOG = (
    "Measurements are kept beside the output (OUT without .json, then .samples.jsonl and .activations), sample by "
    "sample: interrupt it and run it again to go on, or run it again with other objectives, which measures nothing "
    "anew. OUT without .json, then .activations.safetensors, belongs to OUT: scales and ranges for fewer bits are made "
    "of it."
)


def parser() -> argparse.ArgumentParser:
    parser = Parser("fastv-calibrate", DESCRIPTION, epilog=EPILOG)
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
        "--data",
        type=path,
        required=True,
        metavar="DATA",
        help='folder of images (with --prompt), or a file with an object a line: {"image", "images" or "video", '
        '"prompt", "answer" if known, "kind" if any}, paths relative to the file',
    )
    parser.add_argument("--prompt", type=text, metavar="TEXT", help="what every image of a folder is asked")
    parser.add_argument("-o", "--output", type=path, required=True, metavar="OUT", help="calibration.json to write")
    parser.add_argument("--report", type=path, metavar="HTML", help="also write the figures as one HTML page")
    parser.add_argument(
        "--layers",
        type=whole(1, limits.LAYERS),
        nargs="*",
        metavar="K",
        help="of plans with one cut; --layers without any, beside --cuts, has none (default: 2, and a seventh, a third "
        "and half of the decoder's layers)",
    )
    parser.add_argument(
        "--keeps",
        type=number("above 0 and below 1; the unpruned model is always measured", lambda found: 0 < found < 1),
        nargs="+",
        default=defaults.KEEPS,
        metavar="R",
        help="fractions of visual tokens kept; 1, the unpruned model, is always there (default: 0.5 0.25 0.1)",
    )
    parser.add_argument(
        "--rankers",
        choices=RANKERS,
        nargs="+",
        default=defaults.RANKERS,
        metavar="NAME",
        help=f"of {', '.join(RANKERS)}. A control is measured to compare with and never chosen: "
        f"{', '.join(CONTROLS)}. Every one more costs a rerun of the layers from K on for each K and keep (default: "
        f"{' '.join(defaults.RANKERS)})",
    )
    parser.add_argument(
        "--cuts",
        type=_chain,
        nargs="+",
        action="extend",
        metavar="CHAIN",
        help="plans beside those, of several cuts: LAYER:KEEP[:RANKER], joined by +, as 4:0.5+10:0.15; KEEP is a "
        "fraction of all visual tokens of the prompt; without a ranker each of --rankers is tried (default: up to four "
        "chains of two cuts, whose work is that of single ones; none where --layers is given)",
    )
    parser.add_argument(
        "--baselines",
        choices=("smaller-image", "pooled"),
        nargs="*",
        metavar="NAME",
        help="of smaller-image (the unpruned model on a resized image) and pooled (on means of neighbouring tokens), "
        "measured at each of --keeps to compare with, and never chosen; --baselines without any has none (default: "
        "those that the family allows)",
    )
    parser.add_argument(
        "--precisions",
        choices=WEIGHTS,
        nargs="+",
        default=defaults.PRECISIONS,
        metavar="NAME",
        help="of weights: fp32, as they are stored, int8 and int4, as fastv-export quantizes them for ort; the answers "
        "compared with are always those of fp32 (default: fp32)",
    )
    parser.add_argument(
        "--answer-tokens",
        type=whole(1, limits.TOKENS),
        default=defaults.ANSWER_TOKENS,
        metavar="N",
        help="tokens of the unpruned answer on which plans are compared (default: 16)",
    )
    parser.add_argument(
        "--image-tokens",
        type=whole(1, limits.TOKENS),
        metavar="N",
        help="most visual tokens of one image, for models that take any size (default: the family's)",
    )
    parser.add_argument(
        "--min-agreement",
        type=share,
        default=defaults.MIN_AGREEMENT,
        metavar="SHARE",
        help="share of answers that must equal the unpruned model's, token by token. A plan meets it unless its 95%% "
        "interval lies below: few samples exclude little. Of those that do the one with the fewest FLOPs is chosen "
        "(default: 0.99)",
    )
    parser.add_argument(
        "--max-memory",
        type=number(f"above 0 and at most {limits.GIB:,}, in GiB", lambda found: 0 < found <= limits.GIB),
        metavar="GIB",
        help="of weights and key-value caches, for the data's longest prompt and --max-new-tokens (default: any)",
    )
    parser.add_argument(
        "--bundle",
        dest="bundles",
        type=path,
        nargs="+",
        action="extend",
        default=[],
        metavar="BUNDLE",
        help="bundles of this checkpoint: they answer some of the samples in turns (ONNX Runtime, CPU), and the time "
        "to the first token of plans that no bundle has is predicted from those of the plan's precision",
    )
    parser.add_argument(
        "--max-ttft",
        type=number(f"above 0 and at most {limits.MILLISECONDS:,}", lambda found: 0 < found <= limits.MILLISECONDS),
        metavar="MS",
        help="milliseconds to the first token, median, measured or predicted from --bundle (default: any)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="of caches, and of weights that have no fewer bits, where bytes are counted; measured is fp32 (default: "
        "fp32)",
    )
    parser.add_argument(
        "--max-new-tokens",
        type=whole(1, limits.TOKENS),
        default=defaults.MAX_NEW_TOKENS,
        metavar="N",
        help="tokens an answer may have (default: 256)",
    )
    parser.add_argument(
        "--ray",
        type=text,
        metavar="ADDRESS",
        help="measure on a Ray cluster: HOST:PORT, ray://HOST:PORT or auto, whose machines see SOURCE and DATA at the "
        "same paths and have the extras export and ray; local starts workers on this machine, off never does (default: "
        "local if ray is installed and that saves half a minute)",
    )
    parser.add_argument(
        "--workers",
        type=whole(1, limits.WORKERS),
        metavar="N",
        help="of Ray (default: those for which there are cores and memory)",
    )
    parser.add_argument(
        "--threads",
        type=whole(1, limits.THREADS),
        metavar="N",
        help="per sample; the same number gives the same calibration, bit for bit, with Ray and without (default: one, "
        "or more where memory supports fewer copies of the model than there are cores)",
    )
    parser.add_argument("--json", action="store_true", help="print the calibration on stdout")


def _chain(value: str) -> list[tuple[int, float] | tuple[int, float, str]]:
    """LAYER:KEEP[:RANKER], joined by +."""
    return [cut(each) for each in _CUT.split(value)]


def run(args: argparse.Namespace) -> None:
    if args.json:
        require_stdout()
    try:
        import torch  # noqa: F401  first, so that a device's user reads of torch and not of some helper

        from fastv_calib.api import calibrate
        from fastv_calib.choice.choose import refusal
        from fastv_export.progress import Progress
    except ImportError as error:
        raise missing_extra(error.name or "torch", "export") from None

    with Progress(stderr, partial(with_flags, parser=parser())) as progress:
        calibration = calibrate(
            args.source,
            args.data,
            args.output,
            prompt=args.prompt,
            revision=args.revision,
            report=args.report,
            layers=args.layers,
            keeps=args.keeps,
            rankers=args.rankers,
            cuts=args.cuts,
            baselines=args.baselines,
            precisions=args.precisions,
            answer_tokens=args.answer_tokens,
            image_tokens=args.image_tokens,
            min_agreement=args.min_agreement,
            max_memory=args.max_memory,
            bundles=args.bundles,
            max_ttft=args.max_ttft,
            precision=args.precision,
            max_new_tokens=args.max_new_tokens,
            ray=args.ray,
            workers=args.workers,
            threads=args.threads,
            progress=progress,
        )
    if args.json:
        print(calibration.model_dump_json())
    if calibration.chosen is None:
        why = refusal(calibration.plans, calibration.objectives)
        raise UserError(f"{why}; the measurements are in {args.output}")
    _conclude(calibration, args.source, args.output)


def _say(line: str) -> None:
    stderr.print(with_flags(line, parser()), highlight=False, markup=False, soft_wrap=True)


def _conclude(calibration: Calibration, source: str, output: str) -> None:
    from fastv_calib.choice.beside import beside, lines
    from fastv_calib.report.page import chosen_plan

    plan = chosen_plan(calibration)
    assert plan is not None
    match = plan.match
    for line in (
        f"{output}: {plan.point}: {match.mean:.1%} of {calibration.samples} answers are the unpruned model's "
        f"(95% interval {match.low:.1%} to {match.high:.1%}), {plan.flops_share:.0%} of its FLOPs, "
        f"{plan.cache_share:.0%} of its cache",
        *([] if plan.ttft is None else [f"{output}: {plan.ttft}"]),
        *lines(beside(calibration, plan)),
        *(f"warning: {warning}" for warning in calibration.warnings),
        f"next: fastv-export {source} -o NAME.fastv --calibration {output}",
    ):
        _say(line)


def main(argv: Sequence[str] | None = None) -> None:
    command(parser(), run, argv, export_extras)


if __name__ == "__main__":
    main()
