"""`fastv_calib.calibrate`: the command fastv-calibrate as a function."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fastv_calib import defaults
from fastv_calib.calibrator import Calibrator
from fastv_calib.distribution.machines import Machines
from fastv_calib.measurement import latency
from fastv_calib.measurement.predict import Timed
from fastv_calib.plans import measured_line
from fastv_calib.report.page import report as report_page
from fastv_calib.samples.data import read_data
from fastv_calib.settings import Asked
from fastv_export.calibration import Calibration, Objectives
from fastv_export.checkpoint.hub import resolve
from fastv_export.progress import Progress
from fastv_export.quantization.activations import sidecar_of
from fastv_runtime.arguments import checked
from fastv_runtime.claims import claimed
from fastv_runtime.config.plan import Precision
from fastv_runtime.errors import UserError
from fastv_runtime.files import is_stream, write_atomically
from fastv_runtime.replaced import check_replaced

PRECISIONS: dict[str, Precision] = {"fp32": "float32", "fp16": "float16"}
"""Precisions in which bytes are counted, as options name them."""


@checked
def calibrate(
    source: str | Path,
    data: str | Path,
    output: str | Path,
    *,
    prompt: str | None = None,
    revision: str | None = None,
    report: str | Path | None = None,
    layers: Sequence[int] | None = None,
    keeps: Sequence[float] = defaults.KEEPS,
    rankers: Sequence[str] = defaults.RANKERS,
    cuts: Sequence[Sequence[tuple[int, float] | tuple[int, float, str]]] | None = None,
    baselines: Sequence[str] | None = None,
    precisions: Sequence[str] = defaults.PRECISIONS,
    answer_tokens: int = defaults.ANSWER_TOKENS,
    image_tokens: int | None = None,
    min_agreement: float = defaults.MIN_AGREEMENT,
    max_memory: float | None = None,
    bundles: Sequence[str | Path] = (),
    max_ttft: float | None = None,
    precision: str = "fp32",
    max_new_tokens: int = defaults.MAX_NEW_TOKENS,
    ray: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Measure what pruning costs a model on your images, and choose the cheapest plan that agrees often enough.

    Writes `output`, and beside it (NAME.json: NAME) the measurements, .samples.jsonl and .activations, and what scales
    and ranges are made of, .activations.safetensors. An interrupted call goes on when it is made again; one with other
    objectives measures nothing anew. Options are those of the command `fastv-calibrate`, by the same names.

    source: a checkpoint directory, as `save_pretrained` writes it, or a hub id (org/name).
    data: a folder of images, or a file with a JSON object a line: "image", "images" or "video", "prompt", "answer"
        where it is known, and "kind" of question, by which figures are given too; paths are relative to the file.
    output: the calibration to write; an existing one is replaced.
    prompt: what every image of a folder is asked.
    revision: branch, tag or commit of a hub id; None means main.
    report: also write the figures as this HTML page.
    layers, keeps, rankers, precisions: every combination is one plan; the unpruned model is always measured. layers:
        None means K=2 and a few depths of the decoder, and some chains of two cuts where `cuts` is None as well.
    cuts: plans beside those, of each its cuts (K, keep) or (K, keep, ranker); without one, every one of `rankers`.
    baselines: `smaller-image` and `pooled`, measured at every one of `keeps` to compare with; None means those that
        the family allows.
    answer_tokens: tokens of the unpruned answer on which plans are compared.
    image_tokens: most visual tokens of one image, for models that take any size; None means the family's.
    min_agreement: share of answers that must equal the unpruned model's; a plan meets it unless its 95% interval lies
        below.
    max_memory: GiB of weights and KV caches; None means any.
    bundles: of this checkpoint; they are timed on some of the samples, and other plans' times are predicted from them.
    max_ttft: milliseconds to the first token, median; needs `bundles`. None means any.
    precision: `fp32` or `fp16`, of caches and of weights that have no fewer bits, where bytes are counted.
    max_new_tokens: tokens an answer may have, where bytes are counted.
    ray: address of a Ray cluster, `local` or `off`; None means local where Ray is installed and that saves time.
    workers: samples at a time on Ray; None means as many as there are cores and memory for.
    threads: per sample; None means what suits the machine. The same number gives the same calibration, bit for bit.
    progress: draws on a console while its context is entered; None is quiet, and notes go to the logger `fastv_export`.

    Returns the calibration; its `chosen` is None where no plan meets the objectives. Raises UserError for what cannot
    be calibrated.
    """
    progress = progress or Progress(None)
    output, page = _writable(output), None if report is None else _writable(report)
    _check_replaced(Path(data), output, page)
    machines = Machines(ray, workers, threads)
    samples = read_data(Path(data), prompt)
    asked = Asked(
        layers=None if layers is None else tuple(layers),
        keeps=tuple(keeps),
        rankers=tuple(rankers),
        cuts=None if cuts is None else tuple(map(tuple, cuts)),
        baselines=None if baselines is None else tuple(baselines),
        answer_tokens=answer_tokens,
        image_tokens=image_tokens,
        precisions=tuple(precisions),
    )
    timed = [str(bundle) for bundle in bundles]
    objectives = _objectives(min_agreement, max_memory, precision, max_new_tokens, max_ttft, timed=bool(timed))
    kept = output.with_suffix(".samples.jsonl")
    with claimed(kept, output, sidecar_of(output), *([] if page is None else [page]), note=progress.note):
        checkpoint = resolve(str(source), revision, progress)
        calibrator = Calibrator(checkpoint, asked, objectives)
        progress.note(measured_line(calibrator.settings))
        with progress.step("hash the checkpoint"):
            results = calibrator.results(kept, machines.threads)
        calibrator.check_bundles(timed, results)
        with progress.items("samples", len(samples)) as advance:
            calibrator.measure(samples, results, advance, machines, progress.note)
        times = None
        if timed:
            some = latency.timed(samples)
            with progress.items("bundles, in turns", len(some)) as advance:
                times = Timed.of(timed, latency.measure(timed, some, advance))
        calibration = calibrator.summarise(samples, results, sidecar_of(output), times)
        write_atomically(output, calibration.model_dump_json(indent=2) + "\n")
        if page is not None:
            with progress.items("images of the report", len(samples)) as advance:
                evidence = calibrator.evidence(calibration, samples, results, advance)
            write_atomically(page, report_page(calibration, evidence, str(source), str(output)))
    return calibration


def _objectives(
    min_agreement: float,
    max_memory: float | None,
    precision: str,
    max_new_tokens: int,
    max_ttft: float | None,
    *,
    timed: bool,
) -> Objectives:
    if precision not in PRECISIONS:
        raise UserError(f"`precision` {precision}: not known; there are {', '.join(PRECISIONS)}")
    if max_new_tokens < 1:
        raise UserError(f"`max_new_tokens` {max_new_tokens}: must be at least 1")
    if max_ttft is not None and not timed:
        raise UserError(
            f"`max_ttft` {max_ttft:g}: nothing tells how long a plan takes: add `bundles` of this checkpoint, for this "
            "machine (fastv-export)"
        )
    return Objectives(
        min_agreement=min_agreement,
        max_memory=max_memory,
        precision=PRECISIONS[precision],
        max_new_tokens=max_new_tokens,
        max_ttft=max_ttft,
    )


def _check_replaced(data: Path, output: Path, page: Path | None) -> None:
    """UserError where writing would lose what is no earlier calibration or report."""
    if is_stream(output):
        raise UserError(f"`output` {output}: is no file, and measurements are kept beside it: give a file")
    check_replaced({"`output`": output, "`report`": page}, [("`data`", data)])
    if output.exists() and not _is_calibration(output):
        raise UserError(f"`output` {output}: exists and is no calibration: remove it, or give another")
    if page is not None and page.exists() and not is_stream(page) and not _is_page(page):
        raise UserError(f"`report` {page}: exists and is no HTML page: remove it, or give another")


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(15).lower().startswith(b"<!doctype html")


def _is_calibration(path: Path) -> bool:
    """Whether a file is a calibration, of whatever version."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(found, dict) and {"schema_version", "objectives", "plans"} <= found.keys()


def _writable(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a directory: give a file to write")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path.absolute().parent}: no such directory: make it first")
    return path
