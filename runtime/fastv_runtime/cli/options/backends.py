"""Arguments that say what runs the graphs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from fastv_runtime.backends.registry import BACKENDS, DEFAULT
from fastv_runtime.cli.options.arguments import path


def add_backend_arguments(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """--backend, --device and --compute, as the registry has them; `several` of the last."""
    entries = BACKENDS.values()
    listed = "; ".join(f"{entry.name}: {entry.summary}" for entry in entries)
    parser.add_argument(
        "--backend", choices=BACKENDS, help=f"{listed} (default: the one that the bundle was exported for)"
    )
    defaults = ", ".join(f"{entry.devices[0]} for {entry.name}" for entry in entries)
    devices = list(dict.fromkeys(device for entry in entries for device in entry.devices))
    parser.add_argument("--device", choices=devices, help=f"where graphs run (default: {defaults})")
    parser.add_argument(
        "--compute",
        nargs="+" if several else None,
        choices=list(dict.fromkeys(each for entry in entries for each in entry.computes)),
        help="what openvino computes in (default: bf16 for a bundle of fp16 where the processor has it, else f32)"
        + ("; several: each beside the others" if several else ""),
    )


def add_model_cache(parser: argparse.ArgumentParser) -> None:
    """--model-cache."""
    parser.add_argument(
        "--model-cache",
        type=path,
        metavar="DIR",
        help="where openvino keeps compiled graphs, for a sooner start the next time; what is in there is trusted",
    )


def chosen_model(args: argparse.Namespace) -> dict[str, Any]:
    """How a bundle's graphs are loaded: keywords of `Pipeline` and `Model`."""
    return {
        "threads": args.threads,
        "aspect": args.aspect,
        "backend": args.backend,
        "device": args.device,
        "compute": args.compute,
        "model_cache": args.model_cache,
    }


def backend_extras(args: argparse.Namespace) -> Sequence[str]:
    """Extras of fastv-edge that the chosen backend needs; those of ONNX Runtime where a bundle is to say."""
    return BACKENDS[args.backend or DEFAULT].extras
