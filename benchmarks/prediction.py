"""How well the cost model and a device profile foretell the time to the first token, on this machine.

    python benchmarks/prediction.py --json docs/benchmarks/prediction.json --markdown docs/benchmarks/prediction.md

Random LLaVAs of several widths and depths. The profile is fitted to probes of the unpruned narrowest and widest alone;
it then foretells every plan (K, keep) of every model at two prompt lengths, before they are measured, interleaved.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from configurations import as_config
from configurations.llava import THIN_LLAVA
from machine import machine
from random_checkpoint import write_random_checkpoint
from rich.console import Console
from rich.progress import track

from fastv_export.exporting import export_bundle
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_runtime import Bundle
from fastv_runtime.bench.analysis.device_profile import DeviceProfile, ProbePoint, fit
from fastv_runtime.bench.analysis.facts import bundle_facts
from fastv_runtime.bench.analysis.prediction import predicted
from fastv_runtime.bench.analysis.summary import results
from fastv_runtime.bench.measure import measure
from fastv_runtime.bench.models import Result, Round, RunnerRecord
from fastv_runtime.bench.runners.bundle import BackendChoice, BundleRunner
from fastv_runtime.bench.runners.probe import probe
from fastv_runtime.bench.workloads import built_in

MODELS = {256: 6, 384: 12, 512: 8, 640: 10, 896: 12}
"""Layers by width. The first and the last are probed."""
PLANS = ((2, 0.5), (2, 0.25), (3, 0.75))
IMAGE, IMAGES = 168, 4
"""Pixels on a side: 144 visual tokens. Prompts have one image, some, and so many."""
NEW_TOKENS = 4
console = Console(stderr=True)


@dataclass(frozen=True)
class Foretold:
    """One point: a plan of a model on a prompt. Milliseconds."""

    hidden_size: int
    layers: int
    tokens: int
    layer: int | None
    keep: float
    probed: bool
    """The model's own unpruned form was among the profile's points."""
    predicted: float
    measured: float
    p5: float
    p95: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--widths", type=int, nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--cache", type=Path, help="keep checkpoints and bundles here (1.5 GB) for the next run")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.cache or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        bundles = {width: prepare(folder, width) for width in args.widths}
        ends = (args.widths[0], args.widths[-1])
        profile = profile_of([load(bundles[width][0], args.threads) for width in ends], args.threads)
        points = [
            point
            for width in args.widths
            for point in foretell(bundles[width], profile, Path(scratch), args, probed=width in ends)
        ]
    report = {
        "machine": machine(),
        "threads": args.threads,
        "rounds": args.rounds,
        "median_error": median(abs(point.error) for point in points),
        "profile": profile.model_dump(exclude={"points"}),
        "points": [asdict(point) for point in points],
    }
    text = json.dumps(report, indent=1)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")
    if args.markdown:
        args.markdown.write_text(markdown(points, profile, args), encoding="utf-8")
    print(text)


def prepare(folder: Path, width: int) -> list[Path]:
    """The unpruned bundle of a model and those of its plans, made unless they are there."""
    checkpoint = folder / f"{width}"
    if not checkpoint.exists():
        entry = copy.deepcopy(THIN_LLAVA)
        entry["vision_config"]["image_size"] = IMAGE
        entry["image_token_index"] = 7999
        entry["text_config"] |= {
            "hidden_size": width,
            "num_hidden_layers": MODELS[width],
            "max_window_layers": MODELS[width],
            "num_attention_heads": width // 64,
            "intermediate_size": width * 4864 // 896,
            "vocab_size": 8000,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        write_random_checkpoint(as_config(entry), checkpoint, dtype="fp32")
    made = []
    for layer, keep in ((None, 1.0), *PLANS):
        made.append(folder / f"{width}-{layer}-{keep:g}.fastv")
        if not made[-1].exists():
            options = Options(layer=layer, keep=keep, max_text=64, max_images=IMAGES, max_new_tokens=16, verify=False)
            with Progress(console) as progress:
                export_bundle(checkpoint, made[-1], options, progress)
    return made


def load(path: Path, threads: int) -> BundleRunner:
    return BundleRunner.load(BackendChoice(path=str(path), name=path.stem, threads=threads))


def profile_of(runners: list[BundleRunner], threads: int) -> DeviceProfile:
    """Rates of this machine, from unpruned models; they are closed."""
    points: list[ProbePoint] = []
    for runner in runners:
        assert runner.pipeline is not None
        with console.status(f"probe {runner.name}"):
            points += probe(runner.pipeline)
        plan = runner.pipeline.bundle.manifest.plan
        runner.close()
    return fit(points, plan, device=str(machine()["cpu"]), backend="ort cpu", threads=threads, dialect="ort")


def foretell(
    paths: list[Path], profile: DeviceProfile, scratch: Path, args: argparse.Namespace, *, probed: bool
) -> list[Foretold]:
    """All points of one model."""
    opened = [Bundle.open(path) for path in paths]
    runners = [load(path, args.threads) for path in paths]
    records = [
        RunnerRecord(
            name=runner.name,
            role="baseline" if not bundle.manifest.plan.prunes else "bundle",
            settings={},
            bundle=bundle_facts(bundle, bundle.manifest.plan, runner.self_test),
        )
        for runner, bundle in zip(runners, opened, strict=True)
    ]
    workloads = [each for each in built_in(opened, scratch, NEW_TOKENS) if each.request.images]
    steps = measure(runners, workloads, rounds=args.rounds, warmup=1)
    total = (args.rounds + 1) * len(workloads) * len(runners)
    rounds = [
        step
        for step in track(steps, f"{paths[0].stem}: rounds", total=total, console=console)
        if isinstance(step, Round) and step.index >= 0
    ]
    found = predicted(results(rounds, records), rounds, records, [profile])
    return [_point(result, records, rounds, probed) for result in found]


def _point(result: Result, records: list[RunnerRecord], rounds: list[Round], probed: bool) -> Foretold:
    facts = next(record.bundle for record in records if record.name == result.runner)
    turn = next(e.turn for e in rounds if (e.runner, e.workload) == (result.runner, result.workload))
    ttft = result.figures["ttft"]
    assert facts is not None
    return Foretold(
        hidden_size=facts.decoder.hidden_size,
        layers=facts.decoder.num_hidden_layers,
        tokens=turn.prompt_tokens,
        layer=next(iter(facts.plan.cut_layers), None),
        keep=facts.plan.keep,
        probed=probed,
        predicted=result.predicted["ttft"],
        measured=ttft.median,
        p5=ttft.p5,
        p95=ttft.p95,
    )


def markdown(points: list[Foretold], profile: DeviceProfile, args: argparse.Namespace) -> str:
    """The points as a page for docs/benchmarks."""
    others = [point for point in points if not point.probed] or points
    lines = [
        "# Predicted and measured time to the first token",
        "",
        "Made by `benchmarks/prediction.py`. Random LLaVAs, fp32, ONNX Runtime on the CPU; "
        f"{args.rounds} rounds, plans of a model interleaved, {args.threads} threads. The device profile is fitted to "
        "probes of the narrowest and the widest model, unpruned, alone. Of the time to the first token the prefill is "
        "predicted; preprocessing and the thin tower are the unpruned model's as measured.",
        "",
        ", ".join(f"{name} {value}" for name, value in machine().items()),
        "",
        f"Median error {median(abs(e.error) for e in points):.1%} over {len(points)} points; over the "
        f"{len(others)} of models that were not probed {median(abs(e.error) for e in others):.1%}; largest "
        f"{max(abs(e.error) for e in points):.1%}. The profile fits its own points within {profile.error:.1%} "
        "(median).",
        "",
        "| hidden x layers | S | K | keep | predicted ms | measured ms (p5 to p95) | error |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| {e.hidden_size} x {e.layers}{' (probed)' if e.probed else ''} | {e.tokens} | "
            f"{'not pruned' if e.layer is None else e.layer} | {e.keep:g} | {e.predicted:.1f} | "
            f"{e.measured:.1f} ({e.p5:.1f} to {e.p95:.1f}) | {e.error:+.1%} |"
            for e in points
        ),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
