"""What fastv-serve may be asked for."""

from __future__ import annotations

import argparse

from fastv_runtime import limits
from fastv_runtime.cli.options.arguments import Parser, keep, number, path, text, whole
from fastv_runtime.cli.options.backends import add_backend_arguments, add_model_cache
from fastv_runtime.console import add_trust_arguments

HOST, PORT = "127.0.0.1", 8000
SLOTS, QUEUE, CACHE_MB, GRACE_S = 1, 16, 256, 30
MOST_SLOTS, MOST_QUEUE = 1024, 100_000
seconds = number("a number of seconds above 0, at most 1,000,000", lambda found: 0 < found <= 1_000_000)


def parser() -> argparse.ArgumentParser:
    parser = Parser("fastv-serve", "Answer questions about images over HTTP, as OpenAI's chat API has them.")
    parser.add_argument("bundle", type=path, metavar="BUNDLE", help="directory that fastv-export wrote")
    parser.add_argument(
        "--host", type=text, default=HOST, metavar="HOST", help=f"where to listen (default: {HOST}, this machine alone)"
    )
    parser.add_argument(
        "--port", type=whole(0, 65535), default=PORT, metavar="N", help=f"0 is any that is free (default: {PORT})"
    )
    parser.add_argument(
        "--slots",
        type=whole(1, MOST_SLOTS),
        default=SLOTS,
        metavar="N",
        help=f"answers in progress at the same time, each with buffers of its own (default: {SLOTS})",
    )
    parser.add_argument(
        "--queue",
        type=whole(0, MOST_QUEUE),
        default=QUEUE,
        metavar="N",
        help=f"requests that wait for a slot; more are answered 429 (default: {QUEUE})",
    )
    parser.add_argument(
        "--deadline",
        type=seconds,
        metavar="S",
        help="seconds from a request to the end of its answer, which is cut off there (default: no limit)",
    )
    parser.add_argument(
        "--grace",
        type=seconds,
        default=GRACE_S,
        metavar="S",
        help=f"seconds in which answers in progress are finished when the server is stopped (default: {GRACE_S})",
    )
    parser.add_argument(
        "--cache-mb",
        type=whole(0, 1024 * limits.GIB),
        default=CACHE_MB,
        metavar="N",
        help=f"MiB for conversations that have no slot and for image features (default: {CACHE_MB}; 0 keeps none)",
    )
    parser.add_argument(
        "--api-key-file",
        type=path,
        metavar="FILE",
        help="keys that requests may send, one a line (default: none asked)",
    )
    parser.add_argument("--no-api-key", action="store_true", help="listen beyond this machine without asking for keys")
    parser.add_argument(
        "--allow-url", action="store_true", help="open images and videos at http: addresses on the public internet"
    )
    parser.add_argument(
        "--allow-private-url", action="store_true", help="and at those on this machine's own networks, itself included"
    )
    parser.add_argument(
        "--allow-files",
        type=path,
        action="append",
        default=[],
        metavar="DIR",
        help="open file: addresses below this directory; may be given more than once",
    )
    parser.add_argument(
        "--cors-origin",
        dest="cors_origins",
        type=text,
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let pages of this origin ask, such as https://example.org; may be given more than once",
    )
    parser.add_argument(
        "--model-name", type=text, metavar="NAME", help="what requests call the model (default: the bundle's)"
    )
    parser.add_argument(
        "--keep",
        type=keep,
        metavar="R",
        help="fraction of visual tokens kept, or auto, of requests that do not say (default: the bundle's)",
    )
    parser.add_argument(
        "--image-aspect",
        dest="aspect",
        choices=["pad", "crop"],
        help="pad images that are not square, or crop them (default: as the checkpoint says)",
    )
    add_backend_arguments(parser)
    add_model_cache(parser)
    add_trust_arguments(parser)
    parser.add_argument(
        "--threads", type=whole(1, limits.THREADS), metavar="N", help="of one operator (default: one per core)"
    )
    parser.add_argument(
        "--triton",
        type=path,
        metavar="DIR",
        help="serve nothing: write the bundle into this model repository of Triton's",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object with the address once it is ready")
    return parser
