"""fastv-build: a bundle's graphs -> engines for this device, compared with the bundle's golden vectors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastv_runtime import limits
from fastv_runtime.cli.options.arguments import Parser, file, number, path, text
from fastv_runtime.console import add_trust_arguments, command, complain, open_bundle, passing_bars, stderr, with_flags
from fastv_runtime.errors import UserError
from fastv_runtime.replaced import check_replaced
from fastv_runtime.streams import require_stdout

if TYPE_CHECKING:
    from fastv_runtime.backends.tensorrt.device import Device
    from fastv_runtime.backends.tensorrt.gpu import Gpu
    from fastv_runtime.backends.tensorrt.module import TensorRt
    from fastv_runtime.config.bundle import Bundle
    from fastv_runtime.tensorrt_build.builder import BuildResult

TARGETS = ("trt", "trt-rtx")


def parser() -> argparse.ArgumentParser:
    parser = Parser(
        "fastv-build",
        "Build a bundle's TensorRT engines for this device, and compare them with transformers.",
    )
    parser.add_argument(
        "bundle", type=path, metavar="BUNDLE", help="directory that fastv-export wrote with a trt target"
    )
    parser.add_argument("--target", choices=TARGETS, help="TensorRT or TensorRT-RTX (default: whichever is installed)")
    parser.add_argument(
        "--compute-capability",
        dest="capabilities",
        type=text,
        nargs="+",
        action="extend",
        default=[],
        metavar="SM",
        help="TensorRT-RTX needs no GPU: build for such as SM86 and SM89 (default: the one at hand)",
    )
    parser.add_argument(
        "--workspace",
        type=number(f"above 0 and at most {limits.GIB:,}, in GiB", lambda gib: 0 < gib <= limits.GIB),
        metavar="GIB",
        help="memory that the builder may use (default: TensorRT's limit)",
    )
    parser.add_argument(
        "--no-self-test", action="store_true", help="do not compare the engines with the bundle's golden vectors"
    )
    parser.add_argument(
        "--timing-cache",
        type=file,
        metavar="FILE",
        help="TensorRT's measurements, kept for the next build (default: beside the engines)",
    )
    add_trust_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the receipt on stdout")
    return parser


def run(args: argparse.Namespace) -> None:
    if args.json:
        require_stdout()
    from fastv_runtime.backends.tensorrt.device import choose_device
    from fastv_runtime.backends.tensorrt.gpu import find_gpu
    from fastv_runtime.backends.tensorrt.module import choose_backend, load_tensorrt, require_dialect
    from fastv_runtime.config.bundle import MANIFEST, read_manifest

    # What is no bundle, or none for TensorRT, is said before anything is asked of the machine.
    manifest = read_manifest(args.bundle)
    for name, spec in manifest.graphs.items():
        require_dialect(name, spec)
    folder = Path(args.bundle)
    held = [(f"the bundle's {name}", folder / name) for name in (MANIFEST, *manifest.files)]
    # Engines and their cache may lie in a bundle.
    check_replaced({"`timing_cache`": args.timing_cache}, [*held, ("`public_key`", args.public_key)], in_bundles=True)
    tensorrt = load_tensorrt(choose_backend(args.target, rtx_wanted=bool(args.capabilities)))
    gpu = find_gpu()
    workspace = _workspace(args.workspace, gpu)
    _check_timing_cache(args.timing_cache, tensorrt)
    device = choose_device(tensorrt, gpu, args.capabilities)
    bundle = open_bundle(args.bundle, check_hashes=args.check_hashes, public_key=args.public_key)
    outcome = build_shown(bundle, device, workspace, timing_cache=args.timing_cache, self_test=not args.no_self_test)
    if args.json:
        print(outcome.receipt.model_dump_json())
    if outcome.failed:
        sys.exit(1)


def build_shown(
    bundle: Bundle,
    device: Device,
    workspace: int | None = None,
    *,
    timing_cache: Path | None = None,
    self_test: bool = True,
) -> BuildResult:
    """Build for people: warnings before, progress while, and a table of the engines after."""
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn

    from fastv_runtime.tensorrt_build.builder import build_engines, outdated
    from fastv_runtime.tensorrt_build.check import tensorrt_loader
    from fastv_runtime.tensorrt_build.preflight import available_memory, estimate, warnings

    stale = outdated(bundle, device, workspace)
    needs = estimate(bundle.manifest, stale, workspace)
    options = parser()
    # TensorRT-RTX builds on the CPU alone; the GPU is asked to run.
    for line in warnings(needs, device.gpu, available_memory() if stale else None):
        stderr.print(f"warning: {with_flags(line, options)}", style="yellow", highlight=False, soft_wrap=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn())
    load = tensorrt_loader(device.tensorrt) if self_test and device.gpu is not None else None
    with passing_bars(*columns) as bars:
        task = bars.add_task("", total=None)
        outcome = build_engines(
            bundle,
            device,
            workspace=workspace,
            timing_cache=timing_cache,
            load=load,
            report=lambda graph, phase: bars.update(task, description=f"{graph}: {phase.lower()}"),
        )
    _show(outcome, device, self_test)
    return outcome


def _show(outcome: BuildResult, device: Device, self_test: bool) -> None:
    from rich.table import Table

    table = Table("engine", "MiB", "built in", "difference", "cosine", "largest error")
    for name, record in outcome.receipt.engines.items():
        built = f"{record.seconds:.1f} s" if name in outcome.built else "unchanged"
        tested = ("not tested" if record.failure is None else "failed", "", "")
        if record.self_test is not None:
            result = record.self_test
            tested = (f"{result.difference:.1e}", f"{result.cosine:.6f}", f"{result.max_error:.1e}")
        table.add_row(name, f"{record.size / 2**20:,.1f}", built, *tested)
    stderr.print(table)
    count = f"{len(outcome.built)} of {len(outcome.receipt.engines)} engines built"
    stderr.print(f"{outcome.folder}: {count} with {device.tensorrt.title}", highlight=False, soft_wrap=True)
    if device.gpu is None:
        stderr.print(
            "not tested: no GPU that runs these engines is at hand; fastv-build tests them on one",
            style="yellow",
            soft_wrap=True,
        )
    elif not self_test:
        stderr.print("not tested, as --no-self-test says", style="yellow")
    for name, failure in outcome.failed.items():
        complain(f"{name}: {failure}; kept aside as {name}.engine.failed")


def _workspace(gib: float | None, gpu: Gpu | None) -> int | None:
    """Bytes."""
    from fastv_runtime.tensorrt_build.preflight import GIB

    if gib is None:
        return None
    if gpu is not None and gib * GIB > gpu.memory:
        raise UserError(f"--workspace {gib:g}: {gpu.name} has {gpu.memory / GIB:.1f} GiB: give less")
    return int(gib * GIB)


def _check_timing_cache(path: Path | None, tensorrt: TensorRt) -> None:
    if path is None:
        return
    if tensorrt.is_rtx:
        raise UserError("--timing-cache: TensorRT-RTX has none, it tunes kernels when engines run: leave it out")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UserError(f"--timing-cache {path}: not a file in a directory that exists")


def main(argv: Sequence[str] | None = None) -> None:
    command(parser(), run, argv)


if __name__ == "__main__":
    main()
