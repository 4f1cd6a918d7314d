r"""What a second question costs beside the first: time to the first token, turn by turn, in one run.

    python benchmarks/conversation.py --json docs/benchmarks/conversation.json \
        --markdown docs/benchmarks/conversation.md

Random weights, fp32: a decoder of Qwen2-0.5B dimensions behind a tower of next to nothing, so that all of it is the
decoder's, and behind CLIP-L/14 at 336 pixels, LLaVA-1.5's tower. 576 visual tokens an image; a question, an answer of
16 tokens, a second question. `anew`: without what the first turn left. `chosen again`: as `Pipeline.chat`
does it. `stays`: with `stay` 0, the first turn's selection. `new image`: the second turn shows another.

Runners take turns in shuffled orders; each ratio is of one round, then their median.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from configurations import configuration
from machine import machine
from PIL import Image
from random_checkpoint import write_random_checkpoint
from rich.console import Console
from rich.progress import track

from fastv_export.exporting import export_bundle
from fastv_export.plan import CutOption, Options
from fastv_export.progress import Progress
from fastv_runtime import Pipeline

SIZE, ANSWER = 336, 16
THIN, CLIP = "thin-llava-qwen2-0.5b", "clip-llava-qwen2-0.5b"
"""Configurations."""
PLANS: dict[str, tuple[str, tuple[CutOption, ...]]] = {
    "K=4, keep 0.4": (THIN, (CutOption(4, 0.4),)),
    "K=2, keep 0.5": (THIN, (CutOption(2, 0.5),)),
    "K=4, keep 0.5; K=10, keep 0.1": (THIN, (CutOption(4, 0.5), CutOption(10, 0.1))),
    "unpruned": (THIN, ()),
    "behind CLIP-L: K=4, keep 0.4": (CLIP, (CutOption(4, 0.4),)),
}
"""Configuration and cuts."""
SECOND = ("anew", "chosen again", "stays", "new image")
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
    "assistant: "
)
QUESTIONS = ("what is in the picture and where is it", "and which color does it have")
console = Console(stderr=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="keep checkpoint and bundles here (8 GB) for the next run")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.cache or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        report = measure(prepare(folder), args.rounds, args.threads)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if args.markdown:
        args.markdown.write_text(markdown(report), encoding="utf-8")
    print(markdown(report))


def prepare(folder: Path) -> dict[str, Path]:
    """The bundles of PLANS, made unless they are there."""
    for name in (THIN, CLIP):
        checkpoint = folder / name
        if not checkpoint.exists():
            with console.status(f"random checkpoint of {name}"):
                write_random_checkpoint(configuration(name), checkpoint, dtype="fp32")
            (checkpoint / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    bundles = {name: folder / f"chatting-{number}.fastv" for number, name in enumerate(PLANS)}
    for name, (model, cuts) in PLANS.items():
        if not bundles[name].exists():
            options = Options(
                prune=bool(cuts), cuts=cuts, max_text=160, max_images=2, max_new_tokens=ANSWER, verify=False
            )
            with Progress(console) as progress:
                export_bundle(folder / model, bundles[name], options, progress)
    return bundles


def measure(bundles: dict[str, Path], rounds: int, threads: int) -> dict[str, Any]:
    """Milliseconds to the first token of each turn; one plan is loaded at a time, its turns interleaved."""
    order = np.random.default_rng(0)
    plans: dict[str, Any] = {}
    for name, path in bundles.items():
        kinds = [each for each in SECOND if each != "stays" or PLANS[name][1]]
        with Pipeline.load(path, threads=threads) as pipeline:
            firsts: list[float] = []
            ratios: dict[str, list[float]] = {kind: [] for kind in kinds}
            seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
            rows: dict[str, Any] = {}
            for number in track(range(rounds + 1), name, console=console):
                for place, kind in enumerate(order.permutation(kinds)):
                    # Images of its own: another's first turn would be found in the caches.
                    first, second, said = conversation(pipeline, kind, number * len(kinds) + place)
                    if number:  # the first binds, and allocates
                        firsts.append(first)
                        seconds[kind].append(second)
                        ratios[kind].append(second / first)
                    rows[kind] = said
        plans[name] = {
            "first_ms": median(firsts),
            "second_ms": {kind: median(each) for kind, each in seconds.items()},
            "ratio": {kind: median(each) for kind, each in ratios.items()},
            "spread": {kind: [min(each), max(each)] for kind, each in ratios.items()},
            "rows": rows,
        }
    return {"machine": machine(), "threads": threads, "rounds": rounds, "plans": plans}


def conversation(pipeline: Pipeline, kind: str, seed: int) -> tuple[float, float, dict[str, Any]]:
    """Milliseconds to the first token of both turns, and what of the second was run."""
    images = [noise(2 * seed), noise(2 * seed + 1)]
    chat = pipeline.chat(max_new_tokens=ANSWER, stay=0.0 if kind == "stays" else None)
    first = chat.ask(QUESTIONS[0], images[0])
    if kind == "anew":
        asked = {"role": "user", "content": QUESTIONS[1]}
        second = pipeline.generate(messages=[*chat.messages, asked], max_new_tokens=1)
    else:
        second = chat.ask(QUESTIONS[1], images[1] if kind == "new image" else ())
    said = {
        "prompt_tokens": [first.prompt_tokens, second.prompt_tokens],
        "reused_tokens": second.reused_tokens,
        "cuts": [[cut.layer, cut.pruned_length, cut.reused_length] for cut in second.cuts],
    }
    return first.timings_ms["ttft"], second.timings_ms["ttft"], said


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8))


def markdown(report: dict[str, Any]) -> str:
    lines = [
        "# What a second question costs",
        "",
        "Made by `benchmarks/conversation.py`: time to the first token of the second turn of a conversation",
        "over that of the first, in one run. Random weights, fp32, an answer of 16 tokens between the questions:",
        "a decoder of Qwen2-0.5B dimensions behind a tower of next to nothing, and in the last line behind",
        "CLIP-L/14 at 336 pixels, LLaVA-1.5's tower. 576 visual tokens an image.",
        f"{report['machine']['cpu']}, {report['threads']} threads, {report['rounds']} rounds; in brackets the spread.",
        "",
        "| plan | first turn | read anew | tokens chosen again | selection stays | a new image |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, plan in report["plans"].items():
        cells = [
            f"{plan['ratio'][kind]:.2f} ({plan['spread'][kind][0]:.2f} to {plan['spread'][kind][1]:.2f})"
            if kind in plan["ratio"]
            else "-"
            for kind in SECOND
        ]
        lines.append(f"| {name} | {plan['first_ms']:.0f} ms | {' | '.join(cells)} |")
    lines += ["", "Rows that the second turn ran, by stage (the rest was in the caches):", ""]
    lines += ["| plan | second turn | layers before the first cut | behind each cut |", "| --- | --- | ---: | --- |"]
    for name, plan in report["plans"].items():
        for kind, rows in plan["rows"].items():
            ran = rows["prompt_tokens"][1] - rows["reused_tokens"]
            behind = ", ".join(f"{length - reused} of {length}" for _, length, reused in rows["cuts"]) or "-"
            lines.append(f"| {name} | {kind} | {ran} of {rows['prompt_tokens'][1]} | {behind} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
