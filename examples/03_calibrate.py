"""Measure which plan suits your images, and export the one that was chosen.

python examples/03_calibrate.py out
"""

import sys
from pathlib import Path

from fastv_calib import calibrate
from fastv_export import export
from fastv_runtime.config.wording import cuts_of

DEMO = Path(__file__).resolve().parents[1] / "demo"

if len(sys.argv) != 2:
    sys.exit("usage: python examples/03_calibrate.py FOLDER")
folder = Path(sys.argv[1])
folder.mkdir(exist_ok=True)
calibration = calibrate(
    DEMO / "checkpoint",
    DEMO / "images",  # four images; give as many of your own as you can, or a file of questions and answers
    folder / "calibration.json",
    prompt="Tell me about the white object.",
    layers=(1, 2),  # of plans with one cut
    keeps=(0.5, 0.25),
    rankers=("fastv", "random"),
    cuts=[[(1, 0.5), (3, 0.1)]],  # and one with two; without both, plans are tried by the decoder's depth
    report=folder / "report.html",
)
for plan in calibration.plans:
    print(f"{plan.point!s:<26} same answer {plan.match.mean:4.0%}   FLOPs {plan.flops_share:4.0%} of unpruned")
for baseline in calibration.baselines:  # the unpruned model on fewer visual tokens, for comparison
    print(f"{baseline!s:<26} same answer {baseline.match.mean:4.0%}   FLOPs {baseline.flops_share:4.0%} of unpruned")
if calibration.chosen is None:
    sys.exit("no plan agrees with the unpruned model often enough")
# The chosen plan leaves room for the longest prompt of the data; max_text leaves more.
bundle = folder / "chosen.fastv"
manifest = export(DEMO / "checkpoint", bundle, calibration=folder / "calibration.json", max_text=128)
print(f"exported: {cuts_of(manifest.plan)}")
