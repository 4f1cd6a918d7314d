"""What fewer bits cost a pretrained language model: how far its text and its answers are from those of fp32.

    python benchmarks/real_precision.py --json docs/benchmarks/precision.json --markdown docs/benchmarks/precision.md
    python benchmarks/real_precision.py --target openvino --markdown docs/benchmarks/precision_openvino.md

SmolLM2-135M-Instruct as the decoder of a LLaVA (`real_llava.py`), as its package has it and moved off the package's
grid, exported in each precision for a target; fp32 is ONNX Runtime's always. Every bundle reads a text
(`real_text.py`), is asked three things about each of forty passages (`real_answers.py`), and is timed beside the others
(`real_speed.py`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
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
from fastv_runtime.backends.threads import default_threads
from fastv_runtime.config.bundle import read_manifest
from fastv_runtime.config.plan import Precision, Weights

FP32 = "fp32"
INT4 = FEW_BITS["int4"]
BLOCK_64 = INT4.model_copy(update={"block": 64})


@dataclass(frozen=True)
class Setting:
    weights: Weights | None = None
    target: str = "ort"
    precision: Precision | None = None
    """None: the target's own."""
    compute: str | None = None
    """Of OpenVINO's kernels; None: their own."""


SETTINGS = {
    "ort": {
        FP32: Setting(),
        "int8": Setting(FEW_BITS["int8"]),
        "int8, block 64": Setting(Weights(bits=8, block=64)),
        "int4": Setting(INT4),
        "int4, block 64": Setting(BLOCK_64),
        "int4, values too": Setting(
            INT4.model_copy(update={"wide": tuple(part for part in INT4.wide if part != "values")})
        ),
    },
    "openvino": {
        FP32: Setting(),
        "fp32, openvino": Setting(target="openvino", precision="float32"),
        "fp16, openvino": Setting(target="openvino"),
        "int8, openvino": Setting(FEW_BITS["int8"], target="openvino"),
        "int8 in bf16, openvino": Setting(FEW_BITS["int8"], target="openvino", compute="bf16"),
        "int4, openvino": Setting(INT4, target="openvino"),
        "int4 in bf16, openvino": Setting(INT4, target="openvino", compute="bf16"),
        "int4, block 64, openvino": Setting(BLOCK_64, target="openvino"),
    },
}
GRIDS = ("off the grid", "as packaged")
PACKAGED = {FP32, "int8", "int8, openvino"}
"""What is tried with weights as packaged: blocks of four bits would find the package's own grid again, or just miss it.
"""
console = Console(stderr=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=SETTINGS, default="ort")
    parser.add_argument("--settings", nargs="+", help="fp32 always (default: all of the target's)")
    parser.add_argument("--grids", nargs="+", choices=GRIDS, default=list(GRIDS), help="weights as they are tried")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    checkpoints = {}
    settings = SETTINGS[args.target]
    wanted = {name: each for name, each in settings.items() if name in {FP32, *(args.settings or settings)}}
    for grid in args.grids:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = write_real_llava(Path(folder) / "checkpoint", off_grid=grid == "off the grid")
            chosen = {name: each for name, each in wanted.items() if grid == "off the grid" or name in PACKAGED}
            checkpoints[grid] = measured(checkpoint, Path(folder), chosen, args.threads)
    used = {**machine(), "threads": args.threads or default_threads()}
    report = {"machine": used, "package": PACKAGE, "target": args.target, "checkpoints": checkpoints}
    text = json.dumps(report, indent=2) + "\n"
    for path, content in ((args.json, text), (args.markdown, markdown(report))):
        if path:
            path.write_text(content, encoding="utf-8")
    print(text, end="")


def measured(checkpoint: Path, folder: Path, settings: dict[str, Setting], threads: int | None) -> dict[str, Any]:
    """What the bundles of one checkpoint cost and keep; `settings` begin with fp32."""
    ids = text_ids(checkpoint)
    rows: list[dict[str, Any]] = []
    pipelines: dict[str, Pipeline] = {}
    exact, answers = np.empty(0, np.float32), dict[str, Answers]()
    for setting, how in settings.items():
        bundle = folder / f"{len(rows)}.fastv"
        options = Options(
            layer=2,
            keep=0.5,
            max_text=256,
            max_new_tokens=MOST,
            target=how.target,
            precision=how.precision,
            weights=how.weights,
            verify=False,
        )
        export_bundle(checkpoint, bundle, options, Progress(None))
        pipelines[setting] = pipeline = Pipeline.load(bundle, threads=threads, compute=how.compute)
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
    graphs = read_manifest(bundle).graphs
    return sum((bundle / graphs[name].weights_file).stat().st_size for name in ("prefix", "suffix"))


if __name__ == "__main__":
    main()
