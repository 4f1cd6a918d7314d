r"""What `stay` costs: second questions answered right, when tokens that the first one chose stay.

    python benchmarks/conversation_answers.py demo/out/real demo/out/heldout/data.jsonl --name "SmolLM2-135M LLaVA" \
        --json docs/benchmarks/conversation_answers.json --markdown docs/benchmarks/conversation_answers.md

QUESTIONS: JSON lines as fastv-calibrate takes them, with answers. Of each picture the first question is the line's
before, the second its own. The checkpoint is exported in fp32 where an export cuts that is told nothing. Runs of other
names stay in the files.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from machine import machine
from rich.console import Console
from rich.progress import track

from fastv_calib.choice.intervals import told_apart, wilson
from fastv_calib.samples.data import Sample, read_data
from fastv_export.exporting import export_bundle
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_runtime import Pipeline

STAYS: tuple[float | None, ...] = (None, 0.9, 0.8, 0.7, 0.6, 0.5, 0.0)
console = Console(stderr=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--keep", type=float, help="of the visual tokens (default: as an export that is told nothing)")
    parser.add_argument("--most", type=int, default=200, help="questions at most (default: 200)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    samples = list(read_data(args.questions, None))[: args.most]
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(scratch) / "chatting.fastv"
        with Progress(console) as progress:
            export_bundle(args.checkpoint, bundle, Options(max_text=256, keep=args.keep, verify=False), progress)
        with Pipeline.load(bundle, threads=args.threads) as pipeline:
            run = measure(pipeline, samples)
    report: dict[str, Any] = {}
    if args.json and args.json.exists():
        report = json.loads(args.json.read_text(encoding="utf-8"))
    report[args.name] = run
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if args.markdown:
        args.markdown.write_text(markdown(report), encoding="utf-8")
    print(markdown(report))


def measure(pipeline: Pipeline, samples: list[Sample]) -> dict[str, Any]:
    """Second questions that are answered right, and turns whose selection stayed, for each of STAYS."""
    hits: dict[float | None, list[bool]] = {stay: [] for stay in STAYS}
    stood: dict[float | None, int] = dict.fromkeys(STAYS, 0)
    overlaps: list[float] = []
    for before, sample in track(list(zip([samples[-1], *samples], samples, strict=False)), "asking", console=console):
        assert sample.answer is not None
        for stay in STAYS:
            chat = pipeline.chat(stay=stay, max_new_tokens=16)
            first = chat.ask(before.prompt, list(sample.images))
            second = chat.ask(sample.prompt)
            hits[stay].append(second.text.strip().rstrip(".").lower() == sample.answer.strip().lower())
            stood[stay] += second.kept_visual_tokens == first.kept_visual_tokens
            if stay is None:
                same = set(first.kept_visual_tokens) & set(second.kept_visual_tokens)
                overlaps.append(len(same) / len(second.kept_visual_tokens))
    plan = pipeline.bundle.manifest.plan
    return {
        "machine": machine(),
        "questions": len(samples),
        "plan": [[cut.layer, cut.keep, cut.ranker] for cut in plan.cuts],
        "overlap": sorted(overlaps),
        "stays": [
            {
                "stay": stay,
                "right": wilson(found).model_dump(),
                "stood": stood[stay] / len(samples),
                "told_apart": told_apart(found, hits[None]),
            }
            for stay, found in hits.items()
        ],
    }


def markdown(report: dict[str, Any]) -> str:
    lines = [
        "# What it costs to keep a selection",
        "",
        "Made by `benchmarks/conversation_answers.py`: two questions about a picture, the first that of",
        "another picture, and how many second ones are answered right (95% intervals) with",
        "`Pipeline.chat(stay=...)`. `stayed`: turns whose selection was the first question's.",
    ]
    for name, run in report.items():
        plan = ", ".join(f"K={layer}, keep {keep:g}, {ranker}" for layer, keep, ranker in run["plan"])
        tenth, half = run["overlap"][len(run["overlap"]) // 10], run["overlap"][len(run["overlap"]) // 2]
        lines += [
            "",
            f"## {name}",
            "",
            f"{run['questions']} pictures; {plan}. Of the tokens that the second question chooses, the first had",
            f"chosen {100 * half:.0f}% (median), and more than {100 * tenth:.0f}% in nine of ten turns.",
            "",
            "| `stay` | stayed | right | told apart from none |",
            "| --- | ---: | ---: | --- |",
        ]
        for each in run["stays"]:
            right = each["right"]
            lines.append(
                f"| {'none' if each['stay'] is None else each['stay']:} | {100 * each['stood']:.0f}% | "
                f"{100 * right['mean']:.1f}% ({100 * right['low']:.1f} to {100 * right['high']:.1f}) | "
                f"{'yes' if each['told_apart'] else 'no'} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
