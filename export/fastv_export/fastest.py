"""`target` auto: a checkpoint is exported for both runtimes that CPUs have; the one that is faster here stays.

Bundles are timed in processes of their own, one after the other and twice, so that one model is in memory at a time.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from fastv_export import support
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.reading import reading
from fastv_export.exporting import export_through
from fastv_export.families import family_of
from fastv_export.plan import Options, decoder_dimensions
from fastv_export.progress import Progress
from fastv_export.quantization.activations import Activation
from fastv_export.staging import check_output, staging
from fastv_export.targets import TARGETS
from fastv_runtime.bench.protocol import Measurement, Refused, Request
from fastv_runtime.bench.runners.bundle import BackendChoice
from fastv_runtime.bench.runners.child import Child
from fastv_runtime.bench.workloads import Workload, built_in
from fastv_runtime.config.bundle import Bundle, Manifest
from fastv_runtime.errors import UserError

AUTO_TARGET = "auto"
CANDIDATES = ("openvino", "ort")
ANSWER = 64
"""Tokens of the answer that is compared: a sentence or two."""
TIMED = 16
"""New tokens of each question that is timed; `max_new_tokens` where that is less."""
SECONDS = 15.0
"""How long a bundle is asked at most, each of two times; after a question that is not counted."""
LEAST, MOST = 2, 30
"""Questions in that time: so many however long they take, and no more."""


@dataclass(frozen=True)
class Speed:
    """Of a bundle on this machine, in milliseconds: medians of `asked` questions."""

    first: float
    token: float
    asked: int

    @classmethod
    def of(cls, turns: list[Measurement]) -> Speed:
        first = median(turn.ttft_ms for turn in turns)
        return cls(first, median(turn.decode_ms or 0.0 for turn in turns), len(turns))

    def answer(self, tokens: int) -> float:
        return self.first + (tokens - 1) * self.token


def export_fastest(
    folder: Path,
    source: str | Path,
    output: Path,
    options: Options,
    progress: Progress,
    activations: Mapping[str, Activation] | None,
    *,
    digests: dict[str, str] | None,
) -> Manifest:
    """`exporting.export_through` for each of CANDIDATES; the bundle that answers sooner appears at `output`.

    Raises UserError where one of them cannot be exported, or cannot run here.
    """
    for target in CANDIDATES:
        TARGETS[target].require()
    width = _head_width(source)
    able = [target for target in CANDIDATES if width in TARGETS[target].heads]
    if len(able) == 1:
        progress.note(f"chosen: {able[0]}, which alone takes heads of {width} channels")
        asked = replace(options, target=able[0])
        return export_through(folder, source, output, asked, progress, activations, digests=digests)
    bundles: dict[str, Bundle] = {}
    for target in CANDIDATES:
        progress.note(f"for {target}:")
        place = folder / target
        with staging(place, progress.note) as within:
            asked = replace(options, target=target)
            manifest = export_through(within, source, place, asked, progress, activations, digests=digests)
        digests = manifest.source
        bundles[target] = Bundle(place, manifest)
    speeds = time_bundles(bundles, progress)
    for line in lines(speeds):
        progress.note(line)
    chosen = bundles[faster(speeds)]
    check_output(output)
    chosen.path.rename(output)
    return chosen.manifest


def _head_width(source: str | Path) -> int:
    """Channels of a head of the decoder. Raises UserError for a checkpoint that is none."""
    checkpoint = Checkpoint(source)
    where = checkpoint.path / "config.json"
    family = family_of(checkpoint.model_type(), str(where))
    config = support.check_config(checkpoint, family)
    with reading(where):
        return decoder_dimensions(config, family).head_dim


def time_bundles(bundles: Mapping[str, Bundle], progress: Progress) -> dict[str, Speed]:
    """How fast bundles of one checkpoint are on this machine, with the longest prompt that they share."""
    tokens = min(TIMED, *(each.manifest.plan.max_new_tokens for each in bundles.values()))
    turns: dict[str, list[Measurement]] = {name: [] for name in bundles}
    with tempfile.TemporaryDirectory() as images:
        workload = built_in(list(bundles.values()), Path(images), tokens)[-1]
        for name in (*bundles, *bundles):
            with progress.step(f"time {name}"):
                turns[name] += _asked(bundles[name], workload)
    return {name: Speed.of(each) for name, each in turns.items()}


def faster(speeds: Mapping[str, Speed]) -> str:
    """The one that gives an answer of ANSWER tokens sooner."""
    return min(speeds, key=lambda name: speeds[name].answer(ANSWER))


def lines(speeds: Mapping[str, Speed]) -> list[str]:
    """What was measured, and what it says of shorter and longer answers."""
    said = [
        f"{name}: first token {speed.first:,.1f} ms, then {speed.token:,.1f} ms a token; {ANSWER} tokens in "
        f"{speed.answer(ANSWER):,.0f} ms (medians of {speed.asked} questions)"
        for name, speed in speeds.items()
    ]
    best = faster(speeds)
    (other,) = (name for name in speeds if name != best)
    ratio = speeds[best].answer(ANSWER) / speeds[other].answer(ANSWER)
    return [*said, f"chosen: {best}, {ratio:.2f} of {other}'s time for {ANSWER} tokens{_beyond(speeds, best, other)}"]


def _beyond(speeds: Mapping[str, Speed], best: str, other: str) -> str:
    """Where the other one is faster."""
    first = speeds[best].first - speeds[other].first
    token = speeds[best].token - speeds[other].token
    if first > 0 > token and round(-first / token) > 1:  # else it is for no answer at all
        return f"; {other} for answers of fewer than {_crossing(first, token)}"
    if first < 0 < token:
        return f"; {other} for answers of more than {_crossing(first, token)}"
    return ""


def _crossing(first: float, token: float) -> str:
    return f"{1 + round(-first / token):,}: give that as `target` then"


def _asked(bundle: Bundle, workload: Workload) -> list[Measurement]:
    choice = BackendChoice(path=str(bundle.path), name=bundle.path.name)
    try:
        child = Child([sys.executable, "-m", "fastv_runtime.bench.runners.serve", choice.model_dump_json()])
        try:
            return _turns(child, workload.request)
        finally:
            child.close()
    except Refused as refusal:
        raise UserError(
            f"`target` {AUTO_TARGET}: the bundle for {bundle.path.name} does not run here: {refusal}"
        ) from None


def _turns(child: Child, request: Request) -> list[Measurement]:
    child.run(request)
    turns: list[Measurement] = []
    until = time.monotonic() + SECONDS
    while len(turns) < LEAST or (len(turns) < MOST and time.monotonic() < until):
        turns.append(child.run(request))
    return turns
