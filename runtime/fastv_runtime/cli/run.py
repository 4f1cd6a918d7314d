"""fastv-run: ask a bundle about images and videos."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fastv_runtime import limits
from fastv_runtime.cli.arguments import Parser, path, text, whole
from fastv_runtime.cli.backends import add_backend_arguments, backend_extras
from fastv_runtime.cli.sampling import add_sampling_arguments, read_sampling
from fastv_runtime.cli.videos import add_video_arguments, read_videos
from fastv_runtime.console import command, open_bundle, stderr, with_flags
from fastv_runtime.errors import UserError


def parser() -> argparse.ArgumentParser:
    parser = Parser("fastv-run", "Answer a question about images or a video, streaming.")
    parser.add_argument("bundle", type=path, metavar="BUNDLE", help="directory that fastv-export wrote")
    parser.add_argument(
        "--image",
        dest="images",
        type=path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="images, in the prompt's order",
    )
    parser.add_argument(
        "--image-aspect",
        dest="aspect",
        choices=["pad", "crop"],
        help="pad images that are not square, or crop them (default: as the checkpoint says)",
    )
    add_video_arguments(parser)
    parser.add_argument("--prompt", type=text, required=True, metavar="TEXT", help="the question")
    parser.add_argument(
        "--max-new-tokens",
        type=whole(1, limits.TOKENS),
        metavar="N",
        help="at most (default: as the checkpoint says)",
    )
    add_sampling_arguments(parser)
    parser.add_argument("--length", choices=["fixed", "exact"], help="pruned length (default: the bundle's plan)")
    add_backend_arguments(parser)
    parser.add_argument(
        "--threads", type=whole(1, limits.THREADS), metavar="N", help="of one operator (default: one per core)"
    )
    parser.add_argument("--show-kept", type=path, metavar="OUT.png", help="draw which patches were kept")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the text")
    return parser


def run(args: argparse.Namespace) -> None:
    sampling = read_sampling(args)
    kept_path = None if args.show_kept is None else _writable_png(Path(args.show_kept))
    for flag, value in (("--show-kept", kept_path), ("--image-aspect", args.aspect)):
        if value is not None and not args.images and not args.videos:
            raise UserError(f"{flag}: there is no image: give one with --image, or a video with --video")
    from fastv_runtime.config.bundle import read_manifest
    from fastv_runtime.preprocessing.images.loading import open_image

    images = [open_image(path) for path in args.images]
    shown = read_videos(args.videos, args.frames, args.super_image, read_manifest(args.bundle))
    bundle = open_bundle(args.bundle)
    from fastv_runtime.generation.pipeline import Pipeline

    pipeline = Pipeline(bundle, threads=args.threads, aspect=args.aspect, backend=args.backend, device=args.device)
    generation = pipeline.stream(
        [*images, *shown.images],
        args.prompt,
        max_new_tokens=args.max_new_tokens,
        sampling=sampling,
        length=args.length,
        videos=shown.videos,
    )
    answer = generation.answer
    answer.notes[:0] = shown.notes
    _print_notes(answer.notes)
    noted = len(answer.notes)
    for piece in generation:
        if not args.json:
            sys.stdout.write(piece)
            sys.stdout.flush()
    print(json.dumps(asdict(answer)) if args.json else "")
    _print_notes(answer.notes[noted:])
    if kept_path is not None:
        from fastv_runtime.generation.kept_image import save_image

        save_image(generation.draw_kept(), kept_path)
    if not args.json:
        timings = answer.timings_ms
        kept = f"{len(answer.kept_visual_tokens)} of {answer.visual_tokens} visual tokens kept; "
        stderr.print(
            f"{kept if answer.visual_tokens else ''}"
            f"first token after {timings['ttft']:.0f} ms, {timings['decode_per_token']:.1f} ms per token after it",
            style="dim",
            highlight=False,
            soft_wrap=True,
        )


def _writable_png(path: Path) -> Path:
    if path.suffix.lower() != ".png":
        raise UserError(f"--show-kept {path}: the image is written as PNG: give a name that ends in .png")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--show-kept {path}: no such directory: make {path.absolute().parent} first")
    return path


def _print_notes(notes: Sequence[str]) -> None:
    options = parser()
    for note in notes:
        stderr.print(f"fastv-run: {with_flags(note, options)}", style="yellow", highlight=False, soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> None:
    command(parser(), run, argv, backend_extras)


if __name__ == "__main__":
    main()
