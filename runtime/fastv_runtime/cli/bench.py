"""fastv-bench: bundles side by side, stage by stage, against the same model unpruned."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from fastv_runtime.backends.registry import BACKENDS
from fastv_runtime.bench.analysis.compare import compare
from fastv_runtime.bench.analysis.device_profile import DeviceProfile, read_profile
from fastv_runtime.bench.analysis.facts import names
from fastv_runtime.bench.machine.conditions import Watch
from fastv_runtime.bench.machine.energy import Meter, find_meter
from fastv_runtime.bench.machine.environment import capture
from fastv_runtime.bench.measure import RunnerFailure
from fastv_runtime.bench.models import BenchSettings, Report, RunnerRecord, read_report
from fastv_runtime.bench.output.page import page
from fastv_runtime.bench.output.tables import show, show_comparison
from fastv_runtime.bench.protocol import Runner
from fastv_runtime.bench.runners.bundle import BundleRunner
from fastv_runtime.bench.runners.peers import PeerFile, PeerRunner, read_peers, start_peers
from fastv_runtime.bench.runners.prepare import load_bundles, probe_baselines
from fastv_runtime.bench.session import Session
from fastv_runtime.bench.workloads import built_in, given
from fastv_runtime.cli.backends import add_backend_arguments, backend_extras
from fastv_runtime.config.bundle import Bundle, read_manifest
from fastv_runtime.console import add_trust_arguments, command, open_bundle, stderr, with_flags
from fastv_runtime.errors import UserError
from fastv_runtime.files import write_atomically

ROUNDS, WARMUP, NEW_TOKENS = 15, 2, 16
"""Nine tenths of fifteen repeats are more than a single outlier can move; the first runs of a graph allocate."""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastv-bench",
        description="Measure bundles side by side: latency by stage, memory, energy, and what pruning gains.",
    )
    parser.add_argument(
        "bundles", nargs="*", metavar="BUNDLE", help="those that prune, and the same model exported with --no-prune"
    )
    parser.add_argument("--baseline", metavar="BUNDLE", help="the unpruned one, if it is not among the others")
    parser.add_argument(
        "--image",
        dest="images",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="images of one prompt (default: a built-in set of visual-token counts)",
    )
    parser.add_argument("--prompt", metavar="TEXT", help="the question that goes with them")
    parser.add_argument(
        "--peer", type=Path, action="append", default=[], metavar="FILE", help="another runtime: see docs/peers.md"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"measured (default: {ROUNDS})")
    parser.add_argument("--warmup", type=int, default=WARMUP, metavar="N", help=f"before them (default: {WARMUP})")
    parser.add_argument(
        "--max-new-tokens", type=int, metavar="N", help=f"of each answer (default: {NEW_TOKENS}, or what all support)"
    )
    add_backend_arguments(parser)
    add_trust_arguments(parser)
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="predict from this device profile (default: a probe of each baseline)",
    )
    parser.add_argument("--save-profile", type=Path, metavar="FILE", help="write the profile of the first baseline")
    parser.add_argument("--threads", type=int, metavar="N", help="of one operator (default: one per core)")
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("OLD.json", "NEW.json"),
        help="measure nothing, say what changed; exit code 1 if something got worse beyond noise",
    )
    parser.add_argument("--report", type=Path, metavar="OUT.html", help="write a page to look at")
    parser.add_argument("--json", type=Path, metavar="OUT.json", help="write everything that was measured")
    return parser


def run(args: argparse.Namespace) -> None:
    if args.compare is not None:
        compare_reports(args)
        return
    check(args)
    profile = None if args.profile is None else read_profile(args.profile)
    environment = capture()
    paths = [*args.bundles, *([] if args.baseline is None else [args.baseline])]
    opened = partial(open_bundle, check_hashes=args.check_hashes, public_key=args.public_key)
    bundles = open_bundles(paths, args.baseline, opened)
    peers = read_peers(args.peer, taken=list(bundles))
    new_tokens = answer_length(bundles, args.max_new_tokens)
    with ExitStack() as stack:
        stack.enter_context(terminable())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastv-bench-")))
        workloads = (
            built_in(list(bundles.values()), folder, new_tokens)
            if args.prompt is None
            else given(args.images, args.prompt, new_tokens)
        )
        whole = Session(
            command=shlex.join(["fastv-bench", *args.typed]),
            settings=BenchSettings(
                rounds=args.rounds,
                warmup=args.warmup,
                threads=args.threads,
                backend=args.backend,
                device=args.device or BACKENDS[args.backend].devices[0],
            ),
            environment=environment,
            runners=[],
            workloads=workloads,
            watch=Watch(),
        )
        meter = find_meter(whole.settings.device)
        if meter is not None:
            stack.callback(meter.close)
        runners = prepared(whole, bundles, peers, args, profile)
        for runner in runners:
            stack.callback(runner.close)
        report = measured(whole, runners, meter, args.json, args.report)
    show(report, wording=partial(with_flags, parser=parser()))
    if not report.complete:
        raise KeyboardInterrupt
    if any(each.refused for each in report.runners):
        sys.exit(1)


def compare_reports(args: argparse.Namespace) -> None:
    """Print what changed between two reports; exit with 1 if something got worse beyond noise."""
    if args.bundles:
        raise UserError(f"--compare measures nothing: leave out {args.bundles[0]}, or --compare")
    old, new = map(read_report, args.compare)
    found = compare(old, new)
    if not found.changes:
        raise UserError(f"{args.compare[1]}: no bundle and prompt of {args.compare[0]}: give two reports of the same")
    show_comparison(found)
    if found.worse:
        sys.exit(1)


def check(args: argparse.Namespace) -> None:
    """Raises UserError for arguments that make no sense, before anything is opened."""
    if not args.bundles:
        raise UserError("no bundle: give one or more directories that fastv-export wrote")
    for name, least in (("rounds", 1), ("warmup", 0), ("max_new_tokens", 1), ("threads", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
    if args.images and args.prompt is None:
        raise UserError("--image: say what to ask about the images with --prompt")
    for path in (args.json, args.report, args.save_profile):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise UserError(f"{path}: not a file in a directory that exists")


def open_bundles(paths: Sequence[str], baseline: str | None, opened: Callable[[str], Bundle]) -> dict[str, Bundle]:
    """Opened bundles by the names that the report gives them. Raises UserError."""
    whole = [Path(path).resolve() for path in paths]
    for path in paths:
        if whole.count(Path(path).resolve()) > 1:
            raise UserError(f"{path}: given twice")
        read_manifest(path)  # what is no bundle is said before gigabytes of others are hashed
    if baseline is not None and read_manifest(baseline).plan.prunes:
        raise UserError(f"--baseline {baseline}: it prunes: give a bundle that was exported with --no-prune")
    return {name: opened(path) for name, path in zip(names(list(paths)), paths, strict=True)}


def answer_length(bundles: dict[str, Bundle], asked: int | None) -> int:
    """New tokens of each answer. Raises UserError for more than a bundle supports."""
    supports = {name: bundle.manifest.plan.max_new_tokens for name, bundle in bundles.items()}
    for name, most in supports.items():
        if asked is not None and asked > most:
            raise UserError(
                f"--max-new-tokens {asked}: {name} supports at most {most}: ask for fewer, or export with a larger one"
            )
    return asked or min(NEW_TOKENS, *supports.values())


def prepared(
    whole: Session,
    bundles: dict[str, Bundle],
    peers: Sequence[PeerFile],
    args: argparse.Namespace,
    profile: DeviceProfile | None,
) -> list[BundleRunner | PeerRunner]:
    """Runners that may be measured; the run knows all of them, and what to predict from."""
    records, runners = load_bundles(
        bundles,
        whole.workloads,
        backend=args.backend,
        device=args.device,
        threads=args.threads,
        status=stderr.status,
    )
    whole.runners += records
    refused = refusals(records)
    if not runners:
        raise UserError("no bundle can be benchmarked: " + "; ".join(refused))
    if whole.settings.device == "cuda":
        whole.notes.append("memory is the host's: what the GPU holds is not measured")
    whole.profiles += (
        [profile]
        if profile is not None
        else probe_baselines(runners, records, whole.settings, machine=whole.environment.device, status=stderr.status)
    )
    if args.save_profile is not None:
        if not whole.profiles:
            raise UserError("--save-profile: there is no baseline to probe: give a bundle exported with --no-prune")
        write_atomically(args.save_profile, whole.profiles[0].model_dump_json(indent=1) + "\n")
    peer_records, started = start_peers(peers, next(iter(bundles.values())), threads=args.threads, status=stderr.status)
    whole.runners += peer_records
    refusals(peer_records)
    return [*runners, *started]


def refusals(records: Sequence[RunnerRecord]) -> list[str]:
    """Which runners are not measured and why; said at once, since measuring takes long."""
    refused = [f"{each.name}: not benchmarked: {each.refused}" for each in records if each.refused]
    options = parser()
    for line in refused:
        stderr.print(f"fastv-bench: {with_flags(line, options)}", style="red", highlight=False, soft_wrap=True)
    return refused


def measured(
    whole: Session, runners: Sequence[Runner], meter: Meter | None, json: Path | None, html: Path | None
) -> Report:
    """Go through the rounds; after each, and when interrupted, the report so far is written."""
    settings = whole.settings
    total = (settings.warmup + settings.rounds) * len(whole.workloads) * len(runners)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    last = -1
    try:
        with Progress(*columns, console=stderr, transient=True) as bars:
            task = bars.add_task("warm-up", total=total)
            for step in whole.measure(runners, meter):
                bars.advance(task)
                if isinstance(step, RunnerFailure) or step.index < 0:
                    continue
                bars.update(task, description=f"round {step.index + 1} of {settings.rounds}")
                if step.index > last and last >= 0:
                    write(whole.report(complete=False), json)
                last = step.index
    except KeyboardInterrupt:
        if not whole.rounds:
            raise
        report = whole.report(complete=False)
        write(report, json, html)
        return report
    if not whole.rounds:
        raise UserError(whole.notes[0])
    report = whole.report(complete=True)
    write(report, json, html)
    return report


def write(report: Report, json: Path | None, html: Path | None = None) -> None:
    if json is not None:
        write_atomically(json, report.model_dump_json(indent=1) + "\n")
    if html is not None:
        write_atomically(html, page(report))


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, being terminated is as being interrupted."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str] | None = None) -> None:
    typed = sys.argv[1:] if argv is None else list(argv)
    whole = parser()
    whole.set_defaults(typed=typed)
    command(whole, run, argv, backend_extras)


if __name__ == "__main__":
    main()
