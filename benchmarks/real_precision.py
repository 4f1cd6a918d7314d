"""What fewer bits cost a pretrained language model: how far its answers are those of fp32.

    python benchmarks/real_precision.py --json real_precision.json --markdown docs/benchmarks/real_precision.md

SmolLM2-135M-Instruct as the decoder of a LLaVA (`real_llava.py`), exported in each precision for ONNX Runtime and asked
three things about each of twenty short texts (`passages.txt`), greedily, sixteen tokens each.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from machine import machine
from real_llava import PACKAGE, write_real_llava
from rich.console import Console

from fastv_export.export import export_bundle
from fastv_export.plan import Options
from fastv_export.precisions import FEW_BITS
from fastv_export.progress import Progress
from fastv_runtime import Pipeline
from fastv_runtime.bundle import Weights

PASSAGES = Path(__file__).with_name("passages.txt")
QUESTIONS = (
    "What is this text about? Answer in one sentence.",
    "Continue the text.",
    "Write the first question that a teacher could ask about this text.",
)
TOKENS = 16
LEAST = 60
"""Tokens of a prompt."""
SETTINGS: dict[str, Weights | None] = {
    "fp32": None,
    "int8": FEW_BITS["int8"],
    "int8, block 64": Weights(bits=8, block=64),
    "int4": FEW_BITS["int4"],
}
console = Console(stderr=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="fp32 always")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_real_llava(Path(folder) / "checkpoint")
        rows: list[dict[str, Any]] = []
        exact: list[list[int]] = []
        for setting in dict.fromkeys(["fp32", *args.settings]):
            bundle = Path(folder) / f"{len(rows)}.fastv"
            options = Options(max_text=256, max_new_tokens=TOKENS, weights=SETTINGS[setting], verify=False)
            export_bundle(checkpoint, bundle, options, Progress(None))
            answers = answered(bundle, args.threads)
            exact = exact or answers
            rows.append({"precision": setting, **agreement(answers, exact)})
            console.print(rows[-1])
    report = {"machine": machine(), "package": PACKAGE, "prompts": len(exact), "precisions": rows}
    text = json.dumps(report, indent=2) + "\n"
    for path, content in ((args.json, text), (args.markdown, markdown(report))):
        if path:
            path.write_text(content, encoding="utf-8")
    print(text, end="")


def answered(bundle: Path, threads: int | None) -> list[list[int]]:
    """Token ids of every answer."""
    pipeline = Pipeline.load(bundle, threads=threads)
    found = []
    for passage in PASSAGES.read_text(encoding="utf-8").splitlines():
        for question in QUESTIONS:
            answer = pipeline.generate([], f"{passage}\n\n{question}", max_new_tokens=TOKENS, ignore_stop=True)
            assert answer.prompt_tokens >= LEAST
            found.append(answer.token_ids)
    return found


def agreement(answers: list[list[int]], exact: list[list[int]]) -> dict[str, float]:
    """Answers whose first token is that of fp32, and the mean number of tokens up to the first that is not."""
    prefixes = [
        next((at for at, (our, their) in enumerate(zip(ours, theirs, strict=True)) if our != their), len(theirs))
        for ours, theirs in zip(answers, exact, strict=True)
    ]
    return {"first": sum(each > 0 for each in prefixes), "prefix": sum(prefixes) / len(prefixes)}


def markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    lines = [
        "# What fewer bits cost a pretrained language model",
        "",
        f"Made by `make precision`: SmolLM2-135M-Instruct (Apache-2.0, package {report['package']}) as the decoder of "
        f"a LLaVA whose tower is random; {report['prompts']} prompts of text, of {LEAST} tokens and more, "
        f"{TOKENS} tokens each, greedily; ONNX Runtime on the CPU; no calibration is given. The package has the "
        "model in four bits with offsets, and its weights lie on that grid: on symmetric four bits that is harder than "
        "weights as they are trained.",
        "",
        ", ".join(f"{name} {value}" for name, value in report["machine"].items()),
        "",
        f"| `--precision` | first token as in fp32 | tokens as in fp32 before the first that is not, of {TOKENS} |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {row['precision']} | {row['first']} of {report['prompts']} | {row['prefix']:.1f} |"
        for row in report["precisions"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
