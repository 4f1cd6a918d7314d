"""Reports of fastv-bench with peers, one per class of precision, as one table in markdown.

    python benchmarks/peers/table.py fp32.json int8.json int4.json --markdown docs/benchmarks/peers.md

Ours are the bundles of each report, pruned. What it takes over what another runner takes is the median of the
rounds' own ratios.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import median as middle

from fastv_runtime.bench.analysis.metrics import quantities
from fastv_runtime.bench.analysis.metrics.prefill import PREFILL
from fastv_runtime.bench.models import Report, Result

QUANTITIES = {
    "vision": "vision",
    "prefill": "language model's prefill",
    "ttft": "time to first token",
    "decode": "decoded token",
}
COMPARED = ("prefill", "ttft", "decode")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", type=Path, nargs="+")
    parser.add_argument("--markdown", type=Path, required=True)
    args = parser.parse_args()
    reports = [Report.model_validate_json(path.read_text(encoding="utf-8")) for path in args.reports]
    args.markdown.write_text("\n".join(page(reports)) + "\n", encoding="utf-8")


def page(reports: list[Report]) -> Iterator[str]:
    """Lines of the page."""
    first = reports[0]
    workload = first.workloads[0]
    yield "# Beside other runtimes, on a CPU"
    yield ""
    yield (
        f"{first.environment.device}, {first.settings.threads} threads, random Qwen2.5-VL (24 layers x 896; "
        f"[how it is set up](../peers.md)): {workload.prompt_tokens} tokens in the prompt, {workload.visual_tokens} of "
        "them visual. Ours prunes half of those at K=2, inside the model; OpenVINO GenAI's keep50 half of them before "
        "it, which is less work and not the same answer; the others do not prune. llama.cpp is a prebuilt wheel, for "
        "the instructions that its setting `cpu` names. Medians in ms (p5 to p95); runners of a table took turns."
    )
    for report in reports:
        bundles = {runner.name: runner for runner in report.runners if runner.role != "peer"}
        ours = [each for each in report.results if each.runner in bundles]
        yield from ("", f"## {ours[0].runner}", "")
        yield "| | " + " | ".join(QUANTITIES.values()) + " |"
        yield "| --- |" + " --- |" * len(QUANTITIES)
        for result in report.results:
            yield f"| {result.runner} | " + " | ".join(_figure(result, name) for name in QUANTITIES) + " |"
        peers = {runner.name: runner for runner in report.runners if runner.role == "peer" and runner.refused is None}
        for each in ours:
            kernels = _in_bf16(bundles[each.runner].settings["backend"])
            alike = [name for name, peer in peers.items() if _in_bf16(peer.settings["precision"]) == kernels]
            pruned = [name for name in alike if peers[name].settings.get("pruning", "none") != "none"]
            kernel = "bf16" if kernels else "fp32"
            if pruned:
                yield _ratios(
                    report, f"{each.runner} over the best peer with {kernel} kernels that prunes", each.runner, pruned
                )
            if alike:
                yield _ratios(report, f"{each.runner} over the best peer with {kernel} kernels", each.runner, alike)
            yield _ratios(report, f"{each.runner} over the best peer", each.runner, list(peers))
        yield ""
        for each in ours:
            stages = ", ".join(f"{name} {_number(each.figures[name].median)}" for name in PREFILL)
            backend = bundles[each.runner].settings["backend"]
            yield f"- Prefill of {each.runner} ({backend}), in ms: {stages}."
        yield ""
        yield (
            f"{ours[0].figures['prefill'].runs} rounds, "
            + (f"a noisy machine: {'; '.join(report.noise)}. " if report.noise else "a quiet machine. ")
            + f"`{report.command.split()[0]}` {report.version}, {report.created[:10]}; "
            + ", ".join(f"{name} {version}" for name, version in report.environment.versions.items())
            + "."
        )
        for runner in report.runners:
            if runner.role == "peer":
                settings = ", ".join(f"{name} {value}" for name, value in runner.settings.items())
                yield f"{runner.name}: {runner.refused or settings}."
    yield ""


def _in_bf16(kernels: str) -> bool:
    return "bf16" in kernels


def _figure(result: Result, name: str) -> str:
    figure = result.figures[name]
    return f"{_number(figure.median)} ({_number(figure.p5)} to {_number(figure.p95)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _ratios(report: Report, title: str, ours: str, peers: list[str]) -> str:
    cells = (_ratio(report, ours, peers, name) if name in COMPARED else "" for name in QUANTITIES)
    return f"| **{title}** | " + " | ".join(cells) + " |"


def _ratio(report: Report, ours: str, peers: list[str], name: str) -> str:
    """Ours over the peer with the lowest median."""
    medians = {each.runner: each.figures[name].median for each in report.results if each.runner in peers}
    best = min(medians, key=lambda peer: medians[peer])
    by_round: dict[int, dict[str, float]] = {}
    for each in report.rounds:
        value = quantities(each).get(name)
        if value is not None:
            by_round.setdefault(each.index, {})[each.runner] = value
    ratios = [took[ours] / took[best] for took in by_round.values() if ours in took and best in took]
    return f"**{middle(ratios):.2f}** of {best}"


if __name__ == "__main__":
    main()
