"""Exact match on held-out questions for every K, keep and ranker, through exported bundles: `python demo/evaluate.py`.

Writes `evaluation.json` and the model card (README.md) into the checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.metadata import version
from itertools import product, repeat
from math import prod
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.progress import Progress as Bars

from demo import heldout
from demo.card import model_card
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.exporting import export_bundle
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_runtime import Bundle, Pipeline

ROOT = Path(__file__).resolve().parent.parent
LAYERS = (1, 2, 3)
KEEPS = (1.0, 0.75, 0.5, 0.25, 0.1)
RANKERS = ("fastv", "random")
console = Console(stderr=True)

Accuracy = dict[str, float]
"""Share of exact matches, for "all" and per kind of question."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "demo" / "checkpoint")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, Bars(console=console) as bars:
        bundles = export_all(args.checkpoint, Path(scratch), bars)
        # Keeping all leaves nothing to rank: one ranker stands for both.
        settings = [(*key, keep) for key in bundles for keep in KEEPS if keep < 1 or key[1] == RANKERS[0]]
        task = bars.add_task("questions", total=len(settings))
        results = []
        with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as processes:
            paths = [bundles[layer, ranker] for layer, ranker, _ in settings]
            keeps = [keep for *_, keep in settings]
            accuracies = processes.map(evaluate, paths, keeps, repeat(args.samples))
            for (layer, ranker, keep), accuracy in zip(settings, accuracies, strict=True):
                results.append({"layer": layer, "ranker": ranker, "keep": keep, "accuracy": accuracy})
                console.print(f"K={layer} {ranker} keep {keep:g}: {accuracy['all']:.1%}")
                bars.advance(task)
    evaluation = {
        "samples": args.samples,
        "seed": heldout.SEED,
        "versions": {name: version(name) for name in ("fastv-edge", "onnxruntime", "torch", "transformers")},
        "results": results,
    }
    (args.checkpoint / "evaluation.json").write_text(json.dumps(evaluation, indent=1) + "\n", encoding="utf-8")
    config, training = (
        json.loads((args.checkpoint / name).read_text(encoding="utf-8")) for name in ("config.json", "training.json")
    )
    parameters = sum(prod(tensor.shape) for tensor in Checkpoint(args.checkpoint).tensors.values())
    (args.checkpoint / "README.md").write_text(model_card(config, training, parameters, evaluation), encoding="utf-8")


def export_all(checkpoint: Path, folder: Path, bars: Bars) -> dict[tuple[int, str], Path]:
    """A bundle for every K and ranker. No graph depends on keep, so one serves every keep."""
    bundles: dict[tuple[int, str], Path] = {}
    for layer, ranker in bars.track(list(product(LAYERS, RANKERS)), description="exports"):
        bundles[layer, ranker] = folder / f"{layer}-{ranker}.fastv"
        options = Options(layer=layer, keep=1.0, ranker=ranker, max_new_tokens=32)
        export_bundle(checkpoint, bundles[layer, ranker], options, Progress(None))
    return bundles


def evaluate(path: Path, keep: float, count: int) -> Accuracy:
    """Exact match of a bundle with another keep than it was exported with, on `count` held-out questions."""
    bundle = Bundle.open(path)
    plan = bundle.manifest.plan.model_copy(update={"keep": keep})
    pipeline = Pipeline(Bundle(path, bundle.manifest.model_copy(update={"plan": plan})), threads=1)
    return exact_match(pipeline, _samples(count))


_samples = cache(heldout.samples)  # drawn once in every process


def exact_match(pipeline: Pipeline, samples: list[heldout.Sample]) -> Accuracy:
    """Share of samples whose greedy answer is the expected text, whole."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for sample in samples:
        answer = pipeline.generate([sample.image], sample.question)
        hit = answer.text.strip() == sample.answer
        hits["all"].append(hit)
        hits[sample.kind].append(hit)
    return {kind: sum(found) / len(found) for kind, found in hits.items()}


if __name__ == "__main__":
    main()
