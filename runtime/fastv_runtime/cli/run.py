"""fastv-run: ask a bundle about images and videos."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from fastv_runtime import limits
from fastv_runtime.claims import claimed
from fastv_runtime.cli.answers import print_answer, print_dim, print_figures
from fastv_runtime.cli.chat import Chat
from fastv_runtime.cli.options.answers import add_answer_arguments, answer_extras, read_grammar
from fastv_runtime.cli.options.arguments import Parser, between, keep, part, path, share, source, text, whole
from fastv_runtime.cli.options.backends import (
    add_backend_arguments,
    add_model_cache,
    backend_extras,
    chosen_model,
)
from fastv_runtime.cli.options.sampling import add_sampling_arguments, read_sampling
from fastv_runtime.cli.options.videos import add_video_arguments, read_videos
from fastv_runtime.cli.sources import STDIN, open_source, read_prompts, read_stdin, text_of
from fastv_runtime.console import add_trust_arguments, command, note, open_bundle, stderr, with_flags
from fastv_runtime.errors import UserError
from fastv_runtime.replaced import check_replaced
from fastv_runtime.streams import require_stdin, require_stdout

if TYPE_CHECKING:
    from fastv_runtime.generation.calls.answer import Answer
    from fastv_runtime.generation.calls.streaming import Generation


def parser() -> argparse.ArgumentParser:
    parser = Parser("fastv-run", "Answer a question about images or a video, streaming.")
    parser.add_argument("bundle", type=path, metavar="BUNDLE", help="directory that fastv-export wrote")
    parser.add_argument(
        "--image",
        dest="images",
        type=source,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="images, in the prompt's order; - reads one from the standard input",
    )
    parser.add_argument("--allow-url", action="store_true", help="take http:, https: and data: addresses for --image")
    parser.add_argument(
        "--image-aspect",
        dest="aspect",
        choices=["pad", "crop"],
        help="pad images that are not square, or crop them (default: as the checkpoint says)",
    )
    add_video_arguments(parser)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--prompt", type=text, metavar="TEXT", help="the question; - reads it from the standard input")
    asked.add_argument(
        "--prompts",
        type=path,
        metavar="FILE",
        help="a question a line, each answered by itself; - reads the standard input",
    )
    asked.add_argument(
        "-i", "--interactive", action="store_true", help="questions from the keyboard, as turns of one conversation"
    )
    parser.add_argument(
        "--system", type=text, metavar="TEXT", help="a system message, where the chat template has a place for it"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=whole(1, limits.TOKENS),
        metavar="N",
        help="at most (default: as the checkpoint says)",
    )
    add_sampling_arguments(parser)
    add_answer_arguments(parser)
    parser.add_argument("--length", choices=["fixed", "exact"], help="pruned length (default: the bundle's plan)")
    parser.add_argument(
        "--keep",
        type=keep,
        metavar="R",
        help="fraction of visual tokens kept after the last cut, or auto: as few as hold --share of attention "
        "(default: the bundle's)",
    )
    parser.add_argument(
        "--share",
        type=part,
        metavar="X",
        help="keep as few visual tokens as hold this share of the attention to them, and --keep at most (default: the "
        "bundle's plan, or 0.9 with --keep auto)",
    )
    parser.add_argument(
        "--stay",
        type=between(0, 1),
        metavar="X",
        help="with --interactive, faster: visual tokens that the question before had chosen stay, where at least "
        "this share of those that this one would choose is among them (default: each question chooses anew)",
    )
    parser.add_argument(
        "--cuts",
        type=share,
        nargs="+",
        metavar="R",
        help="fraction of visual tokens kept after each cut, in place of --keep: 0.5 0.2",
    )
    add_backend_arguments(parser)
    add_model_cache(parser)
    add_trust_arguments(parser)
    parser.add_argument(
        "--threads", type=whole(1, limits.THREADS), metavar="N", help="of one operator (default: one per core)"
    )
    parser.add_argument(
        "--show-kept", type=path, metavar="OUT.png", help="draw which patches were kept, a row for each cut"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, of each answer, instead of the text"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    require_stdout()
    sampling = read_sampling(args)
    kept_path = None if args.show_kept is None else _writable_png(args)
    _check_together(args)
    from fastv_runtime.config.bundle import read_manifest
    from fastv_runtime.generation.calls.keep import read_keep
    from fastv_runtime.generation.calls.stop_strings import read_stop

    images = [open_source(source, allow_url=args.allow_url) for source in args.images]
    manifest = read_manifest(args.bundle)
    read_keep(manifest.plan, args.keep, args.share, args.cuts)
    stop, grammar = read_stop(args.stop), read_grammar(args)
    shown = read_videos(args.videos, args.frames, args.super_image, manifest)
    questions = _questions(args)
    begin = perf_counter()
    bundle = open_bundle(args.bundle, check_hashes=args.check_hashes, public_key=args.public_key)
    from fastv_runtime.generation.pipeline import Pipeline

    with Pipeline(bundle, **chosen_model(args)) as pipeline:
        loaded: float | None = perf_counter() - begin
        asked: dict[str, Any] = {
            "max_new_tokens": args.max_new_tokens,
            "sampling": sampling,
            "length": args.length,
            "keep": args.keep,
            "share": args.share,
            "cuts": args.cuts,
            "stop": stop,
            "grammar": grammar,
        }
        print_notes = partial(_print_notes, parser())
        seen = [*images, *shown.images]
        if args.interactive:
            print_dim(f"loaded in {loaded:.2f} s")

            def reply(generation: Generation) -> Answer:
                answer = print_answer(generation, print_notes)
                print_figures(answer)
                return answer

            print_notes(shown.notes)
            Chat(
                pipeline.chat(system=args.system, stay=args.stay, **asked),
                reply,
                partial(open_source, allow_url=args.allow_url),
                lambda message: print_notes([message]),
                images=seen,
                videos=shown.videos,
            ).run()
            return
        for where, prompt in questions:
            with _placed(where):
                generation = pipeline.stream(seen, prompt, system=args.system, videos=shown.videos, **asked)
            answer = print_answer(generation, print_notes, notes=shown.notes, as_json=args.json)
            if kept_path is not None:
                from fastv_runtime.generation.kept_image import save_image

                save_image(generation.draw_kept(), kept_path)
            if not args.json:
                print_figures(answer, loaded=loaded)
            loaded = None  # said once


def _check_together(args: argparse.Namespace) -> None:
    """Raises UserError for options that contradict each other."""
    for flag, value in (("--show-kept", args.show_kept), ("--image-aspect", args.aspect)):
        if value is not None and not args.images and not args.videos and not args.interactive:
            raise UserError(f"{flag}: there is no image: give one with --image, or a video with --video")
    several = "--prompts" if args.prompts is not None else "--interactive" if args.interactive else None
    if args.show_kept is not None and several:
        raise UserError(f"--show-kept: shows what one question kept, and {several} has many: use --prompt")
    if args.stay is not None and not args.interactive:
        raise UserError("--stay: is of a conversation, and there is one question: use --interactive, or leave it out")
    if args.json and args.interactive:
        raise UserError("--json: is for programs, and --interactive for people: use --prompts")
    readers = [f"--image {STDIN}" for source in args.images if source == STDIN]
    readers += [f"{flag} {STDIN}" for flag in ("--prompt", "--prompts") if getattr(args, flag[2:]) == STDIN]
    readers += ["--interactive"] if args.interactive else []
    if len(readers) > 1:
        raise UserError(
            f"{readers[1]}: the standard input is read by {readers[0]} already: give a file for one of them"
        )
    if readers:
        require_stdin()
    if args.allow_url and not args.images and not args.interactive:
        raise UserError("--allow-url: there is no address: give one with --image")


def _questions(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """(where it stands, or nothing; the question) of each prompt."""
    if args.prompts is not None:
        return read_prompts(args.prompts)
    if args.interactive:
        return iter(())
    if args.prompt == STDIN:
        return iter([("the standard input", text_of(read_stdin(), "the standard input").strip())])
    return iter([("", args.prompt)])


@contextmanager
def _placed(where: str) -> Iterator[None]:
    """Errors inside say where the prompt stands."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}" if where else str(error)) from None


def _writable_png(args: argparse.Namespace) -> Path:
    path = Path(args.show_kept)
    if path.suffix.lower() != ".png":
        raise UserError(f"--show-kept {path}: the image is written as PNG: give a name that ends in .png")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--show-kept {path}: no such directory: make {path.absolute().parent} first")
    read = [*(("`images`", each) for each in args.images), *(("`videos`", each) for each in args.videos)]
    check_replaced({"`show_kept`": path}, [*read, ("`public_key`", args.public_key)])
    with claimed(path, note=note):  # nothing is kept of it: the image is written in one step
        return path


def _print_notes(options: argparse.ArgumentParser, notes: Sequence[str]) -> None:
    for each in notes:
        stderr.print(f"fastv-run: {with_flags(each, options)}", style="yellow", highlight=False, soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> None:
    command(parser(), run, argv, lambda args: (*backend_extras(args), *answer_extras(args)))


if __name__ == "__main__":
    main()
