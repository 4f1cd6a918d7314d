"""Static int8 for TensorRT on a pretrained language model: what calibrated ranges for all rows of a product cost.

    python benchmarks/real_static.py --json docs/benchmarks/static_int8.json --markdown docs/benchmarks/static_int8.md

Decoders of SmolLM2-135M-Instruct (`real_llava.py`, off the grid) as `--target trt` writes them, unpruned, in fp16,
calibrated by `passages.txt`. ONNX Runtime executes them on the CPU, every operator as it stands: no GPU is at hand. One
prefill has the whole of `held_out.txt`; the graph gives one row of logits, so the operators that take the last row are
taken out of it first.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from jaxtyping import Int
from machine import machine
from real_answers import prompts
from real_llava import PACKAGE, write_real_llava
from real_text import LogProbabilities, distance, log_softmax, text_ids
from rich.console import Console
from tokenizers import Tokenizer
from transformers import LlavaForConditionalGeneration

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.skeleton import Skeleton
from fastv_export.families import family_of
from fastv_export.graphs.build import build_graph
from fastv_export.graphs.save import save_graph
from fastv_export.passes import quantize_activations, quantize_weights, scale_inputs
from fastv_export.passes.common.heads import number
from fastv_export.plan import Options, decoder_dimensions, make_plan
from fastv_export.quantization.activations import Activation, activations_of
from fastv_export.quantization.observer import Observer, Statistics, means
from fastv_export.quantization.rules import activation_of, quantization_of
from fastv_export.quantization.scaling import Method, activation_aware, smoothing
from fastv_export.quantization.static_ranges import LIMIT, supports_one_range
from fastv_export.support import check_config
from fastv_export.targets import TARGETS
from fastv_export.tracing import attention
from fastv_runtime.config.io_spec import io_specs
from fastv_runtime.config.plan import Weights

SETTING = Weights(bits=8, block=None)
"""Unless a variant is without weights of few bits."""
console = Console(stderr=True)


@dataclass(frozen=True)
class Variant:
    """How weights are scaled, and which products get ranges; None scales nothing, or gives none a range."""

    method: Method | None = None
    supports: Callable[..., bool] | None = None
    weights: Weights | None = SETTING


def _always(name: str, activation: Activation, scale: Any) -> bool:
    return True


def _unscaled(group: Any, activation: Activation, tie: Any) -> None:
    return None


VARIANTS = {
    "fp16": Variant(weights=None),
    "int8 weights": Variant(),
    "int8 weights, AWQ": Variant(activation_aware),
    "static, every product, unscaled": Variant(_unscaled, _always),
    "static, every product, SmoothQuant": Variant(smoothing, _always),
    "static up to 1/2, SmoothQuant": Variant(smoothing, partial(supports_one_range, limit=1 / 2)),
    "static up to 1/8, SmoothQuant": Variant(smoothing, partial(supports_one_range, limit=1 / 8)),
    f"as exported: static up to 1/{1 / LIMIT:.0f}, SmoothQuant": Variant(smoothing, supports_one_range),
}
"""Up to what error of an ordinary row (`static_ranges.step_error`) one range is taken. The last is what
`fastv-export --target trt --precision int8 --calibration` writes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    attention.register()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_real_llava(Path(folder) / "checkpoint", off_grid=True)
        ids = text_ids(checkpoint)
        exact, activations = observed(checkpoint, ids)
        for name in args.variants:
            graph, ranges, asked = write_decoder(checkpoint, Path(folder), VARIANTS[name], activations, len(ids))
            found = prefill(checkpoint, graph, ids)
            row = {"variant": name, "ranges": ranges, "products": asked, **distance(found, exact, ids)}
            rows.append(row)
            console.print(row)
    perplexity = distance(exact, exact, ids)["perplexity"]
    report = {"machine": machine(), "package": PACKAGE, "tokens": len(ids), "fp32": perplexity, "variants": rows}
    text = json.dumps(report, indent=2) + "\n"
    for path, content in ((args.json, text), (args.markdown, markdown(report))):
        if path:
            path.write_text(content, encoding="utf-8")
    print(text, end="")


@torch.no_grad()
def observed(checkpoint: Path, ids: Int[np.ndarray, " S"]) -> tuple[LogProbabilities, dict[str, Activation]]:
    """The text's log-probabilities by transformers in fp32, and what products are given by prompts of `passages.txt`.

    Every third prompt, and every passage as it stands: a text that begins otherwise has other large tokens.
    """
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    template = (checkpoint / "chat_template.jinja").read_text(encoding="utf-8")
    head, language = model.lm_head, model.model.language_model
    statistics: Statistics = {}
    with Observer(language, head).observed(statistics):
        for text in calibration_texts(template):
            model(input_ids=torch.tensor([tokenizer.encode(text, add_special_tokens=False).ids]))
    found = activations_of({name: torch.from_numpy(array).float() for name, array in means(statistics).items()})
    logits = model(input_ids=torch.from_numpy(ids)[None]).logits[0, :-1]
    return torch.log_softmax(logits, -1).numpy(), found


def calibration_texts(template: str) -> list[str]:
    """Every third prompt of `passages.txt` as the model's template writes it, then the passages as they stand."""
    turn = jinja2.Template(template)
    asked = [
        turn.render(
            messages=[{"role": "user", "content": [{"type": "text", "text": text}]}], add_generation_prompt=True
        )
        for text in prompts("passages.txt")[::3]
    ]
    return asked + (Path(__file__).with_name("passages.txt").read_text(encoding="utf-8").splitlines())


def write_decoder(
    source: Path, folder: Path, variant: Variant, activations: dict[str, Activation], tokens: int
) -> tuple[Path, int, int]:
    """The graph that an export without pruning writes; how many inputs of products have a range, and how many could."""
    checkpoint = Checkpoint(source)
    family = family_of(checkpoint.model_type(), str(source))
    config = check_config(checkpoint, family)
    dimensions, vision = decoder_dimensions(config, family), family.vision(config, None)
    options = Options(prune=False, target="trt", max_text=tokens, weights=variant.weights)
    plan = make_plan(options, dimensions, vision, None)
    dialect = TARGETS[options.target]
    skeleton = Skeleton(checkpoint, family, attention=attention.IMPLEMENTATION, precision=plan.precision)
    io_spec = io_specs(dimensions, vision, None, plan, plan.precision)["decoder"]
    model = build_graph("decoder", io_spec, skeleton, family, vision, plan)
    rounding = quantization_of(
        "decoder", plan, dialect.name, layers=dimensions.num_hidden_layers, width=dimensions.hidden_size
    )
    ranges, products = 0, 0
    if variant.method is not None:
        known = activation_of("decoder", plan, activations)
        scaled = scale_inputs(model, rounding, known, variant.method, *([variant.supports] if variant.supports else []))
        rounding, products = scaled.quantization_of, len(scaled.ranges) + len(scaled.wide)
        quantize_weights(model, rounding)
        ranges = quantize_activations(model, scaled.ranges) if variant.supports else 0
    else:
        quantize_weights(model, rounding)
    dialect.lower(model)
    every_row(model)
    path = folder / "decoder.onnx"
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)
    save_graph(model, path)
    return path, ranges, products


def prefill(checkpoint: Path, path: Path, ids: Int[np.ndarray, " S"]) -> LogProbabilities:
    """Log-probabilities of all tokens but the first, each after all before it, in one run of the graph."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Quantized and dequantized, as the graph has it: ONNX Runtime would make other kernels of the two.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    table = next(
        tensor for name, tensor in Checkpoint(checkpoint).tensors.items() if name.endswith("embed_tokens.weight")
    ).read()
    given = {
        "hidden": np.asarray(table)[ids][None].astype(np.float16),
        "position_ids": np.arange(len(ids))[None],
        "write_index": np.zeros(1, np.int64),
    }
    for value in session.get_inputs():
        if value.name.startswith("past_"):
            given[value.name] = np.zeros(value.shape, np.float16)
    (logits,) = session.run(["logits"], given)
    del session
    return np.stack([log_softmax(row) for row in logits[0, :-1]])


def every_row(model: ir.Model) -> None:
    """In place: a graph that goes on with the last row alone goes on with all, down to the logits."""
    taken = 0
    for node in list(model.graph):
        if node.op_type == "Slice" and [number(node.inputs[at]) for at in (1, 3)] == [-1, 1]:
            rows = node.inputs[0]
            assert rows is not None
            node.outputs[0].replace_all_uses_with(rows)
            model.graph.remove(node, safe=True)
            taken += 1
    if not taken:
        raise SystemExit("the graph takes no last row: what this benchmark takes out of it has another form now")
    for node in model.graph:
        for output in node.outputs:
            if not output.is_graph_output() or output.name in ("logits", "token"):
                output.shape = None


def markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    lines = [
        "# Static int8 for TensorRT on a pretrained language model",
        "",
        f"Made by `benchmarks/real_static.py`: SmolLM2-135M-Instruct (package {report['package']}), weights off the "
        "package's grid, as the decoder that `--target trt` writes, unpruned, fp16; executed by ONNX Runtime on the "
        "CPU operator by operator, since no GPU is at hand. Calibrated by `passages.txt`; "
        f"{report['tokens']:,} tokens of `held_out.txt` in one prefill, against transformers in fp32, whose perplexity "
        f"is {report['fp32']:.3f}.",
        "",
        ", ".join(f"{name} {value}" for name, value in report["machine"].items()),
        "",
        "| graph | inputs of products in eight bits | perplexity | to fp32 | likeliest token | KL |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in report["variants"]:
        ranges = f"{row['ranges']} of {row['products']}" if row["products"] else "none"
        lines.append(
            f"| {row['variant']} | {ranges} | {row['perplexity']:.3f} | {row['ratio']:.4f} | {row['top']:.1%} "
            f"| {row['kl']:.4f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
