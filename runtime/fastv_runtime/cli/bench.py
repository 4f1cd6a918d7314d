"""fastv-bench: bundles side by side, stage by stage, against the same model unpruned."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fastv_runtime.backends.registry import BACKENDS, DEFAULT, OWN
from fastv_runtime.claims import claimed, scratch
from fastv_runtime.cli.options.backends import backend_extras
from fastv_runtime.cli.options.bench import parser
from fastv_runtime.console import command, complain, note, open_bundle, passing_bars, stderr, with_flags
from fastv_runtime.errors import UserError
from fastv_runtime.files import write_atomically
from fastv_runtime.replaced import check_replaced
from fastv_runtime.streams import require_stdout

if TYPE_CHECKING:
    from fastv_runtime.bench.analysis.device_profile import DeviceProfile
    from fastv_runtime.bench.machine.energy import Meter
    from fastv_runtime.bench.models import Report, RunnerRecord
    from fastv_runtime.bench.protocol import Runner
    from fastv_runtime.bench.runners.bundle import BundleRunner
    from fastv_runtime.bench.runners.entrants import Entrant
    from fastv_runtime.bench.runners.peers import PeerFile, PeerRunner
    from fastv_runtime.bench.session import Session
    from fastv_runtime.config.bundle import Bundle


def run(args: argparse.Namespace) -> None:
    if args.compare is not None:
        compare_reports(args)
        return
    require_stdout()
    check(args)
    outputs = [path for path in (args.json, args.report, args.save_profile) if path is not None]
    with claimed(*outputs, note=note):
        benchmark(args)


def benchmark(args: argparse.Namespace) -> None:
    """Measure what the arguments say and write it; exit with 1 if some runner was refused."""
    from fastv_runtime.bench.analysis.device_profile import read_profile
    from fastv_runtime.bench.machine.conditions import Watch
    from fastv_runtime.bench.machine.energy import find_meter
    from fastv_runtime.bench.machine.environment import capture
    from fastv_runtime.bench.models import BenchSettings
    from fastv_runtime.bench.output.tables import show
    from fastv_runtime.bench.runners.bundle import BackendChoice
    from fastv_runtime.bench.runners.entrants import entrants_of
    from fastv_runtime.bench.runners.peers import read_peers
    from fastv_runtime.bench.session import Session
    from fastv_runtime.bench.workloads import answer_length, built_in, given

    profile = None if args.profile is None else read_profile(args.profile)
    environment = capture()
    paths = [*args.bundles, *([] if args.baseline is None else [args.baseline])]
    bundles = open_bundles(paths, args)
    common = BackendChoice(
        path="",
        name="",
        backend=args.backend,
        device=args.device,
        threads=args.threads,
        length=args.length,
    )
    entrants = entrants_of(bundles, args.keep, common, args.share, args.compute or ())
    peers = read_peers(args.peer, taken=[choice.name for choice, _ in entrants])
    new_tokens = answer_length(bundles, args.max_new_tokens)
    with ExitStack() as stack:
        folder = stack.enter_context(scratch("fastv-bench-"))
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
                backend=args.backend or OWN,
                device=args.device or BACKENDS[args.backend or DEFAULT].devices[0],
                compute=" ".join(args.compute) if args.compute else None,
            ),
            environment=environment,
            runners=[],
            workloads=workloads,
            watch=Watch(),
        )
        meter = find_meter(whole.settings.device)
        if meter is not None:
            stack.callback(meter.close)
        runners = prepared(whole, entrants, peers, args, profile)
        for runner in runners:
            stack.callback(runner.close)
        report = measured(whole, runners, meter, args.json, args.report)
    show(report, wording=partial(with_flags, parser=parser()), notes=not args.quiet)
    if not report.complete:
        raise KeyboardInterrupt
    if any(each.refused for each in report.runners):
        sys.exit(1)


def compare_reports(args: argparse.Namespace) -> None:
    """Print what changed between two reports; exit with 1 if something got worse beyond noise."""
    if args.bundles:
        raise UserError(f"--compare measures nothing: leave out {args.bundles[0]}, or --compare")
    from fastv_runtime.bench.analysis.compare import compare
    from fastv_runtime.bench.models import read_report
    from fastv_runtime.bench.output.tables import show_comparison

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
    if args.images and args.prompt is None:
        raise UserError("--image: say what to ask about the images with --prompt")
    for path in (args.json, args.report, args.save_profile):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise UserError(f"{path}: not a file in a directory that exists")
    outputs = {"`json`": args.json, "`report`": args.report, "`save_profile`": args.save_profile}
    read = [*(("`images`", each) for each in args.images), *(("`peer`", each) for each in args.peer)]
    check_replaced(outputs, [*read, ("`profile`", args.profile), ("`public_key`", args.public_key)])


def open_bundles(paths: Sequence[str], args: argparse.Namespace) -> dict[str, Bundle]:
    """Opened bundles by the names that the report gives them. Raises UserError."""
    from fastv_runtime.bench.analysis.facts import names
    from fastv_runtime.bench.runners.entrants import check_settings
    from fastv_runtime.config.bundle import read_manifest

    baseline = args.baseline
    whole = [Path(path).resolve() for path in paths]
    for path in paths:
        if whole.count(Path(path).resolve()) > 1:
            raise UserError(f"{path}: given twice")
    plans = [read_manifest(path).plan for path in paths]  # what is wrong is said before gigabytes are hashed
    if baseline is not None and read_manifest(baseline).plan.prunes:
        raise UserError(f"--baseline {baseline}: it prunes: give a bundle that was exported with --no-prune")
    check_settings(plans, args.keep, args.length, args.share)
    opened = partial(open_bundle, check_hashes=args.check_hashes, public_key=args.public_key)
    return {name: opened(path) for name, path in zip(names(list(paths)), paths, strict=True)}


def prepared(
    whole: Session,
    entrants: Sequence[Entrant],
    peers: Sequence[PeerFile],
    args: argparse.Namespace,
    profile: DeviceProfile | None,
) -> list[BundleRunner | PeerRunner]:
    """Runners that may be measured; the run knows all of them, and what to predict from."""
    from fastv_runtime.bench.runners.peers import start_peers
    from fastv_runtime.bench.runners.prepare import load_bundles, probe_baselines

    records, runners = load_bundles(entrants, whole.workloads, status=stderr.status)
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
    peer_records, started = start_peers(peers, entrants[0][1], threads=args.threads, status=stderr.status)
    whole.runners += peer_records
    refusals(peer_records)
    return [*runners, *started]


def refusals(records: Sequence[RunnerRecord]) -> list[str]:
    """Which runners are not measured and why; said at once, since measuring takes long."""
    refused = [f"{each.name}: not benchmarked: {each.refused}" for each in records if each.refused]
    options = parser()
    for line in refused:
        complain(f"fastv-bench: {with_flags(line, options)}")
    return refused


def measured(
    whole: Session, runners: Sequence[Runner], meter: Meter | None, json: Path | None, html: Path | None
) -> Report:
    """Go through the rounds; after each, and when interrupted, the report so far is written."""
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    from fastv_runtime.bench.measure import RunnerFailure

    settings = whole.settings
    total = (settings.warmup + settings.rounds) * len(whole.workloads) * len(runners)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    last = -1
    try:
        with passing_bars(*columns) as bars:
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
        from fastv_runtime.bench.output.page import page

        write_atomically(html, page(report))


def main(argv: Sequence[str] | None = None) -> None:
    typed = sys.argv[1:] if argv is None else list(argv)
    whole = parser()
    whole.set_defaults(typed=typed)
    command(whole, run, argv, backend_extras)


if __name__ == "__main__":
    main()
