"""What the products of a decoder are given, as fastv-calibrate saw it: a file beside its calibration.json.

Tensors of `NAME.activations.safetensors`: PRODUCT.mean, .mean_abs, .mean_square, .max_abs, fp32 [inputs], .range,
fp32 [2], and .size, fp32 [1], the geometric mean of rows' root mean squares, which a few large rows hardly move. Means
are of rows that were divided by their own root mean square: an error counts relative to its token, as in a self-test,
else a first token that is a thousand times larger than the others would alone decide. Maxima and ranges are of rows as
they are.
PRODUCT is a linear layer by its name in the decoder (layers.3.mlp.down_proj) or `head`; of layers that share their
input the one that runs first (q_proj for queries, keys and values; gate_proj for gate and up).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file

from fastv_runtime.bundle import sha256
from fastv_runtime.errors import UserError


@dataclass(frozen=True)
class Activation:
    """One product's input over all rows; see above."""

    mean: Float[torch.Tensor, " I"]
    mean_abs: Float[torch.Tensor, " I"]
    mean_square: Float[torch.Tensor, " I"]
    max_abs: Float[torch.Tensor, " I"]
    low: float
    high: float
    size: float | None
    """None in files that an older fastv-calibrate wrote."""


def sidecar_of(calibration: Path) -> Path:
    """Where the activations of a calibration lie."""
    return calibration.with_suffix(".activations.safetensors")


def read_activations(path: Path, digest: str) -> dict[str, Activation]:
    """Activations by product. UserError if the file is missing, or not the one whose sha256 is `digest`."""
    if not path.is_file():
        raise UserError(f"{path}: missing: fastv-calibrate wrote it beside its output: keep the two together")
    if sha256(path) != digest:
        raise UserError(f"{path}: is not of this calibration, its sha256 differs: run fastv-calibrate again")
    return activations_of(load_file(path))


def activations_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, Activation]:
    """Activations by product, of such tensors."""
    names = [name.removesuffix(".range") for name in tensors if name.endswith(".range")]
    return {
        name: Activation(
            mean=tensors[f"{name}.mean"],
            mean_abs=tensors[f"{name}.mean_abs"],
            mean_square=tensors[f"{name}.mean_square"],
            max_abs=tensors[f"{name}.max_abs"],
            low=float(tensors[f"{name}.range"][0]),
            high=float(tensors[f"{name}.range"][1]),
            size=float(tensors[f"{name}.size"]) if f"{name}.size" in tensors else None,
        )
        for name in names
    }
