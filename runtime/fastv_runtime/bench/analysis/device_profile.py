"""A device profile: what a device's arithmetic costs, fitted to a short probe of a bundle, to foretell plans with.

A run of layers over some rows is taken to cost the sum of its parts, each at a rate of its own: calls, products,
attention, what is done element by element, and weights that are read. A decoded token is calls and bytes. The rates are
those of one precision and backend; probes of models of several widths tell the parts apart better.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal

import numpy as np

from fastv_runtime.config.base import StrictModel
from fastv_runtime.config.bundle import DecoderConfig
from fastv_runtime.config.cost import BYTES, cache_bytes, layer_flops, mlp_flops
from fastv_runtime.config.plan import Plan, Stage
from fastv_runtime.strict_json import read_model

if TYPE_CHECKING:
    from jaxtyping import Float

PREFILL_PARTS = ("layers", "products", "attention", "elements", "bytes")
DECODE_PARTS = ("layers", "bytes")


class ProbePoint(StrictModel):
    """One measured run: so many layers of a model over so many rows."""

    decoder: DecoderConfig
    layers: int
    """Attentions that run."""
    mlps: int
    """MLPs that run: a stage before a cut leaves its last layer's to the one behind it."""
    rows: int
    head: bool
    """Whether the vocabulary's product is at the end. Then the last MLP is given the last row alone, as that is."""
    cached: int
    """Rows that were in the cache before."""
    ms: float


class DeviceProfile(StrictModel):
    """Rates in milliseconds per unit of each part, and the runs that they were fitted to."""

    schema_version: Literal[1] = 1
    device: str
    backend: str
    threads: int | None
    precision: str
    """Of activations and weights, and the dialect: see `kind`."""
    prefill: dict[str, float]
    decode: dict[str, float]
    error: float
    """Median relative error of the fit over its own points."""
    points: tuple[ProbePoint, ...]


def kind(plan: Plan, dialect: str) -> str:
    """What a profile's rates hold for."""
    weights = "" if plan.weights is None else f", {plan.weights.name} weights"
    return f"{plan.precision}{weights}, {dialect}"


def fit(
    points: Sequence[ProbePoint], plan: Plan, *, device: str, backend: str, threads: int | None, dialect: str
) -> DeviceProfile:
    """The profile of measured runs. ValueError without both a prompt's and a decoded token's."""
    prompts = [point for point in points if point.rows > 1]
    tokens = [point for point in points if point.rows == 1]
    prefill = _rates([_prefill_work(point, plan) for point in prompts], [point.ms for point in prompts], PREFILL_PARTS)
    decode = _rates([_decode_work(point, plan) for point in tokens], [point.ms for point in tokens], DECODE_PARTS)
    profile = DeviceProfile(
        device=device,
        backend=backend,
        threads=threads,
        precision=kind(plan, dialect),
        prefill=prefill,
        decode=decode,
        error=0.0,
        points=tuple(points),
    )
    errors = [abs(run_ms(profile, point, plan) / point.ms - 1) for point in points]
    return profile.model_copy(update={"error": median(errors)})


def run_ms(profile: DeviceProfile, point: ProbePoint, plan: Plan) -> float:
    """Milliseconds that a run is foretold to take; `point.ms` is not looked at."""
    rates, work = (
        (profile.decode, _decode_work(point, plan))
        if point.rows == 1
        else (profile.prefill, _prefill_work(point, plan))
    )
    return sum(rates[name] * value for name, value in work.items())


def predict(
    profile: DeviceProfile, decoder: DecoderConfig, plan: Plan, tokens: int, pruned: Sequence[int]
) -> dict[str, float]:
    """`prefill` and `decode` of a prompt of `tokens`, of which each cut leaves `pruned`. Milliseconds."""
    whole = decoder.num_hidden_layers

    def ms(stage: Stage, rows: int, cached: int = 0) -> float:
        point = ProbePoint(
            decoder=decoder,
            layers=len(plan.layers(stage.graph, whole)),
            mlps=stage_mlps(plan, stage, whole),
            rows=rows,
            head=stage.cut is None,
            cached=cached,
            ms=0.0,
        )
        return run_ms(profile, point, plan)

    given = list(zip(plan.stages, (tokens, *pruned), strict=True))
    return {
        "prefill": sum(ms(stage, rows) for stage, rows in given),
        "decode": sum(ms(stage, 1, rows) for stage, rows in given),
    }


def stage_mlps(plan: Plan, stage: Stage, layers: int) -> int:
    """MLPs of a graph: that of a scored layer is behind its cut. layers: of the whole decoder."""
    return len(plan.layers(stage.graph, layers)) + (stage.select is not None) - (stage.cut is not None)


def read_profile(path: Path) -> DeviceProfile:
    """The profile in a file. Raises UserError for what is none."""
    return read_model(path, DeviceProfile, "give a file that `save_profile` wrote", name=f"`profile` {path}")


def _prefill_work(point: ProbePoint, plan: Plan) -> dict[str, float]:
    """Units of each part: calls, 1e9 operations of products and of attention, 1e6 elements, 1e6 bytes of weights."""
    decoder, rows = point.decoder, point.rows
    attention = 2 * rows * rows * decoder.num_attention_heads * decoder.head_dim
    mlp = mlp_flops(decoder, 1)
    products = layer_flops(decoder, rows).gated - attention - rows * mlp
    mlp_rows = (point.mlps - 1) * rows + 1 if point.head else point.mlps * rows
    elements = 6 * decoder.hidden_size * point.layers * rows + 3 * decoder.intermediate_size * mlp_rows
    return {
        "layers": point.layers,
        "products": (point.layers * products + mlp_rows * mlp) / 1e9,
        "attention": point.layers * attention / 1e9,
        "elements": elements / 1e6,
        "bytes": _weight_bytes(point, plan) / 1e6,
    }


def _decode_work(point: ProbePoint, plan: Plan) -> dict[str, float]:
    cache = cache_bytes(point.decoder, [point.cached] * point.layers, plan.precision)
    return {"layers": point.layers, "bytes": (_weight_bytes(point, plan) + cache) / 1e6}


def _weight_bytes(point: ProbePoint, plan: Plan) -> float:
    """Bytes of the weights of the layers' products and of the head."""
    decoder = point.decoder
    heads = 2 * (decoder.num_attention_heads + decoder.num_key_value_heads) * decoder.head_dim
    mlp = (3 if decoder.gated_mlp else 2) * decoder.intermediate_size
    values = decoder.hidden_size * (point.layers * heads + point.mlps * mlp)
    values += decoder.hidden_size * decoder.vocab_size if point.head else 0
    return values * (BYTES[plan.precision] if plan.weights is None else plan.weights.bits / 8)


def _rates(works: Sequence[dict[str, float]], times: Sequence[float], parts: Sequence[str]) -> dict[str, float]:
    """Rates, none negative, that foretell the times with the least squared relative error."""
    if not works:
        raise ValueError("no runs to fit rates to")
    target = np.asarray(times)
    matrix = np.asarray([[work[part] for part in parts] for work in works]) / target[:, None]
    size = np.maximum(np.linalg.norm(matrix, axis=0), 1e-300)
    return dict(zip(parts, (_non_negative(matrix / size, np.ones(len(works))) / size).tolist(), strict=True))


def _non_negative(
    matrix: Float[np.ndarray, "runs parts"], target: Float[np.ndarray, " runs"]
) -> Float[np.ndarray, " parts"]:
    """Least squares, leaving out the most negative part until none is: for a handful of parts as good as any."""
    kept = list(range(matrix.shape[1]))
    while True:
        found = np.linalg.lstsq(matrix[:, kept], target, rcond=1e-9)[0]
        if (found >= 0).all():
            whole = np.zeros(matrix.shape[1])
            whole[kept] = found
            return whole
        kept.pop(int(found.argmin()))
