"""fastv-serve: a bundle that answers over HTTP, as OpenAI's chat API has it."""

from __future__ import annotations

import argparse
import ipaddress
import json
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastv_runtime.cli.options.backends import backend_extras, chosen_model
from fastv_runtime.cli.options.serve import parser as parser
from fastv_runtime.console import command, note, open_bundle
from fastv_runtime.errors import UserError, missing_extra
from fastv_runtime.streams import require_stdout

if TYPE_CHECKING:
    from fastv_runtime.config.bundle import Manifest
    from fastv_runtime.serving.settings import ServeSettings

WHEN_SERVING = (
    "api_key_file",
    "no_api_key",
    "allow_url",
    "allow_private_url",
    "allow_files",
    "cors_origins",
    "deadline",
)
"""Options that a repository of Triton's has no place for."""


def run(args: argparse.Namespace) -> None:
    if args.json:
        require_stdout()
    if args.triton is not None:
        _write_repository(args)
        return
    _check_extra()
    settings = _settings(args)
    with _bound(args.host, args.port) as listening:  # before the graphs are loaded: a port in use is said at once
        _serve(args, settings, listening)


def _serve(args: argparse.Namespace, settings: ServeSettings, listening: socket.socket) -> None:
    bundle = open_bundle(args.bundle, check_hashes=args.check_hashes, public_key=args.public_key)
    from fastv_runtime.generation.model import Model
    from fastv_runtime.serving.app import create_app
    from fastv_runtime.serving.http_server import serve
    from fastv_runtime.serving.metrics import Metrics
    from fastv_runtime.serving.scheduler import Scheduler

    _check_bundle(bundle.manifest, args)
    model = Model(bundle, **chosen_model(args))
    scheduler = Scheduler(
        model, slots=args.slots, waiting=args.queue, cache_bytes=args.cache_mb << 20, metrics=Metrics()
    )
    address = _address(listening)

    def announce() -> None:
        if args.json:
            print(json.dumps({"url": address, "model": settings.model_name}), flush=True)
        note(f"fastv-serve: {settings.model_name} at {address} (Ctrl-C stops)")

    try:
        serve(create_app(scheduler, model, settings), scheduler, listening, grace_s=args.grace, started=announce)
    finally:
        scheduler.stop(0)
    note("fastv-serve: stopped")


def _check_extra() -> None:
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        try:
            __import__(package)
        except ImportError:
            raise missing_extra(package.replace("_", "-"), "serve") from None


def _settings(args: argparse.Namespace) -> ServeSettings:
    from fastv_runtime.serving.settings import LOOPBACK, ServeSettings, read_keys

    loopback = _is_loopback(args.host)
    if args.no_api_key and args.api_key_file is not None:
        raise UserError("--no-api-key: there is a file of keys: leave one of the two out")
    if not loopback and args.api_key_file is None and not args.no_api_key:
        raise UserError(
            f"--host {args.host}: others could ask without a key: give --api-key-file, or --no-api-key if they may"
        )
    for folder in args.allow_files:
        if not Path(folder).is_dir():
            raise UserError(f"--allow-files {folder}: no such directory")
    for origin in args.cors_origins:
        if origin != "*" and not re.fullmatch(r"https?://[^/\s?#]+", origin):
            raise UserError(f"--cors-origin {origin}: must be an origin such as https://example.org, or *")
    return ServeSettings(
        model_name=_model_name(args),
        keep=args.keep,
        deadline_s=args.deadline,
        key_hashes=() if args.api_key_file is None else read_keys(args.api_key_file),
        allowed_hosts=(*LOOPBACK, args.host) if loopback else None,
        cors_origins=tuple(args.cors_origins),
        allow_url=args.allow_url or args.allow_private_url,
        allow_private_url=args.allow_private_url,
        allow_files=tuple(Path(folder) for folder in args.allow_files),
    )


def _model_name(args: argparse.Namespace) -> str:
    if args.model_name is None:
        return Path(args.bundle).resolve().name.removesuffix(".fastv")
    if len(args.model_name) > 200 or not args.model_name.isprintable():
        raise UserError("--model-name: must be at most 200 printable characters")
    return str(args.model_name)


def _check_bundle(manifest: Manifest, args: argparse.Namespace) -> None:
    from fastv_runtime.generation.calls.keep import read_keep

    read_keep(manifest.plan, args.keep, None)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bound(host: str, port: int) -> socket.socket:
    """A socket at an address, which nobody can connect to yet. Raises UserError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise UserError(f"--host {host}: no such host on this machine") from None
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        raise UserError(
            f"--port {port}: cannot listen at {host}: {(error.strerror or str(error)).lower()}: give another port, "
            "or stop what is there"
        ) from None
    return found


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _write_repository(args: argparse.Namespace) -> None:
    from fastv_runtime.serving.triton.parameters import TritonParameters
    from fastv_runtime.serving.triton.repository import write_repository

    options = parser()
    for name in WHEN_SERVING:
        if getattr(args, name) != options.get_default(name):
            raise UserError(f"`{name}`: is of this server, and --triton writes files for another: leave it out")
    for name in ("keep", "aspect", "compute"):
        if getattr(args, name) is not None:
            raise UserError(f"`{name}`: a repository of Triton's has no place for it: leave it out")
    parameters = TritonParameters(
        bundle=Path(args.bundle).resolve(),
        backend=args.backend,
        threads=args.threads,
        slots=args.slots,
        waiting=args.queue,
        cache_mb=args.cache_mb,
        drain_s=args.grace,
    )
    open_bundle(args.bundle, check_hashes=args.check_hashes, public_key=args.public_key)
    gpu = args.device == "cuda" or (args.device is None and args.backend == "trt")
    folder = write_repository(Path(args.triton), parameters, name=args.model_name, gpu=gpu, note=note)
    if args.json:
        print(json.dumps({"model": str(folder)}), flush=True)
    note(f"fastv-serve: wrote {folder}")


def serve_extras(args: argparse.Namespace) -> Sequence[str]:
    return ("serve", *backend_extras(args))


def main(argv: Sequence[str] | None = None) -> None:
    command(parser(), run, argv, serve_extras)


if __name__ == "__main__":
    main()
