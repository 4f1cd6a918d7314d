r"""What fewer bits cost the demo model: accuracy, and how many of the kept tokens stay the same.

    python benchmarks/demo_precision.py --json docs/benchmarks/demo_precision.json \
        --markdown docs/benchmarks/demo_precision.md

Every precision answers the same held-out questions at K=2, keep 0.5. Overlap is the share of the tokens kept in fp32
that are kept as well. Scales (AWQ, SmoothQuant) are by a calibration on other questions, of the calibration split.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from machine import machine
from rich.console import Console

from demo import calibration_split, heldout
from fastv_calib.cli import main as calibrate
from fastv_calib.measurement.activations import SAMPLES
from fastv_export.calibration import read_calibration
from fastv_export.exporting import export_bundle
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_export.quantization.activations import Activation, read_activations, sidecar_of
from fastv_runtime import Pipeline
from fastv_runtime.config.plan import Part, Weights

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "demo" / "checkpoint"
console = Console(stderr=True)
WIDE: tuple[Part, ...] = ("vision", "prefix", "head")
CUT = Options(layer=2, keep=0.5)
SETTINGS: dict[str, Options] = {
    "fp32": CUT,
    "fp16": replace(CUT, precision="float16"),
    "int8 (activations too)": replace(CUT, weights=Weights(bits=8, block=None)),
    "int8, block 128": replace(CUT, weights=Weights(bits=8, block=128)),
    "int8, block 64": replace(CUT, weights=Weights(bits=8, block=64)),
    "int4, block 128": replace(CUT, weights=Weights(bits=4, block=128, wide=WIDE)),
    "int4, block 64": replace(CUT, weights=Weights(bits=4, block=64, wide=WIDE)),
    "int4, block 32": replace(CUT, weights=Weights(bits=4, block=32, wide=WIDE)),
    "int4, block 64, every part": replace(CUT, weights=Weights(bits=4, block=64)),
}
SCALED = {
    "int8 (activations too)": "SmoothQuant",
    "int4, block 128": "AWQ",
    "int4, block 64": "AWQ",
    "int4, block 32": "AWQ",
    "int4, block 64, every part": "AWQ",
}
"""Settings that are tried with scales by a calibration as well."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seen = activations(Path(folder))
        paths: list[Path] = []
        names: list[str] = []
        for setting, options in SETTINGS.items():
            for scales in (None, SCALED[setting]) if setting in SCALED else (None,):
                names.append(setting if scales is None else f"{setting}, {scales}")
                paths.append(Path(folder) / f"{len(paths)}.fastv")
                export_bundle(CHECKPOINT, paths[-1], options, Progress(None), seen if scales else None)
        sizes = [sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) for bundle in paths]
        with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as processes:
            answers = list(processes.map(answer, paths, repeat(args.samples)))
    rows = []
    for name, size, found in zip(names, sizes, answers, strict=True):
        pairs = list(zip(found, answers[0], strict=True))
        rows.append(
            {
                "precision": name,
                "mib": size / 2**20,
                "accuracy": sum(each["right"] for each in found) / len(found),
                "agreement": sum(ours["text"] == full["text"] for ours, full in pairs) / len(pairs),
                "overlap": sum(len({*ours["kept"]} & {*full["kept"]}) / len(full["kept"]) for ours, full in pairs)
                / len(pairs),
            }
        )
        console.print(rows[-1])
    report = {"machine": machine(), "samples": args.samples, "precisions": rows}
    text = json.dumps(report, indent=2) + "\n"
    for path, content in ((args.json, text), (args.markdown, markdown(report))):
        if path:
            path.write_text(content, encoding="utf-8")
    print(text, end="")


def activations(folder: Path) -> dict[str, Activation]:
    """What the demo's products are given by questions of the calibration split."""
    data, output = calibration_split.write_split(folder / "data", SAMPLES), folder / "calibration.json"
    flags = ["--layers", "2", "--keeps", "0.5", "--rankers", "fastv", "--min-agreement", "0.01"]
    calibrate([str(CHECKPOINT), "--data", str(data), "-o", str(output), *flags])
    return read_activations(sidecar_of(output), read_calibration(output).activations)


def answer(path: Path, count: int) -> list[dict[str, Any]]:
    """What a bundle answers to held-out questions, whether that is right, and the tokens that it kept."""
    pipeline = Pipeline.load(path, threads=1)
    found = []
    for sample in heldout.samples(count):
        given = pipeline.generate([sample.image], sample.question)
        right = given.text.strip() == sample.answer
        found.append({"text": given.text, "right": right, "kept": given.kept_visual_tokens})
    return found


def markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    lines = [
        "# What fewer bits cost the demo model",
        "",
        f"Made by `benchmarks/demo_precision.py`: {report['samples']} held-out questions to the demo model, K=2, "
        "keep 0.5, ONNX Runtime on the CPU (int4 and int8 weights; activations in 8 bits within products, as ONNX "
        "Runtime does by default). Rounding to nearest; with AWQ or SmoothQuant after scaling by "
        f"{SAMPLES} other questions. One question is {1 / report['samples']:.1%}: differences of a few are chance. "
        "In int4 the tower, the prefix and the head have 8 bits except where it says every part. Agreement: the whole "
        "answer equals that of fp32.",
        "",
        ", ".join(f"{name} {value}" for name, value in report["machine"].items()),
        "",
        "| precision | bundle MiB | exact match | agreement with fp32 | kept tokens as in fp32 |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['precision']} | {row['mib']:.1f} | {row['accuracy']:.1%} | {row['agreement']:.1%} "
        f"| {row['overlap']:.1%} |"
        for row in report["precisions"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
