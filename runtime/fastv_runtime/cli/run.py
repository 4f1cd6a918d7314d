"""fastv-run: ask a bundle about images and videos."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fastv_runtime.cli.backends import add_backend_arguments, backend_extras
from fastv_runtime.cli.videos import add_video_arguments, read_videos
from fastv_runtime.config.bundle import read_manifest
from fastv_runtime.console import add_trust_arguments, command, open_bundle, stderr, with_flags
from fastv_runtime.errors import UserError
from fastv_runtime.generation.sampling import Sampling
from fastv_runtime.preprocessing.images.loading import open_image


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastv-run", description="Answer a question about images or a video, streaming."
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="directory that fastv-export wrote")
    parser.add_argument(
        "--image",
        dest="images",
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
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="the question")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="at most (default: as the checkpoint says)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (default)")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="sample among the K likeliest (default: all)")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="nucleus sampling (default: 1, off)")
    parser.add_argument("--seed", type=int, default=0, help="of sampling (default: 0)")
    parser.add_argument(
        "--repetition-penalty",
        type=float,
        metavar="X",
        help="above 1: what was said is said again less likely (default: as the checkpoint says; 1 is none)",
    )
    parser.add_argument("--length", choices=["fixed", "exact"], help="pruned length (default: the bundle's plan)")
    add_backend_arguments(parser)
    add_trust_arguments(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="threads of one operator (default: one per core)")
    parser.add_argument("--show-kept", metavar="OUT.png", help="draw which patches were kept")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the text")
    return parser


def run(args: argparse.Namespace) -> None:
    if args.threads is not None and args.threads < 1:
        raise UserError(f"--threads {args.threads}: must be at least 1")
    sampling = Sampling(args.temperature, args.top_k, args.top_p, args.seed, args.repetition_penalty)
    kept_path = None if args.show_kept is None else _writable_png(Path(args.show_kept))
    for flag, value in (("--show-kept", kept_path), ("--image-aspect", args.aspect)):
        if value is not None and not args.images and not args.videos:
            raise UserError(f"{flag}: there is no image: give one with --image, or a video with --video")
    images = [open_image(path) for path in args.images]
    shown = read_videos(args.videos, args.frames, args.super_image, read_manifest(args.bundle))
    bundle = open_bundle(args.bundle, check_hashes=args.check_hashes, public_key=args.public_key)
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
        stderr.print(
            f"{len(answer.kept_visual_tokens)} of {answer.visual_tokens} visual tokens kept; "
            f"first token after {timings['ttft']:.0f} ms, {timings['decode_per_token']:.1f} ms per token after it",
            style="dim",
            highlight=False,
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
        stderr.print(f"fastv-run: {with_flags(note, options)}", style="yellow", highlight=False)


def main(argv: Sequence[str] | None = None) -> None:
    command(parser(), run, argv, backend_extras)


if __name__ == "__main__":
    main()
