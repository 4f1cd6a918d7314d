"""Arguments that say what runs the graphs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fastv_runtime.backends.registry import BACKENDS


def add_backend_arguments(parser: argparse.ArgumentParser) -> None:
    """--backend and --device, as the registry has them."""
    entries = BACKENDS.values()
    default = next(iter(BACKENDS))
    listed = "; ".join(f"{entry.name}: {entry.summary}" for entry in entries)
    parser.add_argument("--backend", choices=BACKENDS, default=default, help=f"{listed} (default: {default})")
    defaults = ", ".join(f"{entry.devices[0]} for {entry.name}" for entry in entries)
    devices = list(dict.fromkeys(device for entry in entries for device in entry.devices))
    parser.add_argument("--device", choices=devices, help=f"where graphs run (default: {defaults})")


def backend_extras(args: argparse.Namespace) -> Sequence[str]:
    """Extras of fastv-edge that the chosen backend needs."""
    return BACKENDS[args.backend].extras
