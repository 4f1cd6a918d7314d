"""What half precision costs the demo's answers: bundles for TensorRT in fp16 against one for ONNX Runtime in fp32.

    python benchmarks/half_precision.py --markdown docs/benchmarks/half_precision.md

All run on ONNX Runtime's CPU provider. Logits are compared over 64 greedy steps, the fp32 bundle's tokens forced on
both; answers on held-out questions.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.progress import track

from demo import heldout
from fastv_export.exporting import export_bundle
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_runtime import Pipeline

CHECKPOINT = Path(__file__).resolve().parent.parent / "demo" / "checkpoint"
REFERENCE = "ort fp32"
TARGETS = ("trt", "trt-legacy")
STEPS = 64
Steps = Float[np.ndarray, "T V"]
console = Console(stderr=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=500, help="whose answers are compared (default: 500)")
    parser.add_argument("--prompts", type=int, default=24, help="whose logits are compared (default: 24)")
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        report = measure(Path(scratch), args.questions, args.prompts)
    if args.markdown:
        args.markdown.parent.mkdir(parents=True, exist_ok=True)
        args.markdown.write_text(markdown(report), encoding="utf-8")
    print(json.dumps(report, indent=2))


def measure(folder: Path, questions: int, prompts: int) -> dict[str, Any]:
    """Export the bundles into a folder, then compare logits and answers."""
    plan = Options(layer=2, keep=0.5, max_new_tokens=STEPS)
    pipelines = {REFERENCE: _pipeline(folder / "reference", plan)}
    for target in TARGETS:
        options = Options(layer=2, keep=0.5, max_new_tokens=STEPS, target=target, precision="float16")
        pipelines[f"{target} fp16"] = _pipeline(folder / target, options)
    samples = heldout.samples(questions)
    reference = pipelines.pop(REFERENCE)
    steps: dict[str, list[tuple[Steps, Steps]]] = {name: [] for name in pipelines}
    for sample in track(samples[:prompts], "logits", console=console):
        tokens, expected = greedy(reference, sample)
        for name, pipeline in pipelines.items():
            steps[name].append((forced(pipeline, sample, tokens), expected))
    truth = [sample.answer for sample in samples]
    answers, kept = answer_all(reference, samples, REFERENCE)
    found = {}
    for name, pipeline in pipelines.items():
        half_answers, half_kept = answer_all(pipeline, samples, name)
        found[name] = logit_differences(steps[name]) | {
            "prompts with the same visual tokens kept": share(half_kept, kept),
            "answers that agree": share(half_answers, answers),
            "right answers": share(half_answers, truth),
        }
    return {
        "setting": {
            "questions": questions,
            "prompts": prompts,
            "steps": STEPS,
            "layer": plan.layer,
            "keep": plan.keep,
            **{name: version(name) for name in ("onnxruntime", "torch", "transformers")},
        },
        "right answers of the reference": share(answers, truth),
        "half precision": found,
    }


def greedy(pipeline: Pipeline, sample: heldout.Sample) -> tuple[list[int], Steps]:
    """A greedy answer of `STEPS` tokens, past stop tokens, and the logits of each."""
    tokens: list[int] = []
    rows = []
    pipeline.stream([sample.image], sample.question)
    for step in range(STEPS):
        if step:
            _advance(pipeline, tokens[-1])
        rows.append(pipeline.logits.copy())
        tokens.append(int(rows[-1].argmax()))
    return tokens, np.stack(rows)


def forced(pipeline: Pipeline, sample: heldout.Sample, tokens: list[int]) -> Steps:
    """The logits of each step when the answer is the given tokens."""
    pipeline.stream([sample.image], sample.question)
    rows = [pipeline.logits.copy()]
    for token in tokens[:-1]:
        _advance(pipeline, token)
        rows.append(pipeline.logits.copy())
    return np.stack(rows)


def answer_all(pipeline: Pipeline, samples: list[heldout.Sample], name: str) -> tuple[list[str], list[list[int]]]:
    """Greedy answers, and which visual tokens were kept."""
    answers = [
        pipeline.generate([sample.image], sample.question, max_new_tokens=32)
        for sample in track(samples, f"answers of {name}", console=console)
    ]
    return [answer.text.strip() for answer in answers], [answer.kept_visual_tokens for answer in answers]


def logit_differences(pairs: list[tuple[Steps, Steps]]) -> dict[str, float]:
    """Over all steps of all prompts: (half, reference) logits."""
    half, full = (np.concatenate(each).astype(np.float64) for each in zip(*pairs, strict=True))
    error = np.sqrt(((half - full) ** 2).mean(axis=1) / (full**2).mean(axis=1))
    return {
        "relative error of a step's logits, median": float(np.median(error)),
        "relative error of a step's logits, worst": float(error.max()),
        "steps whose greedy token agrees": share(half.argmax(axis=1).tolist(), full.argmax(axis=1).tolist()),
    }


def share(ours: list[Any], theirs: list[Any]) -> float:
    """Share of pairs that are equal."""
    return sum(bool(a == b) for a, b in zip(ours, theirs, strict=True)) / len(ours)


def markdown(report: dict[str, Any]) -> str:
    """The report as a page for docs/benchmarks."""
    setting, found = report["setting"], report["half precision"]
    names = list(found)
    return "\n".join(
        [
            "# Half precision on the demo",
            "",
            "Made by `python benchmarks/half_precision.py --markdown docs/benchmarks/half_precision.md`. Bundles of "
            f"the demo checkpoint at K={setting['layer']}, keep {setting['keep']:g}: for TensorRT in fp16 against one "
            "for ONNX Runtime in fp32, all on ONNX Runtime's CPU provider. Logits over "
            f"{setting['steps']} greedy steps of {setting['prompts']} prompts, past stop tokens, the fp32 bundle's "
            "tokens forced on all (relative error: root mean square over the vocabulary); answers on "
            f"{setting['questions']} held-out questions, whole.",
            "",
            ", ".join(f"{name} {setting[name]}" for name in ("onnxruntime", "torch", "transformers")),
            "",
            f"| | {' | '.join(names)} |",
            f"| --- |{' --- |' * len(names)}",
            *(f"| {row} | {' | '.join(shown(row, found[name][row]) for name in names)} |" for row in found[names[0]]),
            "",
            f"The fp32 bundle is right on {report['right answers of the reference']:.1%} of the questions.",
            "",
        ]
    )


def shown(row: str, value: float) -> str:
    return f"{value:.1e}" if "error" in row else f"{value:.2%}"


def _pipeline(path: Path, options: Options) -> Pipeline:
    with Progress(console) as progress:
        export_bundle(CHECKPOINT, path, options, progress)
    return Pipeline.load(path, threads=1)


def _advance(pipeline: Pipeline, token: int) -> None:
    """One decoding step with a token that is not the pipeline's own choice."""
    pipeline._slot.embed(np.asarray([token]))
    pipeline.decoder.step()


if __name__ == "__main__":
    main()
