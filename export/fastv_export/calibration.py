"""`calibration.json`: what fastv-calibrate measured and chose, and what an export takes from it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.points import Chain, KeptPoint
from fastv_runtime.config.base import StrictModel
from fastv_runtime.config.bundle import sha256
from fastv_runtime.config.plan import Length, Precision
from fastv_runtime.errors import UserError
from fastv_runtime.strict_json import Unusable, read_bytes, validated

SCHEMA_VERSION = 5


class Estimate(StrictModel):
    """A mean over samples and its 95% interval."""

    mean: float
    low: float
    high: float


class CalibrationSettings(StrictModel):
    """What decides a sample's measurements, beside the checkpoint."""

    layers: tuple[int, ...]
    keeps: tuple[float, ...]
    rankers: tuple[str, ...]
    """Of plans with one cut: every combination is one."""
    cuts: tuple[Chain, ...] = ()
    """Plans beside those."""
    baselines: tuple[str, ...] = ()
    """What is measured to compare with, of BASELINES, at every one of `keeps`."""
    answer_tokens: int
    """Most tokens of the unpruned answer that plans are compared on."""
    image_tokens: int | None
    precisions: tuple[str, ...] = ("fp32",)
    """As the option `precision` of an export names them."""


class Objectives(StrictModel):
    """What the chosen plan must meet."""

    min_agreement: float
    """Of the greedy match."""
    max_memory: float | None
    """GiB of weights and caches."""
    precision: Precision
    """Of caches, and of weights that have no fewer bits."""
    max_new_tokens: int
    max_ttft: float | None = None
    """Milliseconds to the first token, median."""


class Ttft(StrictModel):
    """Milliseconds to a plan's first token: the median of a bundle's, or what other bundles predict."""

    ms: float
    measured: bool

    def __str__(self) -> str:
        return f"{self.ms:.3g} ms to the first token, {'measured' if self.measured else 'predicted'}"


class KindFigures(StrictModel):
    """The samples of one kind."""

    samples: int
    match: Estimate
    accuracy: Estimate | None


class Figures(StrictModel):
    """One way to answer against the unpruned model in fp32, on all samples.

    Shares lie in 0 to 1, their intervals are Wilson's.
    """

    first_token: Estimate
    """Samples whose likeliest first token is the unpruned model's."""
    match: Estimate
    """Samples whose whole greedy answer is."""
    kl: Estimate
    """KL divergence of the first token's distribution from the unpruned one, in nats; a bootstrap's interval."""
    accuracy: Estimate | None
    """Samples with a known answer that is the unpruned model's whole answer and this plan's as well. None without any.

    A lower bound: where the unpruned model is wrong, a plan counts as wrong too.
    """
    kinds: dict[str, KindFigures] = Field(default_factory=dict)
    """By kind of question, where samples say theirs."""
    flops: float
    """Of a prefill, mean: multiply-adds of the decoder's layers."""
    flops_share: float
    cache_bytes: float
    """Keys and values after a prefill, mean, in the precision of the objectives."""
    cache_share: float


class PlanFigures(Figures):
    """One plan."""

    point: KeptPoint
    memory_bytes: int
    """Weights, and caches as allocated for the longest prompt of the data."""
    ttft: Ttft | None = None
    """None where no bundle was timed."""


BASELINES = ("smaller-image", "pooled")
"""The unpruned model on fewer visual tokens: those of an image that was resized, and means of neighbours."""


class BaselineFigures(Figures):
    """The unpruned model on fewer visual tokens, which no plan is and an export does not make."""

    name: str
    """Of BASELINES."""
    keep: float
    """Fraction of visual tokens that was asked for: an image's shape and a family's tiles decide how near it comes."""
    samples: int
    """Those on which it is possible."""
    visual_share: float
    """Visual tokens that the decoder sees, of those of the unpruned model."""
    tower_share: float
    """Rows that the vision tower makes, likewise; FLOPs do not count them."""

    def __str__(self) -> str:
        return f"{self.name} keep {self.keep:g}"


class Spread(StrictModel):
    """Median, and 5th and 95th percentile, of single timings."""

    median: float
    low: float
    high: float


class BundleLatency(StrictModel):
    """One bundle on the machine that calibrated: ONNX Runtime, CPU. Milliseconds."""

    name: str
    point: KeptPoint
    kind: str
    """Precision of activations and weights."""
    samples: int
    ttft: Spread
    per_token: Spread
    """Of a decoded token after the first: a sample's mean."""
    stages: dict[str, float]
    """Medians of what `ttft` is made of."""


class Latency(StrictModel):
    """What bundles took, in turns, and how well they predict each other."""

    bundles: tuple[BundleLatency, ...]
    error: float | None
    """Largest relative error of a bundle's TTFT as the others predict it; None for a single bundle."""


class Lengths(StrictModel):
    """Tokens of the prompts."""

    text_p50: int
    text_p95: int
    text_max: int
    visual_max: int


class ChosenPlan(StrictModel):
    """The chosen plan, as options of an export."""

    cuts: Chain
    length: Length
    max_text: int
    """The longest text of the data, rounded up to a multiple of 16."""
    image_tokens: int | None
    precision: str
    """As a point has it: `fp32` leaves the precision to the target."""
    fixed_lengths: tuple[int, ...]
    """Pruned length of the longest prompt after each cut, under the policy `fixed`."""

    @property
    def point(self) -> KeptPoint:
        """The plan among those that were measured."""
        return KeptPoint(cuts=self.cuts, precision=self.precision)


class Calibration(StrictModel):
    """`calibration.json`."""

    schema_version: int
    family: str
    source: dict[str, str]
    """sha256 of the checkpoint's files."""
    settings: CalibrationSettings
    objectives: Objectives
    samples: int
    answers: int
    """Samples with a known answer."""
    lengths: Lengths
    attention: tuple[float, ...]
    """By layer: the share of the last prompt row's attention that visual tokens get, mean over heads and samples."""
    plans: tuple[PlanFigures, ...]
    pareto: tuple[int, ...]
    """Indices of plans than which none is both cheaper and more often equal to the unpruned model."""
    baselines: tuple[BaselineFigures, ...] = ()
    """What plans are compared with, and which are never chosen."""
    activations: str
    """sha256 of the file of activations, which lies beside this one (`activations.sidecar_of`)."""
    chosen: ChosenPlan | None
    warnings: tuple[str, ...]
    latency: Latency | None = None
    """None without `bundles`."""


class _SchemaVersion(BaseModel):
    schema_version: int


def read_calibration(path: str | Path) -> Calibration:
    """A calibration that was written; UserError for what is none."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such calibration: give the file that fastv-calibrate wrote")
    try:
        data = read_bytes(path)
        version = validated(_SchemaVersion, data).schema_version
        if version != SCHEMA_VERSION:
            raise UserError(
                f"{path}: schema version {version}, this program reads {SCHEMA_VERSION}: run fastv-calibrate again"
            )
        return validated(Calibration, data)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: give the file that fastv-calibrate wrote") from None
    except Unusable as error:
        raise UserError(f"{path}: {error}: run fastv-calibrate again") from None


def chosen_for(calibration: Calibration, source: str | Path, digests: dict[str, str]) -> ChosenPlan:
    """The chosen plan of a calibration of the checkpoint at `source`, whose `source_digests` are given.

    Raises UserError for a calibration of another checkpoint, by its files' hashes, and for one that chose nothing.
    """
    if calibration.chosen is None:
        raise UserError("`calibration`: it chose no plan: run fastv-calibrate with objectives that a plan meets")
    if calibration.source != digests:
        raise UserError(f"`calibration`: is of another checkpoint than {source}: run fastv-calibrate on this one")
    return calibration.chosen


def source_digests(checkpoint: Checkpoint) -> dict[str, str]:
    """sha256 of a checkpoint's config and weights, by file name."""
    return {file.name: sha256(file) for file in (checkpoint.path / "config.json", *checkpoint.files)}
