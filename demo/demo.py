"""The whole way in one minute: export the demo checkpoint, ask it about images, compare pruned with dense.

make demo
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from statistics import median

from PIL import Image
from rich.console import Console
from rich.table import Table

from fastv_export.exporting import export_bundle
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_runtime import Pipeline
from fastv_runtime.claims import claimed
from fastv_runtime.generation.clock import STAGES
from fastv_runtime.generation.kept_image import save_image
from fastv_runtime.preprocessing.images.loading import open_image

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
ROUNDS = 30
console = Console(highlight=False)


def main() -> None:
    with claimed(OUT):  # a second demo would remove what the first one writes
        show()


def show() -> None:
    if OUT.exists():
        shutil.rmtree(OUT)
    OUT.mkdir()
    pruned = export("pruned.fastv", "--precision fp32 --layer 2 --keep 0.5", Options(layer=2, keep=0.5))
    dense = export("dense.fastv", "--precision fp32 --no-prune", Options(prune=False))
    questions = json.loads((HERE / "images" / "questions.json").read_text(encoding="utf-8"))
    for index, entry in enumerate(questions, 1):
        ask(pruned, entry["image"], entry["question"], OUT / f"kept-{index}.png")
    first = questions[0]
    console.print(compare(pruned, dense, open_image(HERE / "images" / first["image"]), first["question"]))
    console.print(
        "This model is so small that much of its time is fixed cost per call; "
        "docs/benchmarks/decoder.md has a decoder of real size.",
        style="dim",
    )


def export(name: str, flags: str, options: Options) -> Pipeline:
    """Export the demo checkpoint and load the bundle."""
    shown(f"fastv-export demo/checkpoint -o demo/out/{name} --target ort {flags}")
    with Progress(Console(stderr=True)) as progress:
        export_bundle(HERE / "checkpoint", OUT / name, options, progress)
    # Products this small are over before a second thread has woken up.
    return Pipeline.load(OUT / name, threads=1)


def ask(pipeline: Pipeline, name: str, question: str, kept: Path) -> None:
    """Stream one answer and draw what it was given from."""
    image = open_image(HERE / "images" / name)
    shown(
        f'fastv-run demo/out/pruned.fastv --image demo/images/{name} --prompt "{question}" '
        f"--show-kept demo/out/{kept.name}"
    )
    generation = pipeline.stream([image], question)
    for piece in generation:
        sys.stdout.write(piece)
        sys.stdout.flush()
    answer = generation.answer
    save_image(generation.draw_kept(), kept)
    console.print(
        f"\n  {len(answer.kept_visual_tokens)} of {answer.visual_tokens} visual tokens kept, see demo/out/{kept.name}",
        style="dim",
    )


def compare(pruned: Pipeline, dense: Pipeline, image: Image.Image, question: str) -> Table:
    """Median milliseconds by stage, the two taking turns."""
    runners = {"dense": dense, "pruned": pruned}
    timings: dict[str, list[dict[str, float]]] = {name: [] for name in runners}
    for index in range(ROUNDS + 3):
        for name, pipeline in runners.items():
            answer = pipeline.generate([image], question, max_new_tokens=16, ignore_stop=True)
            if index >= 3:  # the first calls warm up
                timings[name].append(answer.timings_ms)
    table = Table("ms, median of " + str(ROUNDS), *runners, title="latency by stage")
    for stage in (*STAGES, "ttft", "decode_per_token"):
        values = [median(each[stage] for each in timings[name]) for name in runners]
        label = "suffix (dense: all layers)" if stage == "suffix" else stage
        table.add_row(label, *(f"{value:.2f}" if value else "-" for value in values))
    language = [
        median(sum(each[stage] for stage in ("prefix", "select", "suffix")) for each in timings[name])
        for name in runners
    ]
    table.add_section()
    table.add_row("prefix + select + suffix", *(f"{value:.2f}" for value in language))
    table.add_row("dense / pruned", "", f"{language[0] / language[1]:.2f}x")
    return table


def shown(command: str) -> None:
    console.print(f"\n$ {command}", style="bold", soft_wrap=True)


if __name__ == "__main__":
    main()
