"""Calibrate the demo checkpoint and try the choice on other questions: `python benchmarks/calibration.py`.

A plan is chosen on the calibration split (demo/calibration_split.py) and measured on the held-out one, whose
questions the choice has not seen. Writes docs/benchmarks/calibration.md and, where there is a Chromium, the upper part
of the report as docs/calibration.png; data and report stay in demo/out/calibration.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from PIL import Image

from demo import calibration_split, heldout
from fastv_calib.choice.beside import beside
from fastv_calib.cli import main as calibrate
from fastv_calib.report.page import chosen_plan
from fastv_export.calibration import Calibration, Estimate, Figures, PlanFigures, read_calibration
from fastv_export.points import KeptPoint, PointCut, said
from fastv_export.rankers import CONTROLS, RANKERS

ROOT = Path(os.path.relpath(Path(__file__).resolve().parent.parent))
"""As it is typed, since the report repeats it."""
CHECKPOINT = ROOT / "demo" / "checkpoint"
OUT = ROOT / "demo" / "out" / "calibration"
STILL = tuple(name for name, ranker in RANKERS.items() if "change" not in ranker.signals)
"""Rankers of images: the demo takes no videos."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
IMAGE = (1000, 3220)
"""Pixels of the report that the docs show: all but the lengths and the long table."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--held-out", type=int, default=1000)
    parser.add_argument("--markdown", type=Path, default=ROOT / "docs" / "benchmarks" / "calibration.md")
    args = parser.parse_args()
    calibration = measure("calibration", args.samples, calibration_split.SEED, "--rankers", *STILL)
    plan = chosen_plan(calibration)
    assert plan is not None
    near = beside(calibration, plan)
    plans = [each for each in (plan, near.single) if each is not None]
    # The target was the calibration's: the held-out split only measures, so it may not refuse.
    tried = measure(
        "held-out",
        args.held_out,
        heldout.SEED,
        *("--layers", "--cuts", *(said(each.point.cuts) for each in plans)),
        *("--keeps", *sorted({f"{each.keep:g}" for each in near.baselines} or {"0.5"})),
        *("--min-agreement", "0.01"),
    )
    args.markdown.write_text(page(calibration, tried), encoding="utf-8")
    take_image(OUT / "calibration" / "report.html", ROOT / "docs" / "calibration.png")
    print(args.markdown.read_text(encoding="utf-8"))


def measure(name: str, count: int, seed: int, *flags: str) -> Calibration:
    """Calibrate on `count` questions of a seed, or go on where that was interrupted."""
    folder = OUT / name
    data = calibration_split.write_split(folder, count, seed)
    output = folder / "calibration.json"
    calibrate(
        [str(CHECKPOINT), "--data", str(data), "-o", str(output), "--report", str(folder / "report.html"), *flags]
    )
    return read_calibration(output)


def take_image(report: Path, image: Path) -> None:
    """The upper part of the report as a PNG; left as it is where there is no browser."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"{image} is left as it is: none of {', '.join(BROWSERS)} is on the path")
        return
    with tempfile.TemporaryDirectory() as scratch:
        shot = Path(scratch) / "shot.png"
        flags = ["--headless", "--hide-scrollbars", f"--user-data-dir={scratch}/profile", f"--screenshot={shot}"]
        flags += ["--no-sandbox"] if os.geteuid() == 0 else []  # which Chromium's sandbox refuses to run under
        size = "--window-size={},{}".format(*IMAGE)
        subprocess.run([browser, *flags, size, report.absolute().as_uri()], check=True, capture_output=True)
        Image.open(shot).convert("RGB").save(image, optimize=True)


def page(calibration: Calibration, tried: Calibration) -> str:
    """The figures in words and as a table."""
    plan = chosen_plan(calibration)
    assert plan is not None
    again = next(each for each in tried.plans if each.point == plan.point)
    target = calibration.objectives.min_agreement
    kept = "reaches" if again.match.high >= target else "misses"
    lines = [
        "# Which plan the demo model supports",
        "",
        f"Made by `make calibrate`: {calibration.samples} questions of a calibration split, every ranker, asked "
        f"for {target:.0%} of answers as the unpruned model's, token by token. In brackets 95% intervals (Wilson; "
        "bootstrap for KL). FLOPs of a prefill and keys and values after it are shares of the unpruned model's. "
        "Accuracy counts answers that are right unpruned and stay as they are. "
        f"{' and '.join(f'`{name}`' for name in CONTROLS)} {'is a control' if len(CONTROLS) == 1 else 'are controls'}.",
        "",
        f"fastv-edge {version('fastv-edge')}, torch {version('torch')}, transformers {version('transformers')}, fp32",
        "",
        f"**Chosen: {plan.point}**, {plan.flops_share:.0%} of the FLOPs, {plan.cache_share:.0%} of the cache; "
        f"{share(plan.match)} of the answers match. On {tried.samples} held-out questions, which had no part in the "
        f"choice, {share(again.match)} match: it {kept} the target within its interval.",
        *(f"\nWarning: {warning}." for warning in calibration.warnings),
        "",
        *beside_table(calibration, tried),
        "",
        "Plans than which none is both cheaper and more often equal:",
        "",
        "| plan | FLOPs | cache | answers match | first token | accuracy | KL, nats |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(row(calibration.plans[index], calibration.plans[index] is plan) for index in calibration.pareto),
        "",
        *by_ranker("Answers that match, %", calibration, match),
        "",
        *by_ranker("KL of the first token's distribution, nats", calibration, divergence),
        "",
        "Attention that visual tokens get from the prompt's last token, by layer: "
        + ", ".join(f"{layer}: {value:.0%}" for layer, value in enumerate(calibration.attention))
        + ". The demo model was taught where to look (demo/checkpoint/README.md): this says how the tool works, and "
        "nothing of what pruning costs a real model.",
    ]
    return "\n".join(lines) + "\n"


def by_ranker(title: str, calibration: Calibration, cell: Callable[[PlanFigures], str]) -> list[str]:
    """A table with a line per K and ranker and a column per keep, and one of chains."""
    cells = {plan.point: cell(plan) for plan in calibration.plans}
    settings = calibration.settings
    chains = list(dict.fromkeys(tuple((cut.layer, cut.keep) for cut in chain) for chain in settings.cuts))

    def of(ranker: str, *cuts: tuple[int, float]) -> str:
        chain = tuple(PointCut(layer=layer, keep=keep, ranker=ranker) for layer, keep in cuts)
        return cells.get(KeptPoint(cuts=chain), "–")

    def heading(*columns: str) -> list[str]:
        return [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]

    return [
        f"{title}:",
        "",
        *heading("K", "ranker", *(f"keep {keep:g}" for keep in settings.keeps)),
        *(
            f"| {layer} | {ranker} | " + " | ".join(of(ranker, (layer, keep)) for keep in settings.keeps) + " |"
            for layer, ranker in product(settings.layers, settings.rankers)
        ),
        "",
        *heading("ranker", *("+".join(f"{layer}:{keep:g}" for layer, keep in chain) for chain in chains)),
        *(f"| {ranker} | " + " | ".join(of(ranker, *chain) for chain in chains) + " |" for ranker in settings.rankers),
    ]


def beside_table(calibration: Calibration, tried: Calibration) -> list[str]:
    """The chosen plan beside the best with one cut and the baselines, on the held-out questions, by kind as well."""
    chosen = chosen_plan(calibration)
    assert chosen is not None
    shown = beside(calibration, chosen)
    plans = {str(plan.point): plan for plan in tried.plans}
    baselines = {str(each): each for each in tried.baselines}
    rows: list[Figures | None] = [plans.get(str(each.point)) for each in (shown.plan, shown.single) if each is not None]
    names = [str(each.point) for each in (shown.plan, shown.single) if each is not None]
    rows += [baselines.get(str(each)) for each in shown.baselines]
    names += [str(each) for each in shown.baselines]
    kinds = sorted(chosen.kinds)
    return [
        f"The chosen plan on the {tried.samples} held-out questions, beside the best plan with one cut and baselines "
        "of about as many FLOPs; answers that match, by kind of question as well:",
        "",
        "| plan | FLOPs | all | " + " | ".join(kinds) + " |",
        "| --- | --- | --- |" + " --- |" * len(kinds),
        *(
            f"| {name} | {each.flops_share:.0%} | {share(each.match)} | "
            + " | ".join(share(each.kinds[kind].match) for kind in kinds)
            + " |"
            for name, each in zip(names, rows, strict=True)
            if each is not None
        ),
    ]


def match(plan: PlanFigures) -> str:
    return f"{plan.match.mean * 100:.1f} ({plan.match.low * 100:.1f}–{plan.match.high * 100:.1f})"


def divergence(plan: PlanFigures) -> str:
    return f"{plan.kl.mean:.2g} ({plan.kl.low:.1g}–{plan.kl.high:.1g})"


def row(plan: PlanFigures, chosen: bool) -> str:
    name = f"**{plan.point}**" if chosen else str(plan.point)
    assert plan.accuracy is not None
    shares = " | ".join(map(share, (plan.match, plan.first_token, plan.accuracy)))
    return f"| {name} | {plan.flops_share:.0%} | {plan.cache_share:.0%} | {shares} | {divergence(plan)} |"


def share(estimate: Estimate) -> str:
    return f"{estimate.mean:.1%} ({estimate.low * 100:.1f}–{estimate.high * 100:.1f})"


if __name__ == "__main__":
    main()
