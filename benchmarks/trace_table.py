"""Every named configuration traced at its full size, without weights: seconds, memory, nodes, visual tokens.

    python benchmarks/trace_table.py --json docs/benchmarks/trace.json --markdown docs/benchmarks/trace.md
    python benchmarks/trace_table.py llava-1.5-7b llava-1.5-13b

For each, a checkpoint of sparse files (see random_checkpoint.py) and a process of its own: the graphs of the default
plan in canonical form, each passed to the ONNX checker with strict shape inference. Seconds are CPU seconds of building
the model and tracing. A configuration whose family is not registered is listed as such; exit code 1 if another fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from math import prod
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from configurations import CONFIGURATIONS, configuration
from machine import machine
from random_checkpoint import write_random_checkpoint
from rich.console import Console

TRACED, UNREGISTERED, FAILED = "traced", "family not registered", "failed"
console = Console(stderr=True, highlight=False)
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all of " + ", ".join(CONFIGURATIONS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in CONFIGURATIONS]:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(CONFIGURATIONS)}")
    report: dict[str, Any] = {"machine": machine(), "configurations": []}
    rows = report["configurations"]
    for name in args.names or CONFIGURATIONS:
        with console.status(name):
            rows.append({"name": name, "model_type": CONFIGURATIONS[name]["model_type"], **in_own_process(name)})
        console.print(f"{name}: {rows[-1].get('error', rows[-1]['status'])}")
        # After each: what took half an hour must not be lost to the last.
        for path, content in ((args.json, json.dumps(report, indent=2) + "\n"), (args.markdown, markdown(report))):
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content, encoding="utf-8")
    print(json.dumps(report, indent=2))
    sys.exit(any(row["status"] == FAILED for row in rows))


def in_own_process(name: str) -> Row:
    """One configuration's row, its memory measured apart from everything else's."""
    from fastv_export.families import FAMILIES

    if CONFIGURATIONS[name]["model_type"] not in FAMILIES:
        return {"status": UNREGISTERED}
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / name
        try:
            allow_timm_alone(name)
            write_random_checkpoint(configuration(name), checkpoint, sparse=True)
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                return {"status": TRACED, **pool.submit(traced, checkpoint).result()}
        except Exception as error:  # one that fails must not take the others' rows with it
            return {"status": FAILED, "error": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def traced(path: Path) -> Row:
    """Trace and check all graphs of the default plan of a checkpoint, in this process."""
    from fastv_export.checkpoint.checkpoint import Checkpoint
    from fastv_export.checkpoint.skeleton import Skeleton
    from fastv_export.families import family_of
    from fastv_export.graphs.build import build_graph
    from fastv_export.plan import Options, check_positions, decoder_dimensions, make_plan
    from fastv_export.tracing import attention, tower_attention
    from fastv_runtime.config.io_spec import io_specs

    allow_timm_alone(path.name)
    start = time.process_time()
    attention.register()
    tower_attention.register()
    checkpoint, options = Checkpoint(path), Options(layer=2, keep=0.5)
    family = family_of(checkpoint.model_type(), str(path))
    config = family.config(checkpoint)
    dimensions = decoder_dimensions(config, family)
    vision, video = family.vision(config, options.image_tokens), family.video(config)
    plan = make_plan(options, dimensions, vision, video)
    check_positions(plan, family.max_positions(config))
    skeleton = Skeleton(checkpoint, family, attention=attention.IMPLEMENTATION)
    seconds = time.process_time() - start
    graphs: dict[str, Row] = {}
    for name, io_spec in io_specs(dimensions, vision, video, plan, "float32").items():
        start = time.process_time()
        model = build_graph(name, io_spec, skeleton, family, vision, plan)
        graphs[name] = {"seconds": time.process_time() - start, "nodes": sum(1 for _ in model.graph.all_nodes())}
        seconds += graphs[name]["seconds"]
        check(model, path / f"{name}.onnx")
    return {
        "parameters": sum(prod(tensor.shape) for tensor in checkpoint.tensors.values()),
        "visual_tokens": vision.tokens,
        "video_tokens": video.tokens if video else None,
        "seconds": seconds,
        "peak_rss_mib": peak_rss_mib(),
        "graphs": graphs,
    }


def allow_timm_alone(name: str) -> None:
    """Let FastVLM's tower be built where there is timm, but no torchvision that fits torch."""
    if name.startswith("fastvlm"):
        from tests.timm_alone import import_timm

        import_timm()


def check(model: Any, path: Path) -> None:
    """Pass a graph to the ONNX checker, its weights as references into a file of their size that is all hole.

    The checker wants that file to be there and the shapes to agree; values it does not read. Raises what it raises.
    """
    import onnx
    import onnx_ir as ir

    data = path.with_name(f"{path.name}.data")
    end = 0
    for value in model.graph.initializers.values():
        if isinstance(tensor := value.const_value, ir.LazyTensor):
            where = (data.name, end, tensor.nbytes, tensor.dtype)
            value.const_value = ir.ExternalTensor(
                *where, shape=ir.Shape(tensor.shape), name=str(value.name), base_dir=data.parent
            )
            end += tensor.nbytes
    with data.open("wb") as file:
        file.truncate(end)
    ir.save(model, path)
    onnx.checker.check_model(path, full_check=True)


def peak_rss_mib() -> float:
    """Peak of this process's resident memory. Not ru_maxrss, which a process inherits from the one that started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024


def markdown(report: dict[str, Any]) -> str:
    """The report as a page for docs/benchmarks."""
    head = ("configuration", "family", "parameters", "visual tokens", "nodes", "CPU s", "peak MiB")
    lines = [
        "# Tracing at full size, without weights",
        "",
        "Made by `benchmarks/trace_table.py`. All graphs of the default plan in canonical form, each accepted by the "
        "ONNX checker with strict shape inference. CPU seconds of building the model and tracing; memory is the peak "
        "of a process of its own, libraries included.",
        "",
        ", ".join(f"{name} {value}" for name, value in report["machine"].items()),
        "",
        f"| {' | '.join(head)} |",
        f"|{' --- |' * len(head)}",
    ]
    for row in report["configurations"]:
        cells = [row["name"], row["model_type"]]
        if row["status"] == TRACED:
            tokens = f"{row['visual_tokens']:,}"
            if row["video_tokens"]:
                tokens += f", video {row['video_tokens']:,}"
            nodes = ", ".join(f"{name} {graph['nodes']:,}" for name, graph in row["graphs"].items())
            cells += [f"{row['parameters'] / 1e9:.2f} B", tokens, nodes]
            cells += [f"{row['seconds']:.0f}", f"{row['peak_rss_mib']:,.0f}"]
        else:
            cells += [row.get("error", row["status"]), *[""] * (len(head) - 3)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
