"""Prefill and decode of one decoder in one run: pruned at one cut and at two, unsplit, in transformers, in few bits.

    python benchmarks/decoder.py --json docs/benchmarks/decoder.json --markdown docs/benchmarks/decoder.md

A random decoder of Qwen2-0.5B dimensions, 640 tokens of which 576 visual; fp32. `split`: K=2, keep 0.5, also in int8
and int4 as `fastv-export --precision` makes them. `two cuts`: 0.33 from layer 5 on and 0.2 from layer 11 on, the depths
at which published plans cut 32 layers. `split int8, one range` is the int8 bundle with the kernels that it had
before (`one_range.py`). Each bundle passes its self-test before it is timed.

The runners take turns, prompt by prompt and token by token, so that a drift of the machine hits all alike. Whoever
is behind another finds its caches cold, and behind some more than behind others. So the order of every prompt and of
every token is drawn anew, by a fixed seed, in blocks of 14 in which each of the seven runners has every place and
stands behind every other equally often (`turns.py`): give --rounds a multiple of 14. Ratios are taken within a round,
then their median; what the machine did meanwhile shows in the spread. Takes about twenty minutes on two cores that have
nothing else to do, beside the exports.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
from configurations import configuration
from machine import machine
from one_range import write_one_range
from PIL import Image
from random_checkpoint import write_random_checkpoint
from rich.console import Console
from rich.progress import track
from scoring_cost import scoring_ms, selecting_ms

from fastv_export.exporting import export_bundle
from fastv_export.plan import CutOption, Options
from fastv_export.progress import Progress
from fastv_export.quantization.presets import FEW_BITS
from fastv_runtime import Pipeline
from fastv_runtime.bench.runners.gate import pass_self_test
from fastv_runtime.bench.turns import orders, turns
from fastv_runtime.config.bundle import read_manifest
from fastv_runtime.config.cost import decoder_flops, tokens_per_layer
from fastv_runtime.config.lengths import kept_count
from fastv_runtime.config.plan import Weights
from fastv_runtime.generation.clock import in_stages

TEXT, VISUAL, LAYER, KEEP = 64, 576, 2, 0.5
DECODED = 24
CUTS = (CutOption(5, 0.33), CutOption(11, 0.2))
SPLIT, TWO, UNSPLIT, TRANSFORMERS = "split", "two cuts", "unsplit", "transformers sdpa"
INT8, ONE_RANGE, INT4 = "split int8", "split int8, one range", "split int4"
ONE_CUT = (CutOption(LAYER, KEEP),)
EXPORTS: dict[str, tuple[tuple[CutOption, ...], Weights | None]] = {
    SPLIT: (ONE_CUT, None),
    TWO: (CUTS, None),
    UNSPLIT: ((), None),
    INT8: (ONE_CUT, FEW_BITS["int8"]),
    INT4: (ONE_CUT, FEW_BITS["int4"]),
}
"""Cuts and weights of the bundles that are exported."""
BUNDLES = (SPLIT, TWO, UNSPLIT, INT8, ONE_RANGE, INT4)
PLANS = tuple((name, EXPORTS[name][0]) for name in (SPLIT, TWO, UNSPLIT))
"""Those whose FLOPs are counted, with their cuts."""
console = Console(stderr=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=28, help="a multiple of 14 (default: 28)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="keep checkpoint and bundles here (10 GB) for the next run")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.cache or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        report = measure(folder / "checkpoint", prepare(folder), args.rounds, args.threads)
    text = json.dumps(report, indent=2)
    for path in (args.json, args.markdown):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")
    if args.markdown:
        args.markdown.write_text(markdown(report), encoding="utf-8")
    print(text)


def prepare(folder: Path) -> dict[str, Path]:
    """Checkpoint and bundles, made unless they are there; the bundles by runner."""
    checkpoint = folder / "checkpoint"
    if not checkpoint.exists():
        with console.status("random checkpoint of Qwen2-0.5B dimensions"):
            write_random_checkpoint(configuration("thin-llava-qwen2-0.5b"), checkpoint, dtype="fp32")
    bundles = {name: folder / f"{name.replace(', ', '-').replace(' ', '-')}.fastv" for name in BUNDLES}
    for name, (cuts, weights) in EXPORTS.items():
        if not bundles[name].exists():
            # Unverified: the self-test runs the same golden vectors, with activations rounded too.
            options = Options(
                prune=bool(cuts), cuts=cuts, max_text=TEXT, max_new_tokens=DECODED + 8, weights=weights, verify=False
            )
            with Progress(console) as progress:
                export_bundle(checkpoint, bundles[name], options, progress)
    if not bundles[ONE_RANGE].exists():
        write_one_range(bundles[INT8], bundles[ONE_RANGE])
    return bundles


Run = Iterator[float]
"""One prompt: yields the milliseconds of its prefill, then those of every decoded token."""


def measure(checkpoint: Path, bundles: Mapping[str, Path], rounds: int, threads: int) -> dict[str, Any]:
    """All runners, interleaved: prompt by prompt, then token by token."""
    names = [*bundles, TRANSFORMERS]
    prefill: dict[str, list[float]] = {name: [] for name in names}
    decode: dict[str, list[float]] = {name: [] for name in names}
    self_tests: dict[str, Any] = {}
    of_prompts, of_tokens = turns(names, seed=0), turns(names, seed=1)
    loads = len(orders(len(names)))
    for loaded in track(islice(turns(names, seed=2), loads), "loads", total=loads, console=console):
        runners = {name: load(name, checkpoint, bundles, threads, self_tests) for name in loaded}
        one_round(runners, loaded, of_tokens)  # a warm-up
        for order in islice(of_prompts, rounds // loads):
            for name, (first, token) in one_round(runners, order, of_tokens).items():
                prefill[name].append(first)
                decode[name].append(token)
        del runners
        gc.collect()
    scoring = scoring_ms(bundles[SPLIT], TEXT + VISUAL, threads)
    selecting = selecting_ms(bundles[SPLIT], TEXT, VISUAL, threads)
    decoder = read_manifest(bundles[SPLIT]).decoder
    rows = {
        name: [TEXT + kept_count(VISUAL, keep) for keep in (1.0, *(cut.keep for cut in cuts))] for name, cuts in PLANS
    }
    flops = {
        name: decoder_flops(decoder, tokens_per_layer(decoder, [cut.layer for cut in cuts], rows[name]))
        for name, cuts in PLANS
    }
    bounds = {name: flops[UNSPLIT].gated / flops[name].gated for name in (SPLIT, TWO)}
    return {
        "setting": {
            "decoder": decoder.model_dump(),
            "tokens": TEXT + VISUAL,
            "visual_tokens": VISUAL,
            "cuts": {name: [{"layer": cut.layer, "keep": cut.keep} for cut in cuts] for name, cuts in PLANS},
            "pruned_lengths": {name: each[1:] for name, each in rows.items()},
            "threads": threads,
            "rounds": rounds,
            "decoded_tokens": DECODED,
        },
        "machine": machine(),
        "prefill_ms": {name: spread(values) for name, values in prefill.items()},
        "decode_ms_per_token": {name: spread(values) for name, values in decode.items()},
        "ratios": {
            "prefill: unsplit / split": ratio(prefill, UNSPLIT, SPLIT),
            "prefill: FLOPs bound of the same, gated MLP": bounds[SPLIT],
            "prefill: FLOPs bound of the same, paper's formula": flops[UNSPLIT].paper / flops[SPLIT].paper,
            "prefill: unsplit / split, by its gated bound": ratio(prefill, UNSPLIT, SPLIT, bounds[SPLIT]),
            "prefill: unsplit / two cuts": ratio(prefill, UNSPLIT, TWO),
            "prefill: FLOPs bound of that, gated MLP": bounds[TWO],
            "prefill: unsplit / two cuts, by its gated bound": ratio(prefill, UNSPLIT, TWO, bounds[TWO]),
            "prefill: transformers / unsplit": ratio(prefill, TRANSFORMERS, UNSPLIT),
            "prefill: split / split int8": ratio(prefill, SPLIT, INT8),
            "prefill: split int8 / split int8, one range": ratio(prefill, INT8, ONE_RANGE),
            "prefill: split / split int4": ratio(prefill, SPLIT, INT4),
            "decode: split / unsplit": ratio(decode, SPLIT, UNSPLIT),
            "decode: two cuts / unsplit": ratio(decode, TWO, UNSPLIT),
            "decode: transformers / unsplit": ratio(decode, TRANSFORMERS, UNSPLIT),
            "decode: split / split int8": ratio(decode, SPLIT, INT8),
            "decode: split int8 / split int8, one range": ratio(decode, INT8, ONE_RANGE),
            "decode: split / split int4": ratio(decode, SPLIT, INT4),
        },
        "self_tests": self_tests,
        "scoring_and_selecting": {
            "scoring_ms": scoring,
            "selecting_ms": selecting,
            "share_of_split_prefill": (scoring + selecting) / median(prefill[SPLIT]),
        },
        "prefill_gflops": {name: each.gated / 1e9 for name, each in flops.items()},
    }


def load(
    name: str, checkpoint: Path, bundles: Mapping[str, Path], threads: int, self_tests: dict[str, Any]
) -> Callable[[], Run]:
    """A runner, in memory of its own; the result of its self-test is kept where there is none yet."""
    if name not in bundles:
        return transformers_run(checkpoint, threads)
    pipeline = Pipeline.load(bundles[name], threads=threads)
    if name not in self_tests:
        self_tests[name] = pass_self_test(pipeline.bundle, pipeline.backend)
    return pipeline_run(pipeline)


def one_round(
    runners: Mapping[str, Callable[[], Run]], order: list[str], of_tokens: Iterator[list[str]]
) -> dict[str, tuple[float, float]]:
    """Milliseconds of every runner's prefill, and the median of its tokens'."""
    runs = {name: runners[name]() for name in order}
    first = {name: next(runs[name]) for name in order}
    tokens: dict[str, list[float]] = {name: [] for name in order}
    for turn in islice(of_tokens, DECODED):
        for name in turn:
            tokens[name].append(next(runs[name]))
    return {name: (first[name], median(tokens[name])) for name in order}


def pipeline_run(pipeline: Pipeline) -> Callable[[], Run]:
    """All graphs of the prefill, then decoding, through the runtime as users run it."""
    noise = np.random.default_rng(0).integers(0, 256, (336, 336, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    prompt = " ".join(f"w{index}" for index in range(1, TEXT + 1))

    def run() -> Run:
        generation = pipeline.stream([image], prompt, max_new_tokens=DECODED + 2, ignore_stop=True)
        assert generation.answer.prompt_tokens == TEXT + VISUAL
        stages = in_stages(generation.timings_ms())
        yield sum(stages[stage] for stage in ("prefix", "select", "suffix"))
        next(generation)  # the prompt's own token: no step is run for it
        for _ in range(DECODED):
            start = time.perf_counter()
            next(generation)
            yield 1000 * (time.perf_counter() - start)

    return run


def transformers_run(checkpoint: Path, threads: int) -> Callable[[], Run]:
    """The same decoder in transformers with sdpa attention: prefill of embeddings, then greedy decoding."""
    import torch
    from transformers import LlavaForConditionalGeneration

    torch.set_num_threads(threads)
    model: Any = LlavaForConditionalGeneration.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
    ).eval()
    decoder, head = model.get_decoder(), model.lm_head
    ids = torch.randint(1000, (1, TEXT + VISUAL), generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def forward(past: Any, **inputs: Any) -> tuple[Any, Any, float]:
        start = time.perf_counter()
        output = decoder(**inputs, past_key_values=past, use_cache=True)
        token = head(output.last_hidden_state[:, -1:]).argmax(-1)
        return token, output.past_key_values, 1000 * (time.perf_counter() - start)

    def run() -> Run:
        token, past, elapsed = forward(None, inputs_embeds=decoder.embed_tokens(ids).detach())
        yield elapsed
        for _ in range(DECODED):
            token, past, elapsed = forward(past, input_ids=token)
            yield elapsed

    return run


def ratio(times: Mapping[str, list[float]], above: str, below: str, bound: float = 1.0) -> dict[str, float]:
    """The spread of one runner's times over another's, round by round; over what `bound` says that it can be."""
    return spread([a / b / bound for a, b in zip(times[above], times[below], strict=True)])


def spread(values: list[float]) -> dict[str, float]:
    """Median, 5th and 95th percentile."""
    cuts = quantiles(values, n=20, method="inclusive")
    return {"median": median(values), "p5": cuts[0], "p95": cuts[-1]}


def markdown(report: dict[str, Any]) -> str:
    """The report as a page for docs/benchmarks."""
    setting, machine_ = report["setting"], report["machine"]
    lines = [
        "# Split against unsplit decoder",
        "",
        "Made by `make bench` (`benchmarks/decoder.py`). Random weights at Qwen2-0.5B dimensions, fp32 but for what "
        "names its bits; "
        f"{setting['tokens']} tokens of which {setting['visual_tokens']} visual. "
        f"{'. '.join(_cuts(setting, name) for name in (SPLIT, TWO))}. {setting['rounds']} rounds, "
        f"{setting['threads']} threads, {setting['decoded_tokens']} decoded tokens a round. "
        "Runners take turns by prompt and by token, in shuffled orders: over each "
        f"{len(orders(len(report['prefill_ms'])))} of them every runner follows every other equally often, and "
        "all are loaded anew as often, in such orders too. "
        "Median (5th to 95th percentile); ratios are taken within a round.",
        "",
        ", ".join(f"{name} {value}" for name, value in machine_.items()),
        "",
        "| | prefill ms | decode ms per token |",
        "| --- | --- | --- |",
        *(
            f"| {name} | {shown(report['prefill_ms'][name], 0)} | {shown(report['decode_ms_per_token'][name], 1)} |"
            for name in report["prefill_ms"]
        ),
        "",
        "| ratio | |",
        "| --- | --- |",
        *(
            f"| {name} | {value:.3f} |" if isinstance(value, float) else f"| {name} | {shown(value, 3)} |"
            for name, value in report["ratios"].items()
        ),
        "",
        f"Scoring takes {report['scoring_and_selecting']['scoring_ms']:.2f} ms and selecting "
        f"{report['scoring_and_selecting']['selecting_ms']:.2f} ms: "
        f"{report['scoring_and_selecting']['share_of_split_prefill']:.2%} of the split prefill.",
        "",
    ]
    return "\n".join(lines)


def _cuts(setting: dict[str, Any], name: str) -> str:
    cuts = zip(setting["cuts"][name], setting["pruned_lengths"][name], strict=True)
    return f"`{name}`: " + ", ".join(
        f"keep {cut['keep']:g} from layer {cut['layer']} on ({rows} tokens)" for cut, rows in cuts
    )


def shown(values: dict[str, float], digits: int) -> str:
    return f"{values['median']:.{digits}f} ({values['p5']:.{digits}f} to {values['p95']:.{digits}f})"


if __name__ == "__main__":
    main()
