"""Prefill and decode of one decoder: pruned in two graphs, unsplit in one, and in transformers, in one run.

    python benchmarks/decoder.py --json docs/benchmarks/decoder.json --markdown docs/benchmarks/decoder.md

A random decoder of Qwen2-0.5B dimensions, 640 tokens of which 576 visual, K=2, keep 0.5, fp32. The contestants take
turns, prompt by prompt and token by token, so that a drift of the machine hits all alike; ratios are taken within a
round, then their median. What the machine did meanwhile shows in the spread.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import onnx
import onnxruntime
from configurations import configuration
from machine import machine
from PIL import Image
from random_checkpoint import write_random_checkpoint
from rich.console import Console
from rich.progress import track

from fastv_export.export import export_bundle
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_runtime import Pipeline
from fastv_runtime.bundle import read_manifest
from fastv_runtime.cost import decoder_flops, tokens_per_layer

TEXT, VISUAL, LAYER, KEEP = 64, 576, 2, 0.5
DECODED = 24
SPLIT, UNSPLIT, TRANSFORMERS = "split", "unsplit", "transformers sdpa"
console = Console(stderr=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="keep checkpoint and bundles here (6.4 GB) for the next run")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.cache or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        split, unsplit = prepare(folder)
        report = measure(folder / "checkpoint", split, unsplit, args.rounds, args.threads)
    text = json.dumps(report, indent=2)
    for path in (args.json, args.markdown):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")
    if args.markdown:
        args.markdown.write_text(markdown(report), encoding="utf-8")
    print(text)


def prepare(folder: Path) -> tuple[Path, Path]:
    """Checkpoint and both bundles, made unless they are there."""
    checkpoint, split, unsplit = (folder / name for name in ("checkpoint", "split.fastv", "unsplit.fastv"))
    if not checkpoint.exists():
        with console.status("random checkpoint of Qwen2-0.5B dimensions"):
            write_random_checkpoint(configuration("thin-llava-qwen2-0.5b"), checkpoint, dtype="fp32")
    for path, layer in ((split, LAYER), (unsplit, None)):
        if not path.exists():
            options = Options(layer=layer, keep=KEEP, max_text=TEXT, max_new_tokens=DECODED + 8)
            with Progress(console) as progress:
                export_bundle(checkpoint, path, options, progress)
    return split, unsplit


Run = Iterator[float]
"""One prompt: yields the milliseconds of its prefill, then those of every decoded token."""


def measure(checkpoint: Path, split: Path, unsplit: Path, rounds: int, threads: int) -> dict[str, Any]:
    """All contestants, interleaved: prompt by prompt, then token by token."""
    contestants: dict[str, Callable[[], Run]] = {
        SPLIT: pipeline_run(split, threads),
        UNSPLIT: pipeline_run(unsplit, threads),
        TRANSFORMERS: transformers_run(checkpoint, threads),
    }
    names = list(contestants)
    prefill: dict[str, list[float]] = {name: [] for name in contestants}
    decode: dict[str, list[float]] = {name: [] for name in contestants}
    for index in track(range(rounds + 1), "rounds, the first a warm-up", console=console):
        turn = names[index % 3 :] + names[: index % 3]
        runs = {name: contestants[name]() for name in turn}
        first = {name: next(runs[name]) for name in turn}
        tokens: dict[str, list[float]] = {name: [] for name in turn}
        for _ in range(DECODED):
            for name in turn:
                tokens[name].append(next(runs[name]))
        if index > 0:
            for name in turn:
                prefill[name].append(first[name])
                decode[name].append(median(tokens[name]))
    scoring, selecting = scoring_ms(split, threads), selecting_ms(split, threads)
    decoder = read_manifest(split).decoder
    length, pruned = TEXT + VISUAL, TEXT + round(VISUAL * KEEP)
    layers = {
        SPLIT: tokens_per_layer(decoder, LAYER, length, pruned),
        UNSPLIT: tokens_per_layer(decoder, None, length, 0),
    }
    flops = {name: decoder_flops(decoder, each) for name, each in layers.items()}
    return {
        "setting": {
            "decoder": decoder.model_dump(),
            "tokens": length,
            "visual_tokens": VISUAL,
            "pruned_length": pruned,
            "layer": LAYER,
            "keep": KEEP,
            "threads": threads,
            "rounds": rounds,
            "decoded_tokens": DECODED,
        },
        "machine": machine(),
        "prefill_ms": {name: spread(values) for name, values in prefill.items()},
        "decode_ms_per_token": {name: spread(values) for name, values in decode.items()},
        "ratios": {
            "prefill: unsplit / split": spread(ratios(prefill[UNSPLIT], prefill[SPLIT])),
            "prefill: FLOPs bound of the same, gated MLP": flops[UNSPLIT].gated / flops[SPLIT].gated,
            "prefill: FLOPs bound of the same, paper's formula": flops[UNSPLIT].paper / flops[SPLIT].paper,
            "prefill: transformers / unsplit": spread(ratios(prefill[TRANSFORMERS], prefill[UNSPLIT])),
            "decode: split / unsplit": spread(ratios(decode[SPLIT], decode[UNSPLIT])),
            "decode: transformers / unsplit": spread(ratios(decode[TRANSFORMERS], decode[UNSPLIT])),
        },
        "scoring_and_selecting": {
            "scoring_ms": scoring,
            "selecting_ms": selecting,
            "share_of_split_prefill": (scoring + selecting) / median(prefill[SPLIT]),
        },
        "prefill_gflops": {name: each.gated / 1e9 for name, each in flops.items()},
    }


def pipeline_run(bundle: Path, threads: int) -> Callable[[], Run]:
    """Prefix + select + suffix, then decoding, through the runtime as users run it."""
    pipeline = Pipeline.load(bundle, threads=threads)
    noise = np.random.default_rng(0).integers(0, 256, (336, 336, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    prompt = " ".join(f"w{index}" for index in range(1, TEXT + 1))

    def run() -> Run:
        generation = pipeline.stream([picture], prompt, max_new_tokens=DECODED + 2, ignore_stop=True)
        assert generation.answer.prompt_tokens == TEXT + VISUAL
        yield sum(generation.timings_ms()[stage] for stage in ("prefix", "select", "suffix"))
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


def scoring_ms(bundle: Path, threads: int) -> float:
    """Median time of the nodes that only the scores need, cut out of the prefix and run alone."""
    path = bundle / "onnx" / "prefix.onnx"
    model = onnx.load(path, load_external_data=False)
    others = [output.name for output in model.graph.output if output.name != "scores"]
    shared = ancestors(model.graph, others)
    own = ancestors(model.graph, ["scores"]) - shared
    nodes = [node for index, node in enumerate(model.graph.node) if index in own]
    made = {name for node in nodes for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    boundary = {name for node in nodes for name in node.input if name and name not in made}
    held = [name for name in boundary if name in constants]
    constant_nodes = [makers[name] for name in boundary if name in makers and makers[name].op_type == "Constant"]
    dimensions = read_manifest(bundle).decoder
    heads = {dimensions.num_attention_heads, dimensions.num_key_value_heads}
    fed = [name for name in boundary if name in makers and makers[name].op_type != "Constant"]
    inputs = [_rows(makers[name], name, dimensions.head_dim) for name in fed]
    output = next(value for value in model.graph.output if value.name == "scores")
    graph = onnx.helper.make_graph(
        [*constant_nodes, *nodes], "scoring", inputs, [output], [constants[name] for name in held]
    )
    cut = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(cut.SerializeToString(), options)
    generator = np.random.default_rng(0)
    feeds = {
        each.name: generator.standard_normal(
            [size if isinstance(size, int) else TEXT + VISUAL for size in each.shape], dtype=np.float32
        )
        for each in session.get_inputs()
    }
    widths = {each * dimensions.head_dim for each in heads}
    assert {array.shape[-1] for array in feeds.values()} == widths, "the cut is not at query and key"
    return timed(lambda: session.run(None, feeds))


def _rows(maker: onnx.NodeProto, name: str, width: int) -> onnx.ValueInfoProto:
    """What a RotaryEmbedding makes: rows of all its heads."""
    heads = next(attribute.i for attribute in maker.attribute if attribute.name == "num_heads")
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, "S", heads * width])


def selecting_ms(bundle: Path, threads: int) -> float:
    """Median time of the select graph alone."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(bundle / "onnx" / "select.onnx", options)
    generator = np.random.default_rng(0)
    tokens = TEXT + VISUAL
    prunable = np.zeros((1, tokens), bool)
    prunable[0, :VISUAL] = True
    feeds = {
        "hidden": generator.standard_normal((1, tokens, read_manifest(bundle).decoder.hidden_size), dtype=np.float32),
        "scores": generator.random((1, tokens), dtype=np.float32),
        "position_ids": np.arange(tokens)[None],
        "prunable": prunable,
        "length": np.asarray([TEXT + round(VISUAL * KEEP)]),
    }
    return timed(lambda: session.run(None, feeds))


def ancestors(graph: onnx.GraphProto, outputs: list[str]) -> set[int]:
    """Indices of the nodes that the outputs need."""
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    found: set[int] = set()
    stack = list(outputs)
    while stack:
        index = makers.get(stack.pop())
        if index is not None and index not in found:
            found.add(index)
            stack.extend(graph.node[index].input)
    return found


def timed(run: Callable[[], Any], repeats: int = 30) -> float:
    """Median milliseconds of a call, after a warm-up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    return median(times)


def ratios(above: list[float], below: list[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


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
        "Made by `make bench` (`benchmarks/decoder.py`). Random weights at Qwen2-0.5B dimensions, fp32; "
        f"{setting['tokens']} tokens of which {setting['visual_tokens']} visual, K={setting['layer']}, "
        f"keep {setting['keep']:g}: the suffix runs {setting['pruned_length']}. {setting['rounds']} rounds, "
        f"contestants interleaved, {setting['threads']} threads, {setting['decoded_tokens']} decoded tokens a round. "
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


def shown(values: dict[str, float], digits: int) -> str:
    return f"{values['median']:.{digits}f} ({values['p5']:.{digits}f} to {values['p95']:.{digits}f})"


if __name__ == "__main__":
    main()
