"""What a sweep costs beside the dense forwards of its samples, on the demo checkpoint:

    python benchmarks/sweep_cost.py --json docs/benchmarks/sweep.json --markdown docs/benchmarks/sweep.md

For each sample in turn the stock model answers (image, tower, prompt, greedy answer, timed apart) and the sweep
measures every plan, so that a machine that slows down slows both. The bound is three times the dense time, and for
every plan the dense prefill's time times the plan's share of its FLOPs, counted for layers K to L-1 on the rows that
they see.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from machine import machine
from rich.progress import track

from demo.calibration_split import write_split
from fastv_calib.measurement.measure import load_measure
from fastv_calib.measurement.outcomes import Measured
from fastv_calib.plans import points
from fastv_calib.samples.data import Sample, read_data
from fastv_calib.samples.inputs import InputMaker
from fastv_export.calibration import CalibrationSettings
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.families import FAMILIES
from fastv_export.plan import decoder_dimensions
from fastv_export.verify.reference import load_model
from fastv_runtime.config.bundle import DecoderConfig
from fastv_runtime.config.cost import layer_flops
from fastv_runtime.config.lengths import kept_count
from fastv_runtime.preprocessing.images.loading import open_image

CHECKPOINT = Path(__file__).resolve().parent.parent / "demo" / "checkpoint"
SETTINGS = CalibrationSettings(
    layers=(1, 2, 3),
    keeps=(0.75, 0.5, 0.35, 0.25, 0.1),
    rankers=("fastv", "random"),
    answer_tokens=16,
    image_tokens=None,
)
WARM_UP = 3
TIMES = 3
"""What a sweep may cost, in dense forwards, reruns aside."""


@dataclass
class Seconds:
    """Of all samples."""

    image: float = 0.0
    """The stock model: opening and preparing the image, tower, embedding."""
    prefill: float = 0.0
    """The decoder on the prompt."""
    answer: float = 0.0
    """The head, and the decoder on the tokens of the greedy answer."""
    reruns: float = 0.0
    """The reruns' FLOPs at the rate of the prefill."""
    sweep: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        samples = read_data(write_split(Path(folder), args.samples + WARM_UP), None)
        report = {"machine": machine(), "threads": args.threads, "samples": args.samples, **measure(samples)}
    text = json.dumps(report, indent=2) + "\n"
    for path, content in ((args.json, text), (args.markdown, markdown(report))):
        if path is not None:
            path.write_text(content, encoding="utf-8")
    print(markdown(report))


def measure(samples: list[Sample]) -> dict[str, Any]:
    """Seconds, and the sweep's share of each bound."""
    family, checkpoint = FAMILIES["llava"], Checkpoint(CHECKPOINT)
    model = load_model(CHECKPOINT, family)
    maker = InputMaker(checkpoint, family, model)
    sweep = load_measure(CHECKPOINT, SETTINGS)
    dimensions = decoder_dimensions(family.config(checkpoint), family)
    seconds = Seconds()
    for number, sample in enumerate(track(samples)):
        if number == WARM_UP:
            seconds = Seconds()
        stages, tokens = answer(model.model.language_model, model.lm_head, maker, sample)
        start = perf_counter()
        measured = sweep(sample).measured
        seconds.sweep += perf_counter() - start
        seconds.image += stages[0]
        seconds.prefill += stages[1]
        seconds.answer += stages[2]
        seconds.reruns += stages[1] * reruns(dimensions, measured, tokens)
    dense = {
        "the decoder on the prompt": seconds.prefill,
        "and its greedy answer": seconds.prefill + seconds.answer,
        "and the tower, from the image's file on": seconds.prefill + seconds.answer + seconds.image,
    }
    bounds = {
        name: {
            "dense": time,
            "bound": TIMES * time + seconds.reruns,
            "share": seconds.sweep / (TIMES * time + seconds.reruns),
        }
        for name, time in dense.items()
    }
    return {"plans": len(points(SETTINGS)), "seconds": asdict(seconds), "bounds": bounds}


@torch.no_grad()
def answer(decoder: Any, head: Any, maker: InputMaker, sample: Sample) -> tuple[tuple[float, float, float], int]:
    """Seconds of image, prefill and answer, and how many tokens were said."""
    times = [perf_counter()]
    inputs = maker([open_image(image) for image in sample.images], sample.prompt)
    times.append(perf_counter())
    output = decoder(inputs_embeds=inputs.embedded, use_cache=True)
    times.append(perf_counter())
    said = 0
    while True:
        token = head(output.last_hidden_state[:, -1:]).argmax(-1)
        said += 1
        if int(token) in maker.stop or said == SETTINGS.answer_tokens:
            break
        output = decoder(
            inputs_embeds=decoder.embed_tokens(token), past_key_values=output.past_key_values, use_cache=True
        )
    times.append(perf_counter())
    return (times[1] - times[0], times[2] - times[1], times[3] - times[2]), said


def reruns(decoder: DecoderConfig, sample: Measured, answer: int) -> float:
    """FLOPs of all plans' own layers, as a share of the dense prefill's."""
    dense = decoder.num_hidden_layers * layer_flops(decoder, sample.text + sample.visual).gated
    total = 0
    for point in points(SETTINGS):
        (cut,) = point.cuts
        rows = sample.text + kept_count(sample.visual, cut.keep) + answer - 1
        total += (decoder.num_hidden_layers - cut.layer) * layer_flops(decoder, rows).gated
    return total / dense


def markdown(report: dict[str, Any]) -> str:
    seconds, host = report["seconds"], report["machine"]
    lines = [
        "# What a sweep costs",
        "",
        f"Made by `benchmarks/sweep_cost.py`: {report['samples']} samples x {report['plans']} plans on the demo "
        f"checkpoint, {report['threads']} thread(s). Sample by sample the stock model answers and the sweep measures, "
        "image and tower included, so that both see the same machine: read the ratios, not the seconds.",
        "",
        f"{host['cpu']}, {host['cores']} cores, torch {host['torch']}, transformers {host['transformers']}, fp32, "
        "eager attention",
        "",
        f"The sweep took {seconds['sweep']:.1f} s. The bound is {TIMES} times the dense time and the reruns' own FLOPs "
        f"at the rate of the prefill ({seconds['reruns']:.1f} s: layers K to L-1 of every plan on the tokens that stay "
        "and the answer's).",
        "",
        "| dense time counts | seconds | bound | sweep, share of bound |",
        "| --- | --- | --- | --- |",
        *(
            f"| {name} | {each['dense']:.1f} | {each['bound']:.1f} | {each['share']:.0%} |"
            for name, each in report["bounds"].items()
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
