"""Engines of decoders at published dimensions, built with TensorRT-RTX: seconds, memory, size against the weights.

    python benchmarks/build_real.py thin-llava-qwen2-0.5b llava-1.5-7b:6 llava-1.5-7b:10 llava-1.5-7b \\
        --json docs/benchmarks/build.json --markdown docs/benchmarks/build.md

NAME:LAYERS cuts the decoder to so many layers. Graphs are traced from a checkpoint of sparse files and their weights
are then noise, fp16, K=2, keep 0.5. Every graph is built for SM86, SM89 and SM120 in one, in a process of its own whose
anonymous memory is limited: what does not fit fails, and is listed, before the machine runs out.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from configurations import configuration
from random_checkpoint import write_random_checkpoint
from rich.console import Console

from fastv_runtime.config.bundle import GraphSpec, Manifest
from fastv_runtime.tensorrt_build.preflight import GIB, available_memory

CAPABILITIES = ("SM86", "SM89", "SM120")
GRAPHS = ("prefix", "select", "suffix")
SPARE = 2 * GIB
"""Memory that is left to the rest of the machine."""

console = Console(stderr=True, highlight=False)
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", metavar="NAME[:LAYERS]")
    parser.add_argument("--memory", type=float, metavar="GIB", help="of one build (default: what is free, less 2 GiB)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    rows = []
    for case in args.cases:
        with tempfile.TemporaryDirectory() as scratch, console.status(case):
            rows += measured(case, Path(scratch), args.memory)
    report = {"machine": machine(), "cases": args.cases, "graphs": rows}
    text = json.dumps(report, indent=2) + "\n"
    for path, content in ((args.json, text), (args.markdown, markdown(report))):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
    print(text, end="")


def measured(case: str, folder: Path, memory: float | None) -> list[Row]:
    """One row per graph of a case."""
    name, _, layers = case.partition(":")
    config = configuration(name)
    if layers:
        config.get_text_config().num_hidden_layers = int(layers)
    write_random_checkpoint(config, folder / "checkpoint", sparse=True)
    manifest = own_process(write_graphs, folder)
    rows = []
    for graph in GRAPHS:
        limit = int(memory * GIB) if memory else max((available_memory() or 0) - SPARE, GIB)
        rows.append({"case": case, "graph": graph, **own_process(build_graph_of, folder, manifest, graph, limit)})
        console.print(json.dumps(rows[-1]))
    return rows


def own_process(function: Any, *args: Any) -> Any:
    """Run a function in a process that ends with it, so that its memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def write_graphs(folder: Path) -> str:
    """Trace the decoder's graphs and write them with noise for weights; returns what building asks a manifest for."""
    from fastv_export.checkpoint.checkpoint import Checkpoint
    from fastv_export.checkpoint.skeleton import Skeleton
    from fastv_export.families import family_of
    from fastv_export.graphs.build import build_graph
    from fastv_export.graphs.save import save_graph
    from fastv_export.plan import Options, decoder_dimensions, make_plan
    from fastv_export.targets import TARGETS
    from fastv_export.tracing import attention
    from fastv_runtime.config.io_spec import decoder_io_specs

    attention.register()
    checkpoint, dialect = Checkpoint(folder / "checkpoint"), TARGETS["trt-rtx"]
    family = family_of(checkpoint.model_type(), str(checkpoint.path))
    config = family.config(checkpoint)
    decoder, vision = decoder_dimensions(config, family), family.vision(config, None)
    plan = make_plan(Options(layer=2, keep=0.5, target="trt-rtx"), decoder, vision, None)
    skeleton = Skeleton(checkpoint, family, attention=attention.IMPLEMENTATION, precision=plan.precision)
    graphs = {}
    for name, io_spec in decoder_io_specs(decoder, plan, plan.precision).items():
        model = build_graph(name, io_spec, skeleton, family, vision, plan)
        dialect.lower(model)
        save_graph(model, folder / f"{name}.onnx")
        fill(folder / f"{name}.onnx.data")
        graphs[name] = GraphSpec(
            file=f"{name}.onnx", dialect=dialect.name, opset=dialect.opset, inputs=io_spec[0], outputs=io_spec[1]
        )
    manifest = Manifest.model_construct(decoder=decoder, vision=vision, video=None, plan=plan, graphs=graphs)
    return manifest.model_dump_json(include={"decoder", "vision", "video", "plan", "graphs"})


def fill(path: Path) -> None:
    """Overwrite zeros with noise: constants that are all alike could be folded into one."""
    if not path.is_file():
        return
    noise = (np.random.default_rng(0).standard_normal(4194301, np.float32) * 0.02).astype(np.float16).tobytes()
    left = path.stat().st_size
    with path.open("r+b") as file:
        while left:
            left -= file.write(noise[:left])


def build_graph_of(folder: Path, manifest: str, name: str, limit: int) -> Row:
    """Build one graph, and say what it took. `limit`: bytes of anonymous memory."""
    from fastv_runtime.backends.tensorrt.device import choose_device
    from fastv_runtime.backends.tensorrt.module import load_tensorrt
    from fastv_runtime.tensorrt_build.network import BuildError, BuilderSettings, compile_graph
    from fastv_runtime.tensorrt_build.profiles import graph_profiles

    parts = json.loads(manifest)
    fields = {field: Manifest.__pydantic_fields__[field].annotation for field in parts}
    made = Manifest.model_construct(**{field: _validated(fields[field], value) for field, value in parts.items()})
    spec = made.graphs[name]
    weights = sum(path.stat().st_size for path in folder.glob(f"{name}.onnx.data"))
    device = choose_device(load_tensorrt("tensorrt_rtx"), None, CAPABILITIES)
    profiles = graph_profiles(name, made, shared_weights=False)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    peak = Peak()
    start = time.perf_counter()
    try:
        with peak:
            engine = memoryview(
                compile_graph(folder / spec.file, spec, profiles, device, BuilderSettings(), lambda phase: None)
            )
    except (BuildError, MemoryError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return {"weights": weights, "limit": limit, "error": reason, "anonymous": peak.bytes}
    return {
        "weights": weights,
        "limit": limit,
        "engine": engine.nbytes,
        "seconds": round(time.perf_counter() - start, 1),
        "anonymous": peak.bytes,
    }


def _validated(annotation: Any, value: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(annotation).validate_python(value)


class Peak:
    """The most anonymous memory of this process within the context, looked at every 20 ms. Files that are mapped do
    not count: the system takes them back when it must."""

    def __init__(self) -> None:
        self.bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        status = Path("/proc/self/status")
        while not self._done.wait(0.02):
            for line in status.read_text(encoding="ascii").splitlines():
                if line.startswith("RssAnon:"):
                    self.bytes = max(self.bytes, int(line.split()[1]) * 1024)


def machine() -> dict[str, str]:
    """What the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    packages = ("tensorrt-rtx", "polygraphy", "torch", "transformers", "onnx")
    return {"cpu": cpu, "system": platform.platform()} | {name: version(name) for name in packages}


def markdown(report: dict[str, Any]) -> str:
    made = report["machine"]
    lines = [
        "# Building engines of real size",
        "",
        "Decoders at their published dimensions, weights of noise, fp16, K=2, keep 0.5, for SM86, SM89 and SM120 in",
        f"one engine, without a GPU: TensorRT-RTX {made['tensorrt-rtx']}, Polygraphy {made['polygraphy']},",
        f"{made['cpu']}, busy with other work.",
        "",
        f"    python benchmarks/build_real.py {' '.join(report['cases'])} --markdown docs/benchmarks/build.md",
        "",
        "| decoder | graph | weights, MiB | engine, MiB | ratio | s | peak memory, MiB | of the weights |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in report["graphs"]:
        weights, peak = row["weights"] / 2**20, row["anonymous"] / 2**20
        built = f"not built within {row['limit'] / GIB:.1f} GiB: {row.get('error')} | |"
        if "error" not in row:
            ratio = f"{row['engine'] / row['weights']:.2f}" if row["weights"] else ""
            built = f"{row['engine'] / 2**20:,.1f} | {ratio} | {row['seconds']}"
        share = f"{peak / weights:.2f}" if weights else ""
        lines.append(f"| {row['case']} | {row['graph']} | {weights:,.0f} | {built} | {peak:,.0f} | {share} |")
    return "\n".join(
        [
            *lines,
            "",
            "NAME:LAYERS has so many layers of the decoder. Peak memory is anonymous memory of the building process;",
            "the weights' file, which is mapped, comes on top where there is room and is dropped where there is none.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
