"""What fewer bits cost a pretrained language model: how far its text and its answers are from those of fp32.

    python benchmarks/real_precision.py --json docs/benchmarks/precision.json --markdown docs/benchmarks/precision.md

SmolLM2-135M-Instruct as the decoder of a LLaVA (`real_llava.py`), as its package has it and moved off the package's
grid, exported in each precision for ONNX Runtime. Every bundle reads a text (`real_text.py`), is asked three things
about each of forty passages (`real_answers.py`), and is timed beside the others (`real_speed.py`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from real_answers import TEXTS, Answers, agreement, answered
from real_llava import PACKAGE, write_real_llava
from real_page import markdown
from real_speed import milliseconds
from real_text import MOST, distance, read_text, text_ids, witness
from rich.console import Console

from fastv_export.exporting import export_bundle
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_export.quantization.presets import FEW_BITS
from fastv_runtime import Pipeline
from fastv_runtime.backends.onnxruntime import default_threads
from fastv_runtime.config.plan import Weights

FP32 = "fp32"
INT4 = FEW_BITS["int4"]
SETTINGS: dict[str, Weights | None] = {
    FP32: None,
    "int8": FEW_BITS["int8"],
    "int8, block 64": Weights(bits=8, block=64),
    "int4": INT4,
    "int4, block 64": INT4.model_copy(update={"block": 64}),
    "int4, values too": INT4.model_copy(update={"wide": tuple(part for part in INT4.wide if part != "values")}),
}
CHECKPOINTS: dict[str, tuple[str, ...]] = {"off the grid": tuple(SETTINGS), "as packaged": (FP32, "int8")}
"""And which settings each is tried in: blocks of four bits would find the package's own grid again, or just miss it."""
console = Console(stderr=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="fp32 always")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    checkpoints = {}
    for name, settings in CHECKPOINTS.items():
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = write_real_llava(Path(folder) / "checkpoint", off_grid=name == "off the grid")
            chosen = [each for each in settings if each == FP32 or each in args.settings]
            checkpoints[name] = measured(checkpoint, Path(folder), chosen, args.threads)
    used = {**machine(), "threads": args.threads or default_threads()}
    report = {"machine": used, "package": PACKAGE, "checkpoints": checkpoints}
    text = json.dumps(report, indent=2) + "\n"
    for path, content in ((args.json, text), (args.markdown, markdown(report))):
        if path:
            path.write_text(content, encoding="utf-8")
    print(text, end="")


def measured(checkpoint: Path, folder: Path, settings: list[str], threads: int | None) -> dict[str, Any]:
    """What the bundles of one checkpoint cost and keep; `settings` begin with fp32."""
    ids = text_ids(checkpoint)
    rows: list[dict[str, Any]] = []
    pipelines: dict[str, Pipeline] = {}
    exact, answers = np.empty(0, np.float32), dict[str, Answers]()
    for setting in settings:
        bundle = folder / f"{len(rows)}.fastv"
        options = Options(layer=2, keep=0.5, max_text=256, max_new_tokens=MOST, weights=SETTINGS[setting], verify=False)
        export_bundle(checkpoint, bundle, options, Progress(None))
        pipelines[setting] = pipeline = Pipeline.load(bundle, threads=threads)
        found = read_text(pipeline, ids)
        given = {text: answered(pipeline, text) for text in TEXTS}
        if not rows:
            exact, answers = found, given
        size = decoder_bytes(bundle)
        row = {
            "precision": setting,
            "bits": 32 * size / rows[0]["bytes"] if rows else 32.0,
            "bytes": size,
            **distance(found, exact, ids),
            "answers": {text: agreement(given[text], answers[text]) for text in TEXTS},
        }
        rows.append(row)
        console.print(row)
    for row, spent in zip(rows, milliseconds(pipelines).values(), strict=True):
        row |= spent
    return {"tokens": len(ids), "transformers": witness(checkpoint, ids), "precisions": rows}


def decoder_bytes(bundle: Path) -> int:
    """Of the weights beside the decoder's graphs, the head's among them."""
    return sum((bundle / "onnx" / f"{graph}.onnx.data").stat().st_size for graph in ("prefix", "suffix"))


if __name__ == "__main__":
    main()
