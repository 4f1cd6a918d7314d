"""Exact match of the unpruned model on held-out questions: `python demo/real/evaluate.py [CHECKPOINT]`.

Answers are greedy and come from transformers' own `generate` in fp32. Writes evaluation.json into this folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.metadata import version
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import torch
from rich.progress import track
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from demo.heldout import Sample
from demo.images import answer
from demo.real import heldout
from demo.real.asking import GROUPS
from demo.real.build import CHECKPOINT, HERE
from demo.real.stored import write_text
from fastv_calib.choice.intervals import wilson


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=CHECKPOINT, help="(default demo/out/real)")
    parser.add_argument("--samples", type=int, default=1000, help="(default %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each (default %(default)s)")
    parser.add_argument("--json", type=Path, default=HERE / "evaluation.json")
    args = parser.parse_args()
    hits: dict[str, list[bool]] = defaultdict(list)
    with ProcessPoolExecutor(args.processes, get_context("spawn")) as processes:
        samples = heldout.samples(args.samples)
        answered = processes.map(_right, repeat(args.checkpoint), samples)
        for sample, hit in zip(samples, track(answered, "questions", len(samples)), strict=True):
            for name in ("all", sample.kind, GROUPS[sample.kind]):
                hits[name].append(hit)
    evaluation = {
        "samples": args.samples,
        "seed": heldout.SEED,
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "accuracy": {name: _figures(found) for name, found in hits.items()},
    }
    write_text(args.json, json.dumps(evaluation, indent=1) + "\n")
    for name, found in hits.items():
        print(f"{name}: {sum(found) / len(found):.1%} of {len(found)}")


@cache
def _loaded(checkpoint: Path) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    torch.set_num_threads(1)
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint).eval()
    return model, AutoProcessor.from_pretrained(checkpoint, backend="pil")


def _right(checkpoint: Path, sample: Sample) -> bool:
    return answer(*_loaded(checkpoint), sample.image, sample.question) == sample.answer


def _figures(found: list[bool]) -> dict[str, float | list[float]]:
    share = wilson(found)
    return {"count": len(found), "share": share.mean, "interval": [round(share.low, 4), round(share.high, 4)]}


if __name__ == "__main__":
    main()
