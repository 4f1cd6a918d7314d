"""`make report`: fastv-bench on the demo checkpoint and on a random LLaVA-OneVision of 0.5B, and an image of the page.

    python benchmarks/report.py --out docs/benchmarks --image docs/bench.png
    python benchmarks/report.py --only demo --rounds 9

Each model unpruned and at K=2 with half and a quarter of its visual tokens, fp32, on ONNX Runtime's CPU provider. Takes
a quarter of an hour on two cores that have nothing else to do, 12 GB of disk and as much memory.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from configurations import configuration
from random_checkpoint import write_random_checkpoint
from rich.console import Console

from fastv_export.exporting import export_bundle
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_runtime.cli.bench import main as fastv_bench

ROOT = Path(__file__).resolve().parent.parent
KEEPS = (0.5, 0.25)
LAYER = 2
MODELS = {"demo": "report-demo", "0.5b": "report"}
"""What each is written as."""
CONFIGURATION = "llava-onevision-0.5b"
LIMITS = {"demo": {"max_images": 2}, "0.5b": {"max_visual": 1800}}
"""Of prompts. OneVision makes 1,317 to 7,309 visual tokens of an image, 2,929 of 640 x 480 pixels: that takes long."""
ROUNDS = {"demo": 25, "0.5b": 9}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
console = Console(stderr=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(MODELS), help="default: both")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--image", type=Path, help="of the last page, if there is a Chromium to take it")
    parser.add_argument("--rounds", type=int, help="default: " + ", ".join(f"{n} for {m}" for m, n in ROUNDS.items()))
    parser.add_argument("--threads", type=int, help="default: one per core; the demo model has one")
    parser.add_argument("--cache", type=Path, help="keep checkpoint and bundles here for the next run")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.cache or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for model in [args.only] if args.only else list(MODELS):
            page = report(model, folder, args)
    if args.image:
        image(page, args.image)


def report(model: str, folder: Path, args: argparse.Namespace) -> Path:
    """Write a model's report; returns the page."""
    checkpoint = ROOT / "demo" / "checkpoint" if model == "demo" else folder / CONFIGURATION
    if not checkpoint.exists():
        with Progress(console) as progress:
            write_random_checkpoint(configuration(CONFIGURATION), checkpoint, progress=progress)
    bundles = []
    for name, layer, keep in (("dense", None, 1.0), *((f"keep{keep:g}", LAYER, keep) for keep in KEEPS)):
        bundles.append(folder / f"{model}-{name}.fastv")
        if not bundles[-1].exists():
            with Progress(console) as progress:
                export_bundle(checkpoint, bundles[-1], Options(layer=layer, keep=keep, **LIMITS[model]), progress)  # type: ignore[arg-type]
    # A report says the command that made it: from the project's root, without a machine's directories.
    page = Path(os.path.relpath(args.out / f"{MODELS[model]}.html"))
    # Products as small as the demo's are over before a second thread has woken up.
    threads = 1 if model == "demo" else args.threads
    fastv_bench(
        [
            *(os.path.relpath(bundle) for bundle in bundles),
            *("--rounds", str(args.rounds or ROUNDS[model])),
            *(() if threads is None else ("--threads", str(threads))),
            *("--json", str(page.with_suffix(".json")), "--report", str(page)),
        ]
    )
    return page


def image(page: Path, path: Path) -> None:
    """The top of a page as PNG."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        console.print(f"no image: none of {', '.join(BROWSERS)} is installed", style="yellow")
        return
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1100,1500")
    command = [browser, *flags, f"--screenshot={path.absolute()}", page.absolute().as_uri()]
    subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    main()
