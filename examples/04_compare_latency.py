"""Time the pruned bundle of 01_export.py against the same model unpruned; fastv-bench measures more, with intervals.

python examples/04_compare_latency.py out
"""

import sys
from pathlib import Path
from statistics import median

from fastv_export import export
from fastv_runtime import Pipeline

DEMO = Path(__file__).resolve().parents[1] / "demo"
ROUNDS, WARMUP = 10, 2

if len(sys.argv) != 2:
    sys.exit("usage: python examples/04_compare_latency.py FOLDER")
folder = Path(sys.argv[1])
if not (folder / "dense.fastv").exists():
    export(DEMO / "checkpoint", folder / "dense.fastv", prune=False, precision="fp32")
image = DEMO / "images" / "scene1.png"
pipelines = {name: Pipeline.load(folder / f"{name}.fastv", threads=1) for name in ("dense", "pruned")}
times: dict[str, list[float]] = {name: [] for name in pipelines}
for turn in range(WARMUP + ROUNDS):
    for name, pipeline in pipelines.items():  # in turns: what slows the machine slows both
        answer = pipeline.generate(image, "How many rings do you see?", max_new_tokens=1)
        if turn >= WARMUP:
            times[name].append(answer.timings_ms["ttft"])
for name, values in times.items():
    print(f"{name:<8} time to first token {median(values):6.2f} ms, median of {ROUNDS}")
print(f"speedup  {median(times['dense']) / median(times['pruned']):.2f}x")
